"""Connections to the service: their limits, and who is at the other end."""
