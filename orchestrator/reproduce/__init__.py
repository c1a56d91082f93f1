"""The rows of the paper's table, run again and put into a table."""
