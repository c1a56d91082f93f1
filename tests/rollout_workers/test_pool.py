"""The pool's own logic, on simulated workers that die, hang, come and go: fast, and no engine."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from protocol.rollout import FailedQuestion, Failure, Group, NoAnswer, RolloutRequest, Sampling, WorkerSettings
from protocol.weights import WeightUpdate
from rollout_workers import restarts
from rollout_workers.errors import RolloutError, WeightsUnavailableError, WorkerFailedError
from rollout_workers.limits import RolloutLimits
from rollout_workers.member import WorkerState
from rollout_workers.pool import RolloutPool
from rollout_workers.simulated import Pace, SimulatedHandle
from rollout_workers.weight_sync.sync import ObjectStoreSync

SAMPLING = Sampling(group_size=4, max_tokens=8)
LIMITS = RolloutLimits(silent_seconds=0.4, drain_seconds=0.5, lag_seconds=0.3, attempts=5, max_restarts=1000)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Replacements come at once."""
    monkeypatch.setattr(restarts, "_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(restarts, "_LONGEST_SECONDS", 0.02)


def requests(count: int, first: int = 0) -> list[RolloutRequest]:
    return [
        RolloutRequest(Question("d", i, str(i), "clip.wav", "?", ("a", "b"), "a"), PromptTemplate.ANSWER, seed=i)
        for i in range(first, first + count)
    ]


def weights(version: int) -> WeightUpdate:
    return WeightUpdate(version, (), audio_changed=False, nbytes=0)


class Fleet:
    """A pool of simulated workers, each of them at hand by name, and what the pool said of them."""

    def __init__(self, limits: RolloutLimits = LIMITS, pace: Pace | None = None, **options) -> None:
        self.handles: dict[str, list[SimulatedHandle]] = {}
        self.events: list[tuple[str, dict]] = []
        self.pace = pace or Pace()
        self.prepare: Callable[[SimulatedHandle], None] = lambda handle: None
        self.room: asyncio.Event | None = None
        settings = WorkerSettings("model", 64, max_concurrent=32, whole_batches=options.pop("whole_batches", False))
        self.pool = RolloutPool(
            settings,
            limits,
            on_event=lambda kind, **detail: self.events.append((kind, detail)),
            make_worker=self._make,
            **options,
        )

    def _make(self, name: str) -> SimulatedHandle:
        handle = SimulatedHandle(name, self.pace, self.room)
        self.prepare(handle)
        self.handles.setdefault(name, []).append(handle)
        return handle

    def handle(self, name: str) -> SimulatedHandle:
        return self.handles[name][-1]

    def kinds(self) -> Counter:
        return Counter(kind for kind, _ in self.events)

    def detail(self, kind: str) -> dict:
        return next(detail for name, detail in self.events if name == kind)

    def states(self) -> dict[str, str]:
        return {view.name: str(view.state) for view in self.pool.workers()}


def played(scene):
    """Run a coroutine function as a test, and see that it leaves no worker and no task."""

    def test():
        async def whole():
            async with asyncio.timeout(20):
                fleet = await scene()
                await fleet.pool.stop()
                assert all(handle.killed for made in fleet.handles.values() for handle in made)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
                assert not left, left

        asyncio.run(whole())

    test.__name__, test.__doc__ = scene.__name__, scene.__doc__
    return test


def check(answers, asked) -> None:
    assert [a.question for a in answers] == [r.question for r in asked]
    assert all(isinstance(a, Group) and len(a.completions) == 4 for a in answers), answers


@played
async def test_scaling_from_one_to_three_to_none_to_two_loses_nothing():
    fleet = Fleet()
    pool = fleet.pool
    await pool.start(1)
    asked = requests(200)
    answers = asyncio.ensure_future(pool.generate(asked, SAMPLING, by_rule=False))
    await asyncio.sleep(0.02)
    pool.scale(3, "by hand")
    await pool.serving(3)
    pool.scale(0, "by hand")
    await asyncio.sleep(0.1)
    assert (len(pool), pool.alive, pool.target) == (0, 0, 0)
    assert not answers.done()
    assert pool.waiting > 0
    late = pool.submit(requests(1, 500)[0], SAMPLING)
    pool.scale(2, "by hand")
    check(await answers, asked)
    check([await late], requests(1, 500))
    assert {a.worker for a in await answers} == {"rollout-0", "rollout-1", "rollout-2"}
    assert [d["target"] for kind, d in fleet.events if kind == "scaled"] == [1, 3, 0, 2]
    assert fleet.kinds()["worker_left"] == 3
    assert pool.counts == {"restarts": 0, "requeued": 0, "failed": 0}
    return fleet


@played
async def test_whoever_has_least_to_do_is_next():
    fleet = Fleet()
    await fleet.pool.start(4)
    await fleet.pool.serving(4)
    answers = await fleet.pool.generate(requests(40), SAMPLING, by_rule=False)
    assert set(Counter(a.worker for a in answers).values()) == {10}
    assert [view.requests_finished for view in fleet.pool.workers()] == [10] * 4
    assert [view.tokens_generated for view in fleet.pool.workers()] == [10 * 4 * 8] * 4
    return fleet


@played
async def test_a_dead_and_a_hung_worker_are_replaced_and_their_work_is_done():
    fleet = Fleet()
    pool = fleet.pool
    await pool.start(3)
    await pool.serving(3)
    asked = requests(300)
    answers = asyncio.ensure_future(pool.generate(asked, SAMPLING, by_rule=False))
    await asyncio.sleep(0.02)
    fleet.handle("rollout-0").crash()
    fleet.handle("rollout-1").freeze()
    check(await answers, asked)
    await pool.serving(3)
    lost = {d["worker"]: d for kind, d in fleet.events if kind == "worker_lost"}
    assert "died" in lost["rollout-0"]["cause"]
    assert "no sign of life" in lost["rollout-1"]["cause"]
    assert all(d["requeued"] > 0 for d in lost.values())
    assert [view.restarts for view in pool.workers()] == [1, 1, 0]
    assert pool.counts["restarts"] == 2
    assert pool.counts["requeued"] >= 16
    return fleet


@played
async def test_a_request_that_never_ends_is_found_by_its_deadline():
    fleet = Fleet(LIMITS.model_copy(update={"request_seconds": 0.1}))
    await fleet.pool.start(1)
    asked = requests(4)
    fleet.handle("rollout-0").worker._pace = replace(fleet.pace, group_seconds=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rollout_workers.dispatcher.GRACE_SECONDS", 0.0)
        check(await fleet.pool.generate(asked, SAMPLING, by_rule=False), asked)
    assert "no answer to a request" in fleet.detail("worker_lost")["cause"]
    return fleet


@played
async def test_the_budget_of_restarts_ends_in_an_error_that_names_the_cause():
    fleet = Fleet(LIMITS.model_copy(update={"max_restarts": 2, "attempts": 100}))
    await fleet.pool.start(1)
    answers = [fleet.pool.submit(r, SAMPLING) for r in requests(50)]
    for _ in range(3):
        await fleet.pool.serving(1)
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
async def test_a_question_is_asked_as_often_as_allowed_and_then_recorded_as_failed():
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
    answers = await fleet.pool.generate(asked, SAMPLING, by_rule=False)
    failed = answers.pop(poison)
    assert isinstance(failed, FailedQuestion)
    assert (failed.question, failed.reason) == (asked[poison].question, Failure.RETRIES)
    assert "asked 3 times" in failed.detail
    assert "not finite" in failed.detail
    check(answers, [r for r in asked if r.seed != poison])
    assert attempts == Counter({r.seed: 3 if r.seed == poison else 1 for r in asked})
    assert fleet.pool.counts == {"restarts": 0, "requeued": 2, "failed": 1}
    assert fleet.kinds()["rollout_attempt_failed"] == 3
    return fleet


@played
async def test_when_all_questions_fail_it_is_not_the_questions():
    fleet = Fleet(LIMITS.model_copy(update={"attempts": 1, "max_failed_in_row": 5}))

    async def broken(requests, sampling):
        raise WorkerFailedError("'generate' failed: ValueError: broken")

    fleet.prepare = lambda handle: setattr(handle.worker, "generate", broken)
    await fleet.pool.start(1)
    with pytest.raises(RolloutError, match=r"5 questions in a row failed.*broken"):
        await fleet.pool.generate(requests(10), SAMPLING, by_rule=False)
    return fleet


@played
async def test_by_rule_a_slot_answers_its_share_also_when_its_worker_died():
    fleet = Fleet(pace=Pace(group_seconds=0.05, groups_at_once=2), whole_batches=True)
    await fleet.pool.start(3)
    asked = requests(11)
    for name in ("rollout-1", "rollout-2"):
        answers = asyncio.ensure_future(fleet.pool.generate(asked, SAMPLING, by_rule=True))
        await asyncio.sleep(0.02)
        fleet.handle(name).crash()
        check(await answers, asked)
        assert [a.worker for a in answers.result()] == [f"rollout-{i % 3}" for i in range(11)]
    assert fleet.pool.counts["requeued"] == 4 + 3
    fleet.handle("rollout-0").crash()
    answers = await fleet.pool.generate(asked, SAMPLING, by_rule=True)
    assert [a.worker for a in answers] == [f"rollout-{i % 3}" for i in range(11)], "it waits for all slots"
    return fleet


@played
async def test_what_waits_for_a_slot_that_leaves_others_answer():
    fleet = Fleet(pace=Pace(group_seconds=0.05, groups_at_once=1), whole_batches=True)
    await fleet.pool.start(2)
    asked = requests(6)
    answers = asyncio.ensure_future(fleet.pool.generate(asked, SAMPLING, by_rule=True))
    await asyncio.sleep(0.02)
    fleet.handle("rollout-1").crash()
    fleet.pool.scale(1, "by hand")
    check(await answers, asked)
    assert {a.worker for a in answers.result()} == {"rollout-0"}
    return fleet


@played
async def test_a_worker_without_room_is_pending_and_visible():
    fleet = Fleet()
    await fleet.pool.start(1)
    fleet.room = asyncio.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rollout_workers.crew.PENDING_SECONDS", 0.05)
        fleet.pool.scale(2, "by hand")
        await asyncio.sleep(0.1)
    assert fleet.states() == {"rollout-0": "serving", "rollout-1": "pending"}
    assert (fleet.pool.alive, len(fleet.pool)) == (1, 2)
    assert fleet.detail("worker_pending")["worker"] == "rollout-1"
    fleet.room.set()
    await fleet.pool.serving(2)
    fleet.room = asyncio.Event()
    fleet.pool.scale(3, "by hand")
    await asyncio.sleep(0.01)
    fleet.pool.scale(2, "by hand")
    await asyncio.sleep(0.01)
    assert fleet.states() == {"rollout-0": "serving", "rollout-1": "serving", "rollout-2": "gone"}
    return fleet


@played
async def test_nobody_waits_for_a_worker_that_starts_and_it_has_the_newest_weights_first():
    fleet = Fleet()
    pool = fleet.pool
    await pool.start(1)
    await pool.update(weights(1))
    fleet.pace = Pace(start_seconds=0.2, update_seconds=0.1)
    pool.scale(2, "by hand")
    asked = requests(20)
    check(await pool.generate(asked, SAMPLING, by_rule=False), asked)
    assert fleet.states()["rollout-1"] == "starting"
    await asyncio.sleep(0.25)
    assert fleet.states()["rollout-1"] == "syncing"
    await pool.update(weights(2))  # while it takes the first
    assert fleet.states()["rollout-1"] == "syncing"
    await pool.serving(2)
    assert [view.weight_version for view in pool.workers()] == [2, 2]
    answers = await pool.generate(requests(40), SAMPLING, by_rule=False)
    assert {(a.worker, a.weight_version) for a in answers} == {("rollout-0", 2), ("rollout-1", 2)}
    fleet.handle("rollout-0").crash()
    await pool.serving(2)
    assert [view.weight_version for view in pool.workers()] == [2, 2]
    return fleet


@played
async def test_versions_may_go_back():
    """A learner that went back to its checkpoint publishes an older version: it is the newest update all the same."""
    fleet = Fleet()
    await fleet.pool.start(1)
    for version in (5, 3):
        report = await fleet.pool.update(weights(version))
        assert (report.version, report.updated, report.late, report.dropped) == (version, ("rollout-0",), (), {})
    (answer,) = await fleet.pool.generate(requests(1), SAMPLING, by_rule=False)
    assert answer.weight_version == 3
    return fleet


@played
async def test_an_update_drops_who_fails_and_goes_on_without_who_is_late():
    fleet = Fleet()
    pool = fleet.pool
    await pool.start(4)
    await pool.serving(4)

    async def failing(update):
        raise WorkerFailedError("'update' failed: ValueError: the bytes are not those that were sent")

    fleet.handle("rollout-1").worker.update = failing
    fleet.handle("rollout-2").worker._pace = Pace(update_seconds=0.5)
    fleet.handle("rollout-3").freeze()
    report = await pool.update(weights(7))
    assert report.updated == ("rollout-0",)
    assert set(report.late) <= {"rollout-2", "rollout-3"}
    assert "rollout-2" in report.late
    assert "not those that were sent" in report.dropped["rollout-1"]
    assert report.seconds < 0.45
    asked = requests(10)
    check(await pool.generate(asked, SAMPLING, by_rule=False), asked)
    await pool.serving(4)
    assert [view.weight_version for view in pool.workers()] == [7] * 4
    assert [view.restarts for view in pool.workers()] == [0, 1, 0, 1]
    return fleet


@played
async def test_a_wrong_version_after_an_update_is_a_failure():
    fleet = Fleet()
    await fleet.pool.start(1)

    async def stale(update):
        return update.version - 1

    fleet.handle("rollout-0").worker.update = stale
    report = await fleet.pool.update(weights(4))
    assert "has weight version 3 after an update to 4" in report.dropped["rollout-0"]
    await fleet.pool.serving(1)
    return fleet


@played
async def test_bytes_that_are_lost_are_published_again_or_waited_for():
    fleet = Fleet()
    pool = fleet.pool
    await pool.start(1)
    lost = {1, 2}

    def losing(handle):
        take = handle.worker.update

        async def update(update):
            if update.nbytes == 0 and update.version in lost:
                raise WeightsUnavailableError("the owner died")
            return await take(update)

        handle.worker.update = update

    await pool.update(weights(1))
    fleet.prepare = losing
    published = []

    async def republish():
        published.append(1)
        return replace(weights(1), nbytes=1)

    pool.carry_with(ObjectStoreSync(), republish)
    pool.scale(2, "by hand")
    await pool.serving(2)
    assert published == [1]

    async def learner_is_dead():
        raise RuntimeError("no learner")

    pool.carry_with(ObjectStoreSync(), learner_is_dead)
    await pool.update(weights(2))
    pool.scale(3, "by hand")
    await asyncio.sleep(0.05)
    assert fleet.states()["rollout-2"] == "syncing"
    assert any("no learner" in d["cause"] for kind, d in fleet.events if kind == "weights_unavailable")
    await pool.update(weights(3))
    await pool.serving(3)
    assert pool.counts["restarts"] == 0
    return fleet


@played
async def test_a_leaving_worker_finishes_what_it_has_or_hands_it_back():
    fleet = Fleet(pace=Pace(group_seconds=0.2, groups_at_once=4))
    pool = fleet.pool
    await pool.start(2)
    await pool.serving(2)
    asked = requests(4)
    answers = asyncio.ensure_future(pool.generate(asked, SAMPLING, by_rule=False))
    await asyncio.sleep(0.02)
    pool.scale(1, "by hand")
    await asyncio.sleep(0.02)
    assert fleet.states() == {"rollout-0": "serving", "rollout-1": "draining"}
    check(await answers, asked)
    assert {a.worker for a in answers.result()} == {"rollout-0", "rollout-1"}
    pool.scale(2, "by hand")
    await pool.serving(2)
    fleet.handle("rollout-1").worker._pace = Pace(group_seconds=1000)
    answers = asyncio.ensure_future(pool.generate(asked, SAMPLING, by_rule=False))
    await asyncio.sleep(0.02)
    pool.scale(1, "by hand")
    check(await answers, asked)
    assert {a.worker for a in answers.result()} == {"rollout-0"}
    assert [d["handed_back"] for kind, d in fleet.events if kind == "worker_drained"] == [0, 2]
    assert pool.counts == {"restarts": 0, "requeued": 2, "failed": 0}
    return fleet


@played
async def test_a_draining_worker_is_kept_if_it_is_wanted_again():
    fleet = Fleet(pace=Pace(group_seconds=0.2, groups_at_once=4))
    pool = fleet.pool
    await pool.start(2)
    await pool.serving(2)
    answers = asyncio.ensure_future(pool.generate(requests(4), SAMPLING, by_rule=False))
    await asyncio.sleep(0.02)
    pool.scale(1, "by hand")
    await asyncio.sleep(0.02)
    await pool.update(weights(1))
    pool.scale(2, "by hand")
    await pool.serving(2)
    assert [view.weight_version for view in pool.workers()] == [1, 1]
    assert [len(made) for made in fleet.handles.values()] == [1, 1]
    await answers
    return fleet


@played
async def test_a_worker_wanted_again_in_the_step_in_which_its_life_ends_is_replaced():
    fleet = Fleet()
    await fleet.pool.start(1)
    handle = fleet.handle("rollout-0")
    kill = handle.kill

    def kill_and_scale() -> None:
        kill()  # the last thing a life does
        asyncio.get_running_loop().call_soon(fleet.pool.scale, 1, "at the last moment")

    handle.kill = kill_and_scale
    fleet.pool.scale(0, "by hand")
    await asyncio.sleep(0.05)
    await fleet.pool.serving(1)
    asked = requests(5)
    check(await fleet.pool.generate(asked, SAMPLING, by_rule=False), asked)
    fleet.pool.scale(0, "by hand")
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
    await fleet.pool.serving(2)  # long before `update_seconds`
    assert hung[0].killed
    assert "no sign of life" in fleet.detail("worker_lost")["cause"]
    return fleet


@played
async def test_what_nobody_wants_any_more_is_not_answered():
    fleet = Fleet(pace=Pace(group_seconds=1000, groups_at_once=4))
    pool = fleet.pool
    await pool.start(1)
    asked = [pool.submit(r, SAMPLING) for r in requests(20)]
    await asyncio.sleep(0.01)
    assert (pool.in_flight, pool.waiting) == (10, 10)
    for future in asked:
        future.cancel()
    await asyncio.sleep(0.01)
    assert (pool.in_flight, pool.waiting) == (0, 0)
    assert not pool._crew.members[0].entries
    assert pool._crew.members[0].load == 0
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
async def test_stop_cancels_what_was_asked():
    fleet = Fleet(pace=Pace(group_seconds=1000))
    await fleet.pool.start(2)
    answers = [fleet.pool.submit(r, SAMPLING) for r in requests(50)]
    await asyncio.sleep(0.01)
    await fleet.pool.stop()
    assert all(answer.cancelled() for answer in answers)
    assert {view.state for view in fleet.pool.workers()} == {WorkerState.GONE}
    return fleet


@pytest.mark.parametrize("seed", range(3))
def test_in_a_storm_every_question_is_answered_exactly_once(seed):
    """Workers die, hang, come, go and take new weights at random while questions are asked."""

    @played
    async def storm():
        rng = random.Random(seed)
        fleet = Fleet(LIMITS.model_copy(update={"attempts": 1000, "drain_seconds": 0.02, "silent_seconds": 0.2}))
        pool = fleet.pool
        await pool.start(3)
        asked = requests(600)
        answered = Counter()
        futures = []
        version = 0
        for request in asked:
            future = pool.submit(request, SAMPLING)
            future.add_done_callback(lambda f: answered.update([f.result().question.index]))
            futures.append(future)
            chance = rng.random()
            if chance < 0.03:
                fleet.handle(rng.choice(list(fleet.handles))).crash()
            elif chance < 0.05:
                fleet.handle(rng.choice(list(fleet.handles))).freeze()
            elif chance < 0.10:
                pool.scale(rng.randrange(5), "at random")
            elif chance < 0.14:
                version += 1
                await pool.update(weights(version))
            elif chance < 0.5:
                await asyncio.sleep(0.002)
        pool.scale(3, "the end")
        answers = await asyncio.gather(*futures)
        check(answers, asked)
        assert answered == Counter(dict.fromkeys(range(len(asked)), 1))
        assert (pool.in_flight, pool.waiting) == (0, 0)
        await pool.serving(3)
        assert {view.weight_version for view in pool.workers() if view.state == "serving"} == {version}
        return fleet

    storm()
