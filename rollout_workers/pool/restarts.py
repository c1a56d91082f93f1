"""How many workers are replaced in a job, and how soon."""

from rollout_workers.errors import RolloutError
from rollout_workers.pool.member import Member

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 60.0


class Restarts:
    """The budget of a job. What fails again and again at one place is given more time between attempts."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit

    def next(self, member: Member, cause: str) -> float:
        """Count a loss; the seconds to wait before its replacement. Raises RolloutError where there is none left."""
        self.count += 1
        if self.count > self._limit:
            raise RolloutError(
                member.name, f"{cause} (the last of {self.count} losses; rollout.limits.max_restarts is {self._limit})"
            )
        member.restarts += 1
        pause = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0**member.losses_in_row)
        member.losses_in_row += 1
        return pause
