"""Frozen, typed messages between the actors, and the base class of all settings."""
