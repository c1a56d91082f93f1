"""Progress on the screen, plots and reports."""
