"""The pool with simulated workers that die, hang or fail."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from support.pool import LIMITS, SAMPLING, Fleet, check, played, requests, weights

from protocol.rollout import FailedQuestion, Failure, NoAnswer
from protocol.weights import WeightUpdate
from rollout_workers.errors import RolloutError, WorkerFailedError
from rollout_workers.pool.request_queue import QueueEntry
from rollout_workers.simulated import SimulatedHandle, SimulatedPace

pytestmark = pytest.mark.usefixtures("fast_restarts")


@played
async def test_a_dead_and_a_hung_worker_are_replaced_and_their_work_is_done():
    fleet = Fleet()
    pool = fleet.pool
    await pool.start(3)
    await pool.wait_until_serving(3)
    asked = requests(300)
    answers = asyncio.ensure_future(pool.generate(asked, SAMPLING))
    await asyncio.sleep(0.02)
    fleet.handle("rollout-0").crash()
    fleet.handle("rollout-1").freeze()
    check(await answers, asked)
    await pool.wait_until_serving(3)
    lost = {d["worker"]: d for kind, d in fleet.events if kind == "worker_lost"}
    assert "died" in lost["rollout-0"]["cause"]
    assert "no sign of life" in lost["rollout-1"]["cause"]
    assert all(d["requeued"] > 0 for d in lost.values())
    assert [view.restarts for view in pool.workers()] == [1, 1, 0]
    assert pool.counts["restarts"] == 2
    assert pool.counts["requeued"] >= 16
    return fleet


@played
async def test_a_request_that_hangs_is_found_by_its_deadline():
    fleet = Fleet(LIMITS.model_copy(update={"request_seconds": 0.1}))
    await fleet.pool.start(1)
    asked = requests(4)
    fleet.handle("rollout-0").worker._pace = replace(fleet.pace, group_seconds=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rollout_workers.pool.dispatcher.GRACE_SECONDS", 0.0)
        check(await fleet.pool.generate(asked, SAMPLING), asked)
    assert "no answer to a request" in fleet.detail("worker_lost")["cause"]
    return fleet


@played
async def test_too_many_restarts_raise_an_error_with_the_cause():
    fleet = Fleet(LIMITS.model_copy(update={"max_restarts": 2, "attempts": 100}))
    await fleet.pool.start(1)
    answers = [fleet.pool.submit(r, SAMPLING) for r in requests(50)]
    for _ in range(3):
        await fleet.pool.wait_until_serving(1)
        fleet.handle("rollout-0").crash()
        await asyncio.sleep(0.005)
    with pytest.raises(RolloutError, match=r"rollout-0: died.*max_restarts is 2"):
        await answers[0]
    for pending in answers[1:]:
        assert isinstance(pending.exception(), RolloutError)
    with pytest.raises(RolloutError, match="died"):
        fleet.pool.submit(requests(1)[0], SAMPLING)
    with pytest.raises(RolloutError, match="died"):
        await fleet.pool.update(weights(1))
    return fleet


@played
async def test_a_question_fails_after_the_allowed_attempts():
    fleet = Fleet(LIMITS.model_copy(update={"attempts": 3}))
    await fleet.pool.start(2)
    poison, asked = 3, requests(8)
    attempts = Counter()

    def unusable(handle):
        answer = handle.worker.generate

        async def generate(requests, sampling):
            attempts.update(r.seed for r in requests)
            if requests[0].seed == poison:
                return [NoAnswer("log-probabilities that are not finite")]
            return await answer(requests, sampling)

        handle.worker.generate = generate

    for handles in fleet.handles.values():
        unusable(handles[0])
    answers = await fleet.pool.generate(asked, SAMPLING)
    failed = answers.pop(poison)
    assert isinstance(failed, FailedQuestion)
    assert (failed.question, failed.reason) == (asked[poison].question, Failure.RETRIES)
    assert "failed in 3 attempts" in failed.detail
    assert "not finite" in failed.detail
    check(answers, [r for r in asked if r.seed != poison])
    assert attempts == Counter({r.seed: 3 if r.seed == poison else 1 for r in asked})
    assert fleet.pool.counts == {"restarts": 0, "requeued": 2, "failed": 1}
    assert fleet.kinds()["rollout_attempt_failed"] == 3
    return fleet


@played
async def test_many_failures_in_a_row_end_the_pool():
    fleet = Fleet(LIMITS.model_copy(update={"attempts": 1, "max_failed_in_row": 5}))

    async def broken(requests, sampling):
        raise WorkerFailedError("'generate' failed: ValueError: broken")

    fleet.prepare = lambda handle: setattr(handle.worker, "generate", broken)
    await fleet.pool.start(1)
    with pytest.raises(RolloutError, match=r"5 questions in a row failed.*broken"):
        await fleet.pool.generate(requests(10), SAMPLING)
    return fleet


@played
async def test_round_robin_gives_a_slot_its_share_again_after_its_worker_died():
    fleet = Fleet(pace=SimulatedPace(group_seconds=0.05, groups_at_once=2), whole_batches=True)
    await fleet.pool.start(3)
    asked = requests(11)
    for name in ("rollout-1", "rollout-2"):
        answers = asyncio.ensure_future(fleet.pool.generate(asked, SAMPLING, round_robin=True))
        await asyncio.sleep(0.02)
        fleet.handle(name).crash()
        check(await answers, asked)
        assert [a.worker for a in answers.result()] == [f"rollout-{i % 3}" for i in range(11)]
    assert fleet.pool.counts["requeued"] == 4 + 3
    fleet.handle("rollout-0").crash()
    answers = await fleet.pool.generate(asked, SAMPLING, round_robin=True)
    assert [a.worker for a in answers] == [f"rollout-{i % 3}" for i in range(11)], "it waits for all slots"
    return fleet


@played
async def test_a_worker_that_hangs_while_it_catches_up_is_replaced_after_its_silence():
    fleet = Fleet(LIMITS.model_copy(update={"update_seconds": 600}))
    await fleet.pool.start(1)
    await fleet.pool.update(weights(1))
    hung = []

    def prepare(handle: SimulatedHandle) -> None:
        if not hung:
            hung.append(handle)
            update = handle.update

            async def freeze_and_update(taken: WeightUpdate) -> int:
                handle.freeze()
                return await update(taken)

            handle.update = freeze_and_update

    fleet.prepare = prepare
    fleet.pool.scale(2, "by hand")
    await fleet.pool.wait_until_serving(2)  # long before `update_seconds`
    assert hung[0].killed
    assert "no sign of life" in fleet.detail("worker_lost")["cause"]
    return fleet


@played
async def test_a_first_worker_that_cannot_start_ends_the_pool_at_once():
    fleet = Fleet()

    async def start():
        raise WorkerFailedError("'start' failed: OSError: no such model")

    fleet.prepare = lambda handle: setattr(handle.worker, "start", start)
    with pytest.raises(RolloutError, match="no such model"):
        await fleet.pool.start(3)
    return fleet


@played
async def test_a_question_fails_for_the_reason_of_its_last_attempt():
    """Each request of a batch has its own; a worker that was lost afterwards is the reason for all."""
    fleet = Fleet(LIMITS.model_copy(update={"attempts": 2}), whole_batches=True)
    asked = requests(3)

    def prepare(handle):
        answer = handle.worker.generate

        async def generate(requests, sampling):
            groups = await answer(requests, sampling)
            return [
                NoAnswer("nan", Failure.NONFINITE)
                if request.seed == 1
                else NoAnswer("late")
                if request.seed == 2
                else g
                for request, g in zip(requests, groups, strict=True)
            ]

        handle.worker.generate = generate

    fleet.prepare = prepare
    await fleet.pool.start(1)
    answers = await fleet.pool.generate(asked, SAMPLING)
    check(answers[:1], asked[:1])
    assert [a.reason for a in answers[1:]] == [Failure.NONFINITE, Failure.RETRIES]
    entry = QueueEntry(asked[1:2], SAMPLING)
    entry.record([NoAnswer("nan", Failure.NONFINITE)])
    entry.count_lost_attempt()
    entry.give_up("rollout-0", "died")
    assert (await entry.future).reason is Failure.RETRIES
    return fleet
