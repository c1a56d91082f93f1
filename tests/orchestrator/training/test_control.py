"""Pauses and checkpoints that were requested come, also after the learner was lost, or fail with the reason."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from audio_qa.question import Question
from learner.errors import LearnerLostError
from learner.messages import PhaseSettings
from orchestrator.display.progress import make_progress
from orchestrator.job.spec import JobSpec
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.history import history_of
from orchestrator.run.mailbox import Mailbox, send
from orchestrator.training.control import CommandRunner, Control
from orchestrator.training.loop import Parts, TrainingLoop
from orchestrator.training.state import RunState

STEPS = 4
SPEC = JobSpec.model_validate(
    {"model": {"path": "m"}, "data": {"train": "t"}, "steps": STEPS, "checkpoint": {"every": 0, "keep_last": 0}}
)


class Learner:
    """A learner whose checkpoint is one file; it is lost where `lost` says."""

    weight_version = 0

    def __init__(self) -> None:
        self.lost = ""

    async def start_phase(self, *_) -> None:
        """There is no model."""

    async def save(self, folder: str, *, state: bool) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"w")
        self._fail("save")

    async def is_saving(self) -> bool:
        return False

    async def wait_saved(self) -> None:
        self._fail("wait_saved")

    def _fail(self, name: str) -> None:
        if name == self.lost:
            self.lost = ""
            raise LearnerLostError(f"lost in {name}")


class Steps(TrainingLoop):
    """A loop whose step is what the test does."""

    def __init__(self, parts: Parts, step) -> None:
        super().__init__(parts)
        self._step = step

    @property
    def source(self):
        return SimpleNamespace(position=self.state.step)

    def phase(self) -> PhaseSettings:
        return PhaseSettings(self.spec.learner.optimizer, STEPS)

    async def run_step(self, step: int) -> None:
        await self._step(step)


class Job:
    def __init__(self, path: Path) -> None:
        self.run = RunDirectory.create(path, "name: test\n")
        self.learner, self.checkpoints = Learner(), Checkpoints(self.run, keep_last=0, keep_best=False)
        self.driver()

    def driver(self) -> None:
        """Start as another driver does."""
        self.control = Control(self.run, history_of(self.run.events()))
        self.runner = CommandRunner(Mailbox(self.run), self.run, None, self.control)

    def tell(self, kind: CommandKind) -> str:
        identifier = send(self.run, kind)
        self.runner._waiting += self.runner._mailbox.take()
        self.runner.carry_out()
        return identifier

    async def play(self, step) -> None:
        async def ready() -> None:
            """The workers are up."""

        parts = Parts(
            spec=SPEC, train=[Question("d", 0, "0", "0.wav", "?", ("a", "b"), "a")], held_out=[], pool=None,
            learner=self.learner, run_dir=self.run, checkpoints=self.checkpoints, progress=make_progress("quiet"),
            state=RunState(step=self.checkpoints.latest() or 0), control=self.control,
        )  # fmt: skip
        async with asyncio.timeout(20):
            await Steps(parts, step).run("folder", None, ready)

    def saved(self) -> list[tuple[int, list[str]]]:
        return [(e["step"], e["commands"]) for e in self.run.events() if e["kind"] == "checkpoint"]

    def failed(self) -> dict[str, str]:
        return {e["id"]: e["reason"] for e in self.run.events() if e["kind"] == "command_failed"}


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(tmp_path / "run")


async def nothing(step: int) -> None:
    """A step."""


def at(number: int, action):
    async def step(number_now: int) -> None:
        if number_now == number:
            action()

    return step


@pytest.mark.parametrize("lost", ["", "save", "wait_saved"])
def test_a_checkpoint_comes_once_also_if_the_learner_is_lost_meanwhile(job, lost):
    sent = []

    def ask():
        sent.append(job.tell(CommandKind.CHECKPOINT))
        job.learner.lost = lost

    if lost:
        with pytest.raises(LearnerLostError):
            asyncio.run(job.play(at(2, ask)))
        assert job.saved() == []
        asyncio.run(job.play(nothing))
        assert job.saved() == [(1, sent), (STEPS, [])]
    else:
        asyncio.run(job.play(at(2, ask)))
        assert job.saved() == [(2, sent), (STEPS, [])]
    assert history_of(job.run.events()).due == {}


def test_a_checkpoint_of_a_driver_that_died_is_requested_again(job):
    sent = []

    def die():
        sent.append(job.tell(CommandKind.CHECKPOINT))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(job.play(at(2, die)))
    job.driver()
    asyncio.run(job.play(nothing))
    assert job.saved() == [(1, sent), (STEPS, [])]


def test_a_checkpoint_that_is_requested_during_the_last_one_is_the_last_one(job):
    sent, wait_saved = [], job.learner.wait_saved

    async def ask():
        sent.append(job.tell(CommandKind.CHECKPOINT))
        await wait_saved()

    job.learner.wait_saved = ask
    asyncio.run(job.play(nothing))
    assert job.saved() == [(STEPS, sent)]


def test_a_paused_job_writes_the_checkpoint_of_its_last_step_at_once(job):
    async def scene():
        playing = asyncio.ensure_future(job.play(at(2, lambda: job.tell(CommandKind.PAUSE))))
        await until(lambda: any(e.get("state") == "paused" for e in job.run.events()))
        first = job.tell(CommandKind.CHECKPOINT)
        await until(job.saved)
        # It has been written: the next request needs no other one.
        second = job.tell(CommandKind.CHECKPOINT)
        await until(lambda: len(job.saved()) == 2)
        assert not playing.done()
        job.tell(CommandKind.RESUME)
        await playing
        assert job.saved() == [(2, [first]), (2, [second]), (STEPS, [])]

    asyncio.run(scene())
    assert job.checkpoints.steps() == [2, STEPS]


def test_a_job_that_is_paused_before_its_first_step_has_nothing_to_save(job):
    async def scene():
        job.tell(CommandKind.PAUSE)
        playing = asyncio.ensure_future(job.play(nothing))
        sent = job.tell(CommandKind.CHECKPOINT)
        await until(job.failed)
        assert job.failed() == {sent: "the job is paused before its first step and has nothing to save"}
        job.tell(CommandKind.RESUME)
        await playing

    asyncio.run(scene())


def test_a_pause_holds_for_the_next_learner_and_the_next_driver(job):
    def lose():
        job.tell(CommandKind.PAUSE)
        raise LearnerLostError("lost")

    async def paused():
        playing = asyncio.ensure_future(job.play(nothing))
        await until(lambda: job.run.events()[-1].get("state") == "paused")
        playing.cancel()
        await asyncio.wait([playing])

    with pytest.raises(LearnerLostError):
        asyncio.run(job.play(at(2, lose)))
    asyncio.run(paused())
    job.driver()
    asyncio.run(paused())


def test_what_a_job_cannot_do_fails_with_the_reason(job):
    job.control.refuse(CommandKind.CHECKPOINT, "it writes none")
    sent = job.tell(CommandKind.CHECKPOINT)
    assert job.failed() == {sent: "it writes none"}
    assert [e["kind"] for e in job.run.events()] == ["command_failed"]


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_workers_beyond_the_gpus_that_they_share_are_refused(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "name: test\n")
    control, counts = Control(run), []
    control.limit_workers(2)
    mailbox = Mailbox(run)
    pool = SimpleNamespace(scale=lambda count, reason: counts.append(count))
    for count in (3, 2, 3):
        send(run, CommandKind.SCALE, count=count)
        CommandRunner(mailbox, run, pool, control, mailbox.take()).carry_out()
    assert (counts, control.requested_workers) == ([2], 2)
    failed = [event["reason"] for event in run.events() if event["kind"] == "command_failed"]
    assert len(failed) == 2
    assert "3 rollout workers are too many" in failed[0]
    # A job that is resumed with fewer GPUs.
    control.limit_workers(1)
    assert control.requested_workers == 1
