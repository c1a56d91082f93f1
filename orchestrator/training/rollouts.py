"""The rollouts of a job, ahead of the learner: questions drawn, answered, scored and judged, a batch for each step.

Invariant: rollouts of a step begin when the learner has done all but the last few of the steps before it, so few that
no token of them was sampled with weights more than `max_staleness` versions older than those they are learnt with. With
0 a step's rollouts begin when the step before is done: strictly on-policy. Batches are handed out in the order of their
steps, and hold their questions in the order of their draws, whoever was faster.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from audio_qa.answer import is_correct
from audio_qa.question import Question
from orchestrator.job.sections.data import CurriculumOrder
from orchestrator.job.spec import JobSpec
from orchestrator.questions.curriculum import LearnableSource, easy_first
from orchestrator.questions.ledger import Draw
from orchestrator.questions.solve_rates import SolveRate
from orchestrator.questions.source import QuestionSource, Source, sample_seed
from orchestrator.training.batch import JudgedGroup, Verdict, judge
from orchestrator.training.state import RunState
from protocol.rollout import FailedQuestion, Group, RolloutRequest, Sampling

Generate = Callable[[Sequence[RolloutRequest], Sampling], Awaitable[list[Group | FailedQuestion]]]
Scorer = Callable[[list[Group]], Any]
"""Calls the reward actor and returns an awaitable of one tuple of scores a group."""


@dataclass(slots=True)
class Batch:
    """What one step has to learn from."""

    step: int
    judged: list[JudgedGroup] = field(default_factory=list)
    failed: list[tuple[Draw, str, str]] = field(default_factory=list)
    """Questions that no group came of, each with a reason in one word and a sentence."""
    truncated: list[tuple[Draw, float]] = field(default_factory=list)
    """Questions whose clip was cut, and by how many seconds."""
    stale: int = 0
    """Groups that were too old when the learner took them."""
    unreadable: int = 0
    """Groups whose clip the learner could not read."""
    generate_seconds: float = 0.0
    reward_seconds: float = 0.0

    @property
    def draws(self) -> list[Draw]:
        return [g.draw for g in self.judged] + [draw for draw, _, _ in self.failed]


class Rollouts:
    """Batches of a job, begun ahead. Its coroutines run on the loop of whoever awaits `batch`."""

    def __init__(
        self,
        spec: JobSpec,
        train: Sequence[Question],
        state: RunState,
        generate: Generate,
        score: Scorer,
        measured: Mapping[str, SolveRate] | None = None,
    ) -> None:
        """`measured` has solve rates from before the job, for its curriculum."""
        self._spec, self._state = spec, state
        self._generate, self._score = generate, score
        self._questions = {question.key: question for question in train}
        self.source = source_of(spec, train, state, measured or {})
        # What was in flight when the checkpoint was made is asked again, under the same numbers.
        self._again = deque(state.ledger.in_flight)
        self._ahead: deque[asyncio.Task[Batch]] = deque()
        self._begun = state.step
        # A batch may take several versions further; the bound is on versions.
        self._steps_ahead = spec.rollout.max_staleness // spec.learner.loss.updates_per_batch
        self.held: set[Draw] = set()
        """Draws that are in flight here: of batches that were begun and not handed out."""

    async def batch(self, step: int) -> Batch:
        """The batch of a step; those that may already begin are begun. Steps must be asked for in order."""
        last = min(step + self._steps_ahead, self._spec.steps)
        while self._begun < last:
            self._begun += 1
            self._ahead.append(asyncio.ensure_future(self._collect(self._begun)))
        batch = await self._ahead[0]
        self._ahead.popleft()
        self.held.difference_update(batch.draws)
        return batch

    def observe(self, judged: Sequence[JudgedGroup]) -> None:
        """Tell the curriculum, if there is one, how the questions of a step were answered."""
        if self._spec.data.curriculum is not None:
            for g in judged:
                right = sum(is_correct(c.text, g.group.question.answer) for c in g.group.completions)
                self.source.observe(g.draw.key, right, len(g.group.completions))

    @property
    def full(self) -> bool:
        """Whether all batches that may be begun ahead are done, and there is any to be begun: rollouts are faster."""
        return self._steps_ahead > 0 and self.ready >= self._steps_ahead

    @property
    def ready(self) -> int:
        """Batches that are done and wait for the learner."""
        return sum(task.done() for task in self._ahead)

    async def stop(self) -> None:
        """Give up what was begun; its questions stay in flight in the ledger."""
        for task in self._ahead:
            task.cancel()
        await asyncio.gather(*self._ahead, return_exceptions=True)
        self._ahead.clear()

    async def _collect(self, step: int) -> Batch:
        """The whole batch of a step. With dynamic sampling others are drawn in place of groups that teach nothing."""
        spec = self._spec
        wanted, batch = spec.rollout.questions_per_step, Batch(step)
        await self._round(wanted, batch)
        if spec.learner.loss.choices.dynamic_sampling:
            for _ in range(spec.rollout.max_refills):
                missing = wanted - sum(g.verdict is Verdict.TRAIN for g in batch.judged)
                if missing:
                    await self._round(missing, batch)
        return batch

    async def _round(self, count: int, batch: Batch) -> None:
        """Draw some questions, have them answered, and judge the answers."""
        spec = self._spec
        draws = self._draw(count)
        requests = [
            RolloutRequest(self._questions[draw.key], spec.data.prompt, sample_seed(spec.seed, draw.number))
            for draw in draws
        ]
        sampling = Sampling(spec.rollout.group_size, spec.rollout.max_tokens, spec.rollout.temperature)
        started = perf_counter()
        answers = await self._generate(requests, sampling)
        generated = perf_counter()
        groups: list[tuple[Draw, Group]] = []
        for draw, answer in zip(draws, answers, strict=True):
            if not isinstance(answer, Group):
                batch.failed.append((draw, str(answer.reason), answer.detail))
                continue
            groups.append((draw, answer))
            if answer.truncated_seconds:
                batch.truncated.append((draw, answer.truncated_seconds))
        scores = await self._score([group for _, group in groups])
        batch.judged += [
            judge(draw, group, group_scores, spec.learner)
            for (draw, group), group_scores in zip(groups, scores, strict=True)
        ]
        batch.generate_seconds += generated - started
        batch.reward_seconds += perf_counter() - generated

    def _draw(self, count: int) -> list[Draw]:
        """The next draws: first those that a checkpoint held in flight, then new ones."""
        again = [self._again.popleft() for _ in range(min(count, len(self._again)))]
        draws = again + [self._state.ledger.draw(q.key) for q in self.source.draw(count - len(again))]
        self.held.update(draws)
        return draws


def source_of(
    spec: JobSpec, questions: Sequence[Question], state: RunState, measured: Mapping[str, SolveRate]
) -> Source:
    """Where a job's questions come from, from the place on where its state is.

    Args:
        measured: by question key, solve rates from before the job.
    """
    section = spec.data.curriculum
    if section is None:
        return QuestionSource(questions, seed=spec.seed, shuffle=spec.data.shuffle, position=state.position)
    if section.order is CurriculumOrder.EASY_FIRST:
        ordered = easy_first(questions, measured)
        return QuestionSource(ordered, seed=spec.seed, shuffle=False, position=state.position)
    return LearnableSource(
        questions,
        seed=spec.seed,
        uniform=section.uniform,
        measured=measured,
        running=state.solve_rates,
        position=state.position,
    )
