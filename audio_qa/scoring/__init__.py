"""Scores as each benchmark counts them, our stricter count beside them, and what can be said of their chance."""
