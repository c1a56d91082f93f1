"""Supervised training on right answers: a job's steps where its method is supervised, and the warm start of others.

Invariant: every question drawn is trained on, or recorded as failed because its clip cannot be read.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from audio_qa.prompt import solution_text
from audio_qa.question import Question
from learner.phase import TrainingPhase
from orchestrator.job.sections.supervised import WarmStartSection
from orchestrator.questions.source import QuestionSource
from orchestrator.training.loop import Loop
from orchestrator.training.step_metrics import Stopwatch, supervised_metrics
from protocol.training import Learned, SupervisedExample


@dataclass(slots=True, kw_only=True)
class SupervisedLoop(Loop):
    """One job of supervised fine-tuning. The rollout workers only answer the held-out questions."""

    async def go(self, folder: str, resume: str | None, ready: Callable[[], Awaitable[None]]) -> None:
        spec, state = self.spec, self.state
        source = QuestionSource(self.train, seed=spec.seed, shuffle=spec.data.shuffle, position=state.position)
        await self.learner.begin(folder, TrainingPhase(spec.learner.optimizer, spec.steps), resume)
        await ready()
        if state.step == 0:
            await self.evaluate(0)
        for step in range(state.step + 1, spec.steps + 1):
            await self.control.between_steps()
            await self._step(step, source)
            state.step, state.position, state.weight_version = step, source.position, self.learner.weight_version
            await self.finish_saving(wait=False)
            if self.due(spec.checkpoint.every, step) or self.control.checkpoint_wanted():
                await self.save(step)
        await self.finish_saving()

    async def _step(self, step: int, source: QuestionSource) -> None:
        spec, watch, ledger = self.spec, Stopwatch(), self.state.ledger
        questions = source.draw(spec.supervised.batch_size)
        draws = [ledger.draw(question.key) for question in questions]
        self.progress.phase("learning")
        with watch.phase("learn"):
            learned, unreadable = await show_answers(self, questions)
        made = learned.metrics.get("learner/nonfinite", 0) == 0
        for i, draw in enumerate(draws):
            if i in unreadable:
                self.fail(draw, step, "audio", unreadable[i])
            elif made:
                ledger.trained(draw)
            else:
                self.fail(draw, step, "nonfinite", "the update was stopped: a loss or gradient was not finite")
        ledger.check(held=())
        metrics = supervised_metrics(
            step=step,
            epoch=source.epoch,
            questions=len(questions),
            failed=len(unreadable),
            learned=learned.metrics,
            workers_alive=self.pool.alive,
            watch=watch,
        )
        self.state.accuracy = None
        if self.due(spec.evaluation.every, step):
            self.progress.phase("syncing")
            await self.sync()
            metrics |= await self.evaluate(step)
        self.run.append_metrics(metrics)
        self.progress.step({k: v for k, v in metrics.items() if v is not None}, spec.steps)
        self.watch_finite(step, learned)


async def show_answers(loop: Loop, questions: Sequence[Question]) -> tuple[Learned, dict[int, str]]:
    """One supervised step on the right answers, and which of the questions' clips could not be read, and why."""
    prompt = loop.spec.data.prompt
    unreadable = await loop.learner.prepare([(q, prompt) for q in questions])
    examples = [
        SupervisedExample(q, prompt, solution_text(q.answer, prompt))
        for i, q in enumerate(questions)
        if i not in unreadable
    ]
    return await loop.learner.supervise(examples), unreadable


async def warm_start(loop: Loop, folder: str, warm: WarmStartSection) -> None:
    """Supervised steps on right answers to a few training questions, starting from the checkpoint in `folder`."""
    spec = loop.spec
    await loop.learner.begin(folder, TrainingPhase(warm.optimizer, warm.steps))
    chosen = QuestionSource(loop.train, seed=spec.seed + 1, shuffle=spec.data.shuffle).draw(
        min(warm.questions, len(loop.train))
    )
    source = QuestionSource(chosen, seed=spec.seed, shuffle=True)
    for step in range(1, warm.steps + 1):
        questions = source.draw(warm.batch_size)
        learned, unreadable = await show_answers(loop, questions)
        for i, problem in unreadable.items():
            loop.run.append_event("skipped_question", question=questions[i].key, reason="audio", detail=problem)
        loop.progress.phase(f"warm start {step}/{warm.steps}")
        loop.watch_finite(step, learned)
        if step == warm.steps or step % 10 == 0:
            loop.run.append_event("warm_start", step=step, of=warm.steps, loss=learned.metrics.get("loss/total"))
