"""The handle of the reward actor, which is replaced when it dies or hangs.

Invariant: `score` returns scores for every group or raises. Reward functions are pure: a lost actor's batch is scored
again. Completions that could not be scored are an event; too many batches in a row without any score end the job.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from audio_qa.errors import EarshotError
from orchestrator.cluster.placement import Bundles
from orchestrator.cluster.reservation import Reservation
from orchestrator.driver.room import Room
from orchestrator.job.spec import JobSpec
from orchestrator.run.events import EventKind
from protocol.reward import Score
from protocol.rollout import Group
from reward.actor import RewardActor

SCORE_SECONDS = 600.0
"""Deadline of one batch; each call of a function has its own within it. A judge's deadline is added."""
_SHOWN_CAUSES = 3
_BACK_OFF_SECONDS = 1.0
_PART = "reward"


class RewardLostError(EarshotError):
    """The reward actor died or hung more often than the job allows."""


class UnscoredError(EarshotError):
    """Too many batches in a row without a completion that could be scored."""


class RewardHandle:
    """The reward actor of a job. For one event loop; several batches may be scored concurrently."""

    def __init__(
        self,
        spec: JobSpec,
        on_event: Callable[..., None],
        *,
        room: Room | None = None,
        score_seconds: float | None = None,
    ) -> None:
        """
        Args:
            room: the job's room on the cluster, which the actor has before the rollout workers; default: it waits.
            score_seconds: deadline of one batch; the default is long enough for the job's judge.
        """
        self._spec, self._on_event, self._room = spec, on_event, room
        self._reservation: Reservation | None = None
        judge = spec.reward.judge
        # The actor scores batches sequentially: all batches started ahead may have to wait for a judge.
        judge_seconds = 0.0 if judge is None else judge.deadline_seconds * (spec.rollout.max_staleness + 1)
        self._seconds = SCORE_SECONDS + judge_seconds if score_seconds is None else score_seconds
        self._restarts = 0
        self._unscored_in_row = 0
        self._actor = self._new_actor()

    async def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """Return the scores of each group's completions, both in the given order.

        Raises:
            RewardLostError: the actor died or hung more often than the job allows.
            UnscoredError: no completion of too many batches in a row could be scored.
        """
        while True:
            actor = self._actor
            try:
                async with asyncio.timeout(self._seconds):
                    scores: list[tuple[Score, ...]] = await actor.score.remote(list(groups))
            except (RayActorError, TimeoutError) as error:
                await self._replace(actor, error)
            else:
                self._record_unscored([score for group in scores for score in group])
                return scores

    def _record_unscored(self, scores: Sequence[Score]) -> None:
        """Record completions that could not be scored, and raise UnscoredError if there are only such ones."""
        causes = Counter(score.error for score in scores if score.error is not None)
        unscored = causes.total()
        if unscored:
            shown = [cause for cause, _ in causes.most_common(_SHOWN_CAUSES)]
            self._on_event(EventKind.UNSCORED, completions=unscored, of=len(scores), causes=shown)
        if not scores:
            return
        self._unscored_in_row = self._unscored_in_row + 1 if unscored == len(scores) else 0
        if self._unscored_in_row >= self._spec.reward.max_unscored_in_row:
            raise UnscoredError(
                f"no completion of {self._unscored_in_row} batches in a row could be scored "
                f"(reward.max_unscored_in_row); last error: {causes.most_common(1)[0][0]}"
            )

    async def _replace(self, lost: Any, error: BaseException) -> None:
        """Replace a lost actor with a new one, unless another batch has already done so."""
        if lost is not self._actor:
            return
        if "creation task" in str(error):
            # It never started, for example because a user's module does not import. Neither would another one.
            raise error
        self._restarts += 1
        cause = f"no scores within {self._seconds:.0f} s" if isinstance(error, TimeoutError) else str(error)
        if self._restarts > self._spec.reward.max_restarts:
            raise RewardLostError(f"the reward actor was lost {self._restarts} times; last cause: {cause}") from error
        self._on_event(EventKind.REWARD_RESTARTED, restart=self._restarts, cause=cause)
        ray.kill(lost)
        if self._reservation is not None:
            self._reservation.cancel()
        self._actor = self._new_actor()
        await asyncio.sleep(_BACK_OFF_SECONDS)
        await self.wait_for_room()

    async def wait_for_room(self) -> None:
        """Return once the actor has its room on the cluster, or has waited long enough to be called anyway."""
        if self._room is None or self._reservation is None:
            return
        if not await self._room.wait(_PART, self._reservation, self._seconds):
            self._room.release(_PART)

    async def stop(self) -> None:
        """Stop the actor."""
        try:
            # A dead actor has nothing to close.
            with contextlib.suppress(RayActorError):
                await self._actor.close.remote()
        finally:
            ray.kill(self._actor)

    def _new_actor(self) -> Any:
        options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0}
        if self._room is not None:
            self._reservation = self._room.reserve(_PART, Bundles(({"CPU": 1},)))
            options["scheduling_strategy"] = self._reservation.place(0)
        actor = ray.remote(RewardActor).options(**options)
        return actor.remote(self._spec.reward, self._spec.rollout.max_tokens)
