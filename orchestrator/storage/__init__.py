"""Runs behind URLs: a run works on a local directory, and what it has done is stored where any node finds it."""
