"""The limits of the checks of jobs. Waiting and check together end before a client gives up, after 30 s."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckLimits:
    """Limits of the check of a job, and how many checks run at once. The defaults suit 200,000 questions."""

    memory_bytes: int = 2**29
    """Address space of a process that checks, besides that of its modules."""
    cpu_seconds: int = 20
    """Processor time of one check."""
    seconds: float = 20
    """Time of one check."""
    at_once: int = 3
    """Checks at once, over all users; each has a process."""
    at_once_per_user: int = 2
    waiting_per_user: int = 16
    """Jobs of one user that may wait for their check; further ones are refused at once."""
    waiting_seconds: float = 5
    """Longest time to wait for a check to begin."""
