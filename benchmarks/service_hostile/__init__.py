"""Hostile requests of two users to the service, and what others notice of them."""
