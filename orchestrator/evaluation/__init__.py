"""Evaluate a model on questions; pure functions."""
