"""The reward actor: scores the completions of whole groups.

Invariant: every completion gets exactly one Score, in order. A completion that cannot be scored gets one with `error`
set, never a reward of 0 in its place.
"""

import math
from collections.abc import Sequence

from protocol.reward import Score
from protocol.rollout import Group
from reward.overlong import OVERLONG, overlong_penalty
from reward.registry import BUILT_IN
from reward.sandbox import Call, Failed, Outcome, Sandbox, evaluate
from reward.settings import RewardSettings


class RewardActor:
    """Scores groups by the weighted reward functions of its settings. The controller makes it a Ray actor."""

    def __init__(self, settings: RewardSettings, max_tokens: int) -> None:
        """Start the reward processes, if any function needs them; RewardError if one cannot be had.

        Args:
            max_tokens: the longest completion.
        """
        self._weights = dict(settings.functions)
        self._overlong_tokens, self._max_tokens = settings.overlong_tokens, max_tokens
        custom = [name for name in self._weights if name not in BUILT_IN]
        # Built-in functions cannot hang: they are spared the way through another process.
        self._sandbox = (
            Sandbox(
                custom,
                allowed_modules=settings.allowed_modules,
                timeout_seconds=settings.timeout_seconds,
                processes=settings.processes,
            )
            if custom
            else None
        )

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """The Score of every completion: one tuple per group, as long as the group, both in the order given."""
        calls = [
            Call(name, group.question, completion.text, group.template)
            for group in groups
            for completion in group.completions
            for name in self._weights
        ]
        outcomes = iter(self._outcomes(calls))
        return [
            tuple(
                self._score({name: next(outcomes) for name in self._weights}, len(completion.token_ids))
                for completion in group.completions
            )
            for group in groups
        ]

    def close(self) -> None:
        """End the reward processes."""
        if self._sandbox is not None:
            self._sandbox.close()

    def _outcomes(self, calls: Sequence[Call]) -> list[Outcome]:
        custom = [call for call in calls if call.function not in BUILT_IN]
        sandboxed = iter(self._sandbox.run(custom) if self._sandbox is not None else ())
        return [
            evaluate(BUILT_IN[call.function], call) if call.function in BUILT_IN else next(sandboxed) for call in calls
        ]

    def _score(self, outcomes: dict[str, Outcome], length: int) -> Score:
        rewards = {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, Failed)}
        errors = [f"{name}: {outcome.reason}" for name, outcome in outcomes.items() if isinstance(outcome, Failed)]
        total = sum((self._weights[name] * reward for name, reward in rewards.items()), start=0.0)
        if self._overlong_tokens:
            rewards[OVERLONG] = overlong_penalty(length, self._max_tokens, self._overlong_tokens)
            total += rewards[OVERLONG]
        if not errors and not math.isfinite(total):
            errors.append(f"the weighted sum of the rewards is {total}")
        return Score(rewards, 0.0, "; ".join(errors)) if errors else Score(rewards, total)
