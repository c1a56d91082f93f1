"""A run's files: job file, metrics, samples, events, commands and checkpoints."""
