"""The two calls that a training loop makes of rollout workers and reward actor, as types of functions."""

from collections.abc import Awaitable, Callable, Sequence

from protocol.reward import Score
from protocol.rollout import Answer, Group, RolloutRequest, Sampling

Generate = Callable[[Sequence[RolloutRequest], Sampling], Awaitable[list[Answer]]]
"""Returns one answer to each request, in their order."""
ScoreGroups = Callable[[Sequence[Group]], Awaitable[list[tuple[Score, ...]]]]
"""Returns the G scores of each group, in the order of groups and completions."""
