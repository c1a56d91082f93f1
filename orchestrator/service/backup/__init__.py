"""Back up the database and the run directories as one folder, and restore them."""
