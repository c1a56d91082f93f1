"""The Ray actor around a learner rank. Importing this module imports neither torch nor DeepSpeed."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from audio_qa.audio import TooLong
from learner.errors import BatchTooLargeError, LearnerError, LearnerLostError, LearnerMemoryError
from learner.settings import LearnerSettings

if TYPE_CHECKING:
    from learner.rank import LearnerRank

BESIDE = "beside"
"""Concurrency group of the calls that do not wait for the running one."""


class LearnerActor:
    """One rank in its own process. Its calls run one after another in one thread, except those by `beside`."""

    def __init__(self, rank: int, ranks: int, settings: LearnerSettings, too_long: TooLong) -> None:
        self._arguments = rank, ranks, settings, too_long
        self._rank: LearnerRank | None = None

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the rank, after earlier calls have ended. The first call creates the rank."""
        if self._rank is None:
            # These imports take seconds and gigabytes, so only the actor's process pays for them; and not in its
            # constructor, so that the time for the start does not begin before the process exists.
            from learner.rank import LearnerRank  # noqa: PLC0415

            self._rank = LearnerRank(*self._arguments)
        return getattr(self._rank, method)(*arguments)

    @ray.method(concurrency_group=BESIDE)  # type: ignore[untyped-decorator]
    def beside(self, method: str, *arguments: object) -> Any:
        """Call a method of the rank in another thread, while a call may be running. Return None without a rank."""
        return None if self._rank is None else getattr(self._rank, method)(*arguments)


def failure_of(errors: Sequence[BaseException], method: str) -> BaseException:
    """Return the one error that describes the failures of several ranks in a call."""
    for error in errors:
        if isinstance(error, RayActorError):
            return LearnerLostError(f"a learner rank died in '{method}': {error}")
    for error in errors:
        if isinstance(error, RayTaskError):
            cause = error.cause
            text = f"a learner rank failed in '{method}': {type(cause).__name__}: {cause}"
            too_large = isinstance(cause, BatchTooLargeError)
            return LearnerMemoryError(text, cause.tokens) if too_large else LearnerError(text)
        if isinstance(error, RayError):
            return LearnerLostError(f"a learner rank was lost in '{method}': {error}")
    return errors[0]


@dataclass(slots=True, eq=False)
class Call:
    """A call of the ranks."""

    method: str
    references: Sequence[Any]
    """The result of each rank, as a reference of Ray."""
    deadline: float
    """By the event loop's clock."""


async def result_of(reference: Any) -> Any:
    """Return the result of one rank, or raise its error."""
    return await reference


async def end_of(reference: Any) -> None:
    """Return when the call of one rank has ended, in whatever way."""
    with contextlib.suppress(RayError):
        await reference
