"""The files of a run directory that are followed."""

EVENTS = "events.jsonl"
LOG = "driver.log"
"""What the driver writes to stdout and stderr."""
