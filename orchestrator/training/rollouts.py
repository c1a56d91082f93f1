"""Rollouts, possibly ahead of the learner: draw questions, generate groups, score and judge them, a batch per step.

Invariant: no token of a batch was sampled with weights more than `max_staleness` versions older than those that are
trained with it: a step's rollouts start only when few enough earlier steps are left. With 0 they start when the step
before is done: strictly on-policy. Batches are returned in the order of their steps, and hold their questions in the
order of their draws, whichever was answered first.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

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
from protocol.calls import Generate, ScoreGroups
from protocol.rollout import Group, RolloutRequest, Sampling


@dataclass(slots=True)
class Batch:
    """The groups of one step, and its questions without a group."""

    step: int
    judged: list[JudgedGroup] = field(default_factory=list)
    failed: list[tuple[Draw, str, str]] = field(default_factory=list)
    """Questions without a group, each with a one-word reason and a sentence."""
    truncated: list[tuple[Draw, float]] = field(default_factory=list)
    """Questions whose clip was truncated, and by how many seconds."""
    stale: int = 0
    """Number of groups that were too old when the learner took them."""
    unreadable: int = 0
    """Number of groups whose clip the learner could not read."""
    generate_seconds: float = 0.0
    reward_seconds: float = 0.0

    @property
    def draws(self) -> list[Draw]:
        return [g.draw for g in self.judged] + [draw for draw, _, _ in self.failed]


class Rollouts:
    """The batches of a job, started ahead of the learner where `max_staleness` allows it. For one event loop."""

    def __init__(
        self,
        spec: JobSpec,
        train: Sequence[Question],
        state: RunState,
        generate: Generate,
        score: ScoreGroups,
        measured: Mapping[str, SolveRate] | None = None,
    ) -> None:
        """`measured` has solve rates measured before the job, for its curriculum."""
        self._spec, self._state = spec, state
        self._generate, self._score = generate, score
        self._questions = {question.key: question for question in train}
        self.source = source_of(spec, train, state, measured or {})
        # Draws that were in flight at the checkpoint are repeated, under the same numbers.
        self._repeated = deque(state.ledger.in_flight)
        self._started: deque[asyncio.Task[Batch]] = deque()
        self._last_started = state.step
        # A batch may raise the version by more than one; the bound is in versions.
        self._steps_ahead = spec.rollout.max_staleness // spec.learner.loss.updates_per_batch
        self.held: set[Draw] = set()
        """Draws in flight: of batches that were started and not returned yet."""

    async def batch(self, step: int) -> Batch:
        """Return the batch of a step, and start those that may run ahead. Call it for each step in order."""
        last = min(step + self._steps_ahead, self._spec.steps)
        while self._last_started < last:
            self._last_started += 1
            self._started.append(asyncio.ensure_future(self._collect(self._last_started)))
        batch = await self._started[0]
        self._started.popleft()
        self.held.difference_update(batch.draws)
        return batch

    def observe(self, judged: Sequence[JudgedGroup]) -> None:
        """Report to the curriculum, if there is one, how the questions of a step were answered."""
        if self._spec.data.curriculum is not None:
            for g in judged:
                question = g.group.question
                right = sum(is_correct(c.text, question.answer, question.choices) for c in g.group.completions)
                self.source.observe(g.draw.key, right, len(g.group.completions))

    @property
    def full(self) -> bool:
        """True if all batches that may run ahead are done, and any may: rollouts are faster than the learner."""
        return self._steps_ahead > 0 and self.ready >= self._steps_ahead

    @property
    def ready(self) -> int:
        """Number of batches that are done and wait for the learner."""
        return sum(task.done() for task in self._started)

    async def stop(self) -> None:
        """Cancel started batches; their draws stay in flight in the ledger."""
        for task in self._started:
            task.cancel()
        await asyncio.gather(*self._started, return_exceptions=True)
        self._started.clear()

    async def _collect(self, step: int) -> Batch:
        """Collect the batch of a step. Dynamic sampling draws more questions for groups that are not trained on."""
        spec = self._spec
        wanted, batch = spec.rollout.questions_per_step, Batch(step)
        await self._draw_to_judge(wanted, batch)
        if spec.learner.loss.choices.dynamic_sampling:
            for _ in range(spec.rollout.max_refills):
                missing = wanted - sum(g.verdict is Verdict.TRAIN for g in batch.judged)
                if missing:
                    await self._draw_to_judge(missing, batch)
        return batch

    async def _draw_to_judge(self, count: int, batch: Batch) -> None:
        """Draw `count` questions, generate their groups, score and judge them, and add them to `batch`."""
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
        """Return the next draws: first those that were in flight at the checkpoint, then new ones."""
        repeated = [self._repeated.popleft() for _ in range(min(count, len(self._repeated)))]
        draws = repeated + [self._state.ledger.draw(q.key) for q in self.source.draw(count - len(repeated))]
        self.held.update(draws)
        return draws


def source_of(
    spec: JobSpec, questions: Sequence[Question], state: RunState, measured: Mapping[str, SolveRate]
) -> Source:
    """Return the stream of a job's questions, at the position of its state.

    Args:
        measured: by question key, solve rates measured before the job.
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
