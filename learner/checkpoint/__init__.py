"""Save and restore training state; export Hugging Face checkpoints."""
