"""Turn a batch into optimizer steps."""
