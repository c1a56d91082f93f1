"""The event kinds and followed files of a run."""

ATTEMPT = "attempt"
"""The kind of event with which a driver under the service begins: `submission_id`, `pid`."""


PREEMPTION = "preemption"
"""Who sent the commands that belong to a preemption."""


EVENTS = "events.jsonl"
LOG = "driver.log"
"""What the drivers of a run write to stdout and stderr, one after the other."""
