"""The reward actor as the controller calls it, replaced when it dies or hangs.

Invariant: `score` answers every group or raises. Reward functions are pure: what a lost actor was asked is asked again.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from orchestrator.spec import JobSpec
from protocol.reward import Score
from protocol.rollout import Group
from reward.actor import RewardActor

SCORE_SECONDS = 600.0
"""One batch; each call of a function has a deadline of its own within it."""
_BACK_OFF_SECONDS = 1.0


class RewardLostError(RuntimeError):
    """The reward actor died or hung more often than the job allows."""


class RewardHandle:
    """For one event loop; several batches may be scored at once."""

    def __init__(self, spec: JobSpec, on_event: Callable[..., None], *, score_seconds: float = SCORE_SECONDS) -> None:
        self._spec, self._on_event, self._seconds = spec, on_event, score_seconds
        self._restarts = 0
        self._actor = self._new_actor()

    async def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """The scores of each group's completions, both in the order given."""
        while True:
            actor = self._actor
            try:
                async with asyncio.timeout(self._seconds):
                    return await actor.score.remote(list(groups))  # type: ignore[no-any-return]
            except (RayActorError, TimeoutError) as error:
                await self._replace(actor, error)

    async def _replace(self, lost: Any, error: BaseException) -> None:
        """A new actor in place of one that was lost, unless another batch has seen to that already."""
        if lost is not self._actor:
            return
        if "creation task" in str(error):
            # It never came up, because a user's module does not import, say: another one would not either.
            raise error
        self._restarts += 1
        cause = f"no scores within {self._seconds:.0f} s" if isinstance(error, TimeoutError) else str(error)
        if self._restarts > self._spec.reward.max_restarts:
            raise RewardLostError(f"the reward actor was lost {self._restarts} times, at last: {cause}") from error
        self._on_event("reward_restarted", restart=self._restarts, cause=cause)
        ray.kill(lost)
        self._actor = self._new_actor()
        await asyncio.sleep(_BACK_OFF_SECONDS)

    async def stop(self) -> None:
        try:
            # One that is dead has nothing left to close.
            with contextlib.suppress(RayActorError):
                await self._actor.close.remote()
        finally:
            ray.kill(self._actor)

    def _new_actor(self) -> Any:
        actor = ray.remote(RewardActor).options(num_cpus=1, max_restarts=0)
        return actor.remote(self._spec.reward, self._spec.rollout.max_tokens)
