"""Supervised training on correct answers: the steps of supervised jobs, and the warm start of others.

Invariant: every question drawn is trained on, or recorded as failed because its clip cannot be read.
"""

from collections.abc import Sequence

from audio_qa.prompt import solution_text
from audio_qa.question import Question
from learner.messages import PhaseSettings
from orchestrator.job.sections.supervised import WarmStartSection
from orchestrator.questions.source import QuestionSource, Source
from orchestrator.run.events import EventKind
from orchestrator.training.loop import NONFINITE_DETAIL, Parts, TrainingLoop
from orchestrator.training.step_metrics import Stopwatch, supervised_metrics
from protocol.training import Learned, SupervisedExample


class SupervisedLoop(TrainingLoop):
    """The steps of a supervised job. The rollout workers only answer the held-out questions."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        spec = parts.spec
        self._source = QuestionSource(
            parts.train, seed=spec.seed, shuffle=spec.data.shuffle, position=parts.state.position
        )

    @property
    def source(self) -> Source:
        return self._source

    def phase(self) -> PhaseSettings:
        return PhaseSettings(self.spec.learner.optimizer, self.spec.steps)

    async def run_step(self, step: int) -> None:
        spec, watch, ledger = self.spec, Stopwatch(), self.state.ledger
        questions = self.source.draw(spec.supervised.batch_size)
        draws = [ledger.draw(question.key) for question in questions]
        self.progress.phase("learning")
        with watch.phase("learn"):
            learned, unreadable = await learn_answers(self, questions)
        updated = learned.metrics.get("learner/nonfinite", 0) == 0
        for i, draw in enumerate(draws):
            if i in unreadable:
                self.record_failure(draw, step, "audio", unreadable[i])
            elif updated:
                ledger.trained(draw)
            else:
                self.record_failure(draw, step, "nonfinite", NONFINITE_DETAIL)
        ledger.check(held=())
        metrics = supervised_metrics(
            step=step,
            epoch=self.source.epoch,
            questions=len(questions),
            failed=len(unreadable),
            learned=learned.metrics,
            workers_alive=self.pool.alive,
            watch=watch,
        )
        await self.record_step(step, metrics, learned)

    async def before_evaluation(self) -> None:
        if self.held_out:
            self.progress.phase("syncing")
            await self.sync_weights()


async def learn_answers(loop: TrainingLoop, questions: Sequence[Question]) -> tuple[Learned, dict[int, str]]:
    """Run one supervised step on the correct answers.

    Returns what the learner did, and why a question's clip could not be read, by its place in `questions`.
    """
    prompt = loop.spec.data.prompt
    unreadable = await loop.learner.prepare([(q, prompt) for q in questions])
    examples = [
        SupervisedExample(q, prompt, solution_text(q.answer, prompt))
        for i, q in enumerate(questions)
        if i not in unreadable
    ]
    await loop.gpus.learning()
    return await loop.learner.supervise(examples), unreadable


async def warm_start(loop: TrainingLoop, folder: str, warm: WarmStartSection) -> None:
    """Run supervised steps on a few training questions, starting from the checkpoint in `folder`."""
    spec = loop.spec
    await loop.gpus.learning()
    await loop.learner.start_phase(folder, PhaseSettings(warm.optimizer, warm.steps))
    await loop.try_checkpoint()
    chosen = QuestionSource(loop.train, seed=spec.seed + 1, shuffle=spec.data.shuffle).draw(
        min(warm.questions, len(loop.train))
    )
    source = QuestionSource(chosen, seed=spec.seed, shuffle=True)
    for step in range(1, warm.steps + 1):
        questions = source.draw(warm.batch_size)
        learned, unreadable = await learn_answers(loop, questions)
        for i, problem in unreadable.items():
            loop.run_dir.append_event(
                EventKind.SKIPPED_QUESTION, question=questions[i].key, reason="audio", detail=problem
            )
        loop.progress.phase(f"warm start {step}/{warm.steps}")
        loop.check_finite(step, learned)
        if step == warm.steps or step % 10 == 0:
            loop.run_dir.append_event(
                EventKind.WARM_START, step=step, of=warm.steps, loss=learned.metrics.get("loss/total")
            )
