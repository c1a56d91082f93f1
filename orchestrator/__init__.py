"""Jobs: specification, training loops, evaluation, the service, and the command line."""
