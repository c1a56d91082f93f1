"""What can be said of questions and their clips before anything is trained on them."""
