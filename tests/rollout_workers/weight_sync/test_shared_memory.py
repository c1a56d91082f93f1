"""Shared memory: workers that are called, workers that have the weights already, and workers elsewhere."""

import asyncio
from dataclasses import replace

import pytest
from support.carriers import UPDATE, UPDATE_IN_STORE, Learner, Worker, distribute

from protocol.weights import Carrier
from rollout_workers.errors import ElsewhereError, WeightsUnavailableError, WorkerFailedError
from rollout_workers.weight_sync.shared_memory import SharedMemorySync

SHARED = replace(UPDATE, buckets=(), carrier=Carrier.SHARED_MEMORY, address="here", announced=3)


def asked(worker) -> list[Carrier]:
    return [call[1] for call in worker.calls if call[0] == "update"]


def far(worker) -> None:
    """Put a worker on another machine."""

    async def update(update):
        await worker.part("update", update.carrier)
        if update.carrier is Carrier.SHARED_MEMORY:
            raise ElsewhereError("no learner on this machine")
        return update.version

    worker.update = update


def test_a_worker_that_has_shared_weights_is_not_called_again():
    sync, workers = SharedMemorySync(Learner()), {"a": Worker(), "b": Worker()}
    assert distribute(sync, workers, SHARED) == {"a": 5, "b": 5}
    assert distribute(sync, workers, replace(SHARED, version=6, held_by=frozenset("a"))) == {"a": 6, "b": 6}
    assert (len(asked(workers["a"])), len(asked(workers["b"]))) == (1, 2)


def test_a_replacement_is_called_whatever_the_old_worker_had():
    sync = SharedMemorySync(Learner())
    distribute(sync, {"a": Worker()}, SHARED)
    new = Worker()
    assert distribute(sync, {"a": new}, replace(SHARED, version=6, held_by=frozenset("a"))) == {"a": 6}
    assert asked(new) == [Carrier.SHARED_MEMORY]


def test_workers_elsewhere_share_one_copy_in_the_object_store_and_are_not_tried_again():
    learner = Learner()
    publications = []

    async def publish(carrier):
        publications.append(carrier)
        return replace(UPDATE, version=learner.version, carrier=carrier)

    learner.publish = publish
    sync, workers = SharedMemorySync(learner), {"near": Worker(), "far": Worker(), "further": Worker()}
    far(workers["far"])
    far(workers["further"])
    assert sync.carrier is Carrier.SHARED_MEMORY
    assert distribute(sync, workers, SHARED) == {"near": 5, "far": 5, "further": 5}
    assert publications == [Carrier.OBJECT_STORE]
    learner.version = 6
    assert distribute(sync, workers, replace(SHARED, version=6, held_by=frozenset({"near"}))) == dict.fromkeys(
        workers, 6
    )
    assert publications == [Carrier.OBJECT_STORE] * 2
    assert asked(workers["far"]) == [Carrier.SHARED_MEMORY, Carrier.OBJECT_STORE, Carrier.OBJECT_STORE]
    assert sync.carrier is Carrier.SHARED_MEMORY, "one is near"


def test_if_all_workers_are_elsewhere_the_learner_publishes_in_the_object_store():
    sync, workers = SharedMemorySync(Learner()), {"a": Worker(), "b": Worker()}
    for worker in workers.values():
        far(worker)
    distribute(sync, workers, SHARED)
    assert sync.carrier is Carrier.OBJECT_STORE
    assert distribute(sync, workers, UPDATE_IN_STORE) == {"a": 5, "b": 5}
    near = Worker()
    assert asyncio.run(sync.deliver(UPDATE_IN_STORE, near)) == 5
    assert asked(near) == [Carrier.OBJECT_STORE], "it joins by what there is"
    distribute(sync, {**workers, "c": near}, UPDATE_IN_STORE)
    assert sync.carrier is Carrier.SHARED_MEMORY, "and is offered the shorter way from then on"


def test_a_learner_that_is_lost_leaves_workers_elsewhere_with_the_weights_they_had():
    learner, worker = Learner(), Worker()
    far(worker)

    async def publish(carrier):
        raise RuntimeError("rank 0 died")

    learner.publish = publish
    outcome = distribute(SharedMemorySync(learner), {"a": worker}, SHARED)["a"]
    assert isinstance(outcome, WeightsUnavailableError)
    assert not isinstance(outcome, ElsewhereError)
    assert "rank 0 died" in str(outcome)


def test_a_worker_elsewhere_that_is_late_is_not_given_a_later_version():
    """It would count as lost, with weights of the wrong version."""
    learner, worker = Learner(), Worker()
    far(worker)
    learner.version = 6
    outcome = distribute(SharedMemorySync(learner), {"a": worker}, SHARED)["a"]
    assert isinstance(outcome, WeightsUnavailableError)
    assert "has version 6, not 5" in str(outcome)
    assert asked(worker) == [Carrier.SHARED_MEMORY]


def test_a_worker_that_joins_elsewhere_raises_for_the_pool():
    sync, worker = SharedMemorySync(Learner()), Worker()
    far(worker)
    with pytest.raises(ElsewhereError):
        asyncio.run(sync.deliver(SHARED, worker))
    assert asyncio.run(sync.deliver(UPDATE_IN_STORE, worker)) == 5


def test_a_worker_that_fails_with_shared_weights_fails_alone():
    sync, workers = SharedMemorySync(Learner()), {"a": Worker(), "b": Worker()}
    workers["a"].trouble["update"] = WorkerFailedError("'update' failed")
    outcome = distribute(sync, workers, SHARED)
    assert isinstance(outcome["a"], WorkerFailedError)
    assert outcome["b"] == 5
    distribute(sync, workers, replace(SHARED, held_by=frozenset("a")))
    assert len(asked(workers["a"])) == 2, "what it says it has is not believed before it was asked once"
