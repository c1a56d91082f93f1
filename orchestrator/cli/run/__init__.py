"""Commands that run jobs and score results in the foreground."""
