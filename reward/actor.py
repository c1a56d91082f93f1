"""The reward actor: scores the completions of whole groups.

Invariant: every completion gets exactly one Score, in order. A completion that cannot be scored gets a Score with
`error` set, never a reward of 0.
"""

import math
from collections.abc import Sequence

from protocol.reward import Score
from protocol.rollout import Group
from reward.group_rewards import group_rewards
from reward.judge import Judge
from reward.outcome import Failed, Outcome
from reward.overlong import OVERLONG, overlong_penalty
from reward.registry import BUILT_IN, NAMES
from reward.sandbox import RewardCall, Sandbox, evaluate
from reward.settings import RewardSettings


class RewardActor:
    """Scores groups by the weighted reward functions of its settings. The driver runs it as a Ray actor."""

    def __init__(self, settings: RewardSettings, max_tokens: int) -> None:
        """Start the reward processes, if any function needs them. Raises RewardError for an unusable function.

        Args:
            max_tokens: maximum length of a completion.
        """
        self._weights = dict(settings.functions)
        self._overlong_tokens, self._max_tokens = settings.overlong_tokens, max_tokens
        self._group_rewards = group_rewards(settings)
        self._judge = None if settings.judge is None else Judge(settings.judge)
        self._custom = [name for name in self._weights if name not in NAMES]
        # Built-in functions cannot hang, so they run in this process.
        self._sandbox = (
            Sandbox(
                self._custom,
                allowed_modules=settings.allowed_modules,
                timeout_seconds=settings.timeout_seconds,
                processes=settings.processes,
            )
            if self._custom
            else None
        )

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """Return the Score of every completion: one tuple per group, both in the given order."""
        outcomes = self._outcomes(groups)
        scores = iter(
            [
                self._score({name: outcomes[name][i] for name in self._weights}, len(completion.token_ids))
                for i, completion in enumerate(completion for group in groups for completion in group.completions)
            ]
        )
        return [tuple(next(scores) for _ in group.completions) for group in groups]

    def close(self) -> None:
        """Stop the reward processes."""
        if self._sandbox is not None:
            self._sandbox.close()

    def _outcomes(self, groups: Sequence[Group]) -> dict[str, list[Outcome]]:
        """Return, by reward function, the outcomes of all completions of all groups, in order."""
        found: dict[str, list[Outcome]] = {}
        for name in self._weights:
            if name in BUILT_IN:
                found[name] = [evaluate(BUILT_IN[name], call) for call in _calls(groups, [name])]
            elif name in self._group_rewards:
                found[name] = [reward for group in groups for reward in self._group_rewards[name](group)]
        if self._judge is not None:
            found["judge"] = self._judge.rate(groups)
        if self._sandbox is not None:
            sandboxed = self._sandbox.run(_calls(groups, self._custom))
            for i, name in enumerate(self._custom):
                found[name] = sandboxed[i :: len(self._custom)]
        return found

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


def _calls(groups: Sequence[Group], names: Sequence[str]) -> list[RewardCall]:
    """Return the calls of each function for each completion, completion by completion."""
    return [
        RewardCall(name, group.question, completion.text, group.template)
        for group in groups
        for completion in group.completions
        for name in names
    ]
