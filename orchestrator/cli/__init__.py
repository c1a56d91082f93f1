"""The command `earshot`: one module a group of commands; results.py prints."""
