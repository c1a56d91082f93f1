"""Inspection of questions and their clips before training."""
