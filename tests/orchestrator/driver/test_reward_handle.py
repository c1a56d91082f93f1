"""A reward actor that dies or hangs is replaced, as often as the job allows. On real Ray."""

import asyncio
import os
import signal

import psutil
import pytest

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from orchestrator.driver import reward_handle
from orchestrator.driver.reward_handle import RewardHandle, RewardLostError, UnscoredError
from orchestrator.driver.room import Room
from orchestrator.job.spec import JobSpec
from protocol.rollout import Completion, Group, StopReason

SPEC = JobSpec.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, "reward": {"max_restarts": 2}})


def groups(count: int) -> list[Group]:
    completions = tuple(
        Completion((1,), (-0.1,), f"<answer>{word}</answer>", StopReason.STOP) for word in ("a dog", "a cat")
    )
    return [
        Group(
            Question("d", i, str(i), "clip.wav", "What?", ("a dog", "a cat"), "a dog"),
            PromptTemplate.ANSWER,
            (1,),
            completions,
            weight_version=0,
            worker="w",
        )
        for i in range(count)
    ]


def actors() -> set[int]:
    """Return the pids of the reward actors."""
    found = set()
    for process in psutil.process_iter(["pid", "cmdline"]):
        if "ray::RewardActor" in " ".join(process.info["cmdline"] or ()):
            found.add(process.info["pid"])
    return found


class Pool:
    """A pool whose workers may have to wait for the room of the reward actor."""

    def __init__(self) -> None:
        self.held, self.has_room = False, False

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False


@pytest.fixture
def play(cluster, monkeypatch):
    """A function that runs an action with a handle and the pids of its actors, and returns its events."""
    monkeypatch.setattr(reward_handle, "_BACK_OFF_SECONDS", 0.05)

    def run(action, *, score_seconds=60.0):
        async def whole():
            events, others = [], actors()

            def on_event(kind, **detail):
                events.append((kind, detail))

            pool = Pool()
            handle = RewardHandle(SPEC, on_event, room=Room(pool, on_event), score_seconds=score_seconds)
            await handle.wait_for_room()
            assert not pool.held
            try:
                await action(handle, lambda: actors() - others)
                assert not pool.held
            finally:
                await handle.stop()
            return events

        return asyncio.run(whole())

    return run


def kill(found: set[int], how: signal.Signals) -> None:
    assert found
    for pid in found:
        os.kill(pid, how)


def test_a_killed_actor_is_replaced_and_the_batch_is_scored(play):
    async def action(handle, own):
        assert [s.total for s in (await handle.score(groups(1)))[0]] == [2.0, 1.0]
        kill(own(), signal.SIGKILL)
        both = await asyncio.gather(handle.score(groups(3)), handle.score(groups(2)))
        assert [[[s.total for s in scores] for scores in one] for one in both] == [[[2.0, 1.0]] * 3, [[2.0, 1.0]] * 2]

    events = play(action)
    # Two batches lost the same actor: it is replaced once.
    assert [(kind, detail["restart"]) for kind, detail in events] == [("reward_restarted", 1)]
    assert events[0][1]["cause"]


def test_a_hanging_actor_is_found_by_the_deadline(play):
    async def action(handle, own):
        await handle.score(groups(1))
        kill(own(), signal.SIGSTOP)
        assert len(await handle.score(groups(2))) == 2

    events = play(action, score_seconds=15.0)
    assert events[0][1]["cause"] == "no scores within 15 s"


def test_more_often_than_allowed_is_an_error_with_the_cause(play):
    async def action(handle, own):
        for _ in range(SPEC.reward.max_restarts):
            await handle.score(groups(1))
            kill(own(), signal.SIGKILL)
            await handle.score(groups(1))
        kill(own(), signal.SIGKILL)
        with pytest.raises(RewardLostError, match="was lost 3 times"):
            await handle.score(groups(1))

    assert len(play(action)) == SPEC.reward.max_restarts


def test_completions_that_nothing_can_score_are_events_and_end_the_job(play, monkeypatch):
    judge = {"url": "http://127.0.0.1:9/v1", "model": "m", "max_attempts": 1}
    reward = {"functions": {"accuracy": 1.0, "judge": 1.0}, "judge": judge, "max_unscored_in_row": 2}
    spec = JobSpec.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, "reward": reward})
    monkeypatch.setitem(globals(), "SPEC", spec)

    async def action(handle, own):
        (scores,) = await handle.score(groups(1))
        assert [(s.valid, s.total) for s in scores] == [(False, 0.0)] * 2
        assert await handle.score([]) == []
        with pytest.raises(UnscoredError, match=r"2 batches in a row .*the judge cannot be reached"):
            await handle.score(groups(1))

    events = play(action)
    assert [kind for kind, _ in events] == ["unscored", "unscored"]
    assert (events[0][1]["completions"], events[0][1]["of"]) == (2, 2)
    assert "cannot be reached" in events[0][1]["causes"][0]
