"""Logs, traces and counters of the service."""
