"""The exit codes of a driver, on which it depends whether it is started again."""

SUCCEEDED = 0
FAILED = 1
"""The job failed for a reason of its own, which its events tell; another attempt would fail likewise."""
BAD_INPUT = 2
"""The job's file, model or questions; nothing was started."""
LOST = 75
"""What the driver stands on went away: its cluster, its storage, or the lock on its run directory. Another
attempt may succeed."""
CANCELLED = 130
"""By SIGINT or SIGTERM."""
