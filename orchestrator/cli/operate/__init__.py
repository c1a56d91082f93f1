"""Commands that operate the service and its cluster."""
