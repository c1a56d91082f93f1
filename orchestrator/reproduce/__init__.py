"""The rows of the paper's table, run and written down again."""
