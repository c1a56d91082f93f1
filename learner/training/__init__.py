"""Training: turn a batch into optimizer steps."""
