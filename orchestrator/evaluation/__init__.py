"""Ask a model questions and count the answers; pure functions."""
