"""The exit codes of a driver. The service decides by them whether to start another attempt."""

SUCCEEDED = 0
FAILED = 1
"""The job failed for a reason that its events name; another attempt would fail, too."""
BAD_INPUT = 2
"""The job's file, model or questions are invalid; nothing was started."""
LOST = 75
"""The driver lost its cluster or its storage. Another attempt may succeed."""
NOT_BEGUN = 76
"""The driver did not reach its cluster, or an earlier driver still held the run directory. Another attempt may succeed,
and is not one of the job's restarts."""
CANCELLED = 130
"""Stopped by SIGINT or SIGTERM."""
