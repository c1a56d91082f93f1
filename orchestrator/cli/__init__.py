"""The command line, `earshot`: one module for each command; main.py lists them."""
