"""What the carriers say to learner and workers; those between GPUs as far as no GPU is needed."""

import asyncio
from dataclasses import replace

import pytest

from protocol.weights import Bucket, Carrier, TensorSlot, WeightUpdate
from rollout_workers.errors import ElsewhereError, WeightsUnavailableError, WorkerFailedError, WorkerLostError
from rollout_workers.weight_sync.cuda_ipc import CudaIpcSync
from rollout_workers.weight_sync.nccl import GroupPlan, NcclSync, update_info
from rollout_workers.weight_sync.shared_memory import SharedMemorySync

SLOTS = (TensorSlot("a", "bfloat16", (2, 3), 12, "d1"), TensorSlot("b", "float32", (4,), 16))
UPDATE_IN_STORE = WeightUpdate(5, (), audio_changed=True, nbytes=28)
UPDATE = WeightUpdate(5, (Bucket(SLOTS, None),), audio_changed=True, nbytes=28, carrier=Carrier.NCCL)


class Learner:
    """Notes what it is asked, and has weights in two pieces."""

    def __init__(self):
        self.calls, self.ports, self.pieces = [], 0, []
        self.version = 5

    async def publish(self, carrier):
        return replace(UPDATE, version=self.version, carrier=carrier)

    async def address(self):
        self.ports += 1
        return "learner", 7000 + self.ports

    async def meet(self, address, port, members):
        self.calls.append(("meet", address, port, members))

    async def broadcast(self):
        self.calls.append(("broadcast",))

    async def next_piece(self):
        return self.pieces.pop(0) if self.pieces else None


class Worker:
    """Takes an update part by part; each part can be made to fail or to hang."""

    def __init__(self):
        self.calls, self.trouble = [], {}

    async def part(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name in self.trouble:
            trouble = self.trouble.pop(name)
            await asyncio.sleep(1000) if trouble is None else None
            raise trouble

    async def begin_update(self):
        await self.part("begin")

    async def meet(self, info):
        await self.part("meet", info)

    async def load(self, piece):
        await self.part("load", piece)

    async def finish_update(self, update):
        await self.part("finish")
        return update.version

    async def update(self, update):
        await self.part("update", update.carrier)
        return update.version

    def names(self):
        return [call[0] for call in self.calls]


def spread(sync, workers, update=UPDATE):
    """The outcome of each worker."""

    async def whole():
        versions = sync.spread(update, workers)
        outcomes = await asyncio.gather(*versions.values(), return_exceptions=True)
        return dict(zip(versions, outcomes, strict=True))

    return asyncio.run(whole())


@pytest.mark.parametrize(
    ("workers", "ranks_each", "members", "offsets"),
    [
        (["a"], 1, 2, {"a": 1}),
        (["a", "b", "c"], 1, 4, {"a": 1, "b": 2, "c": 3}),
        (["a", "b", "c"], 4, 13, {"a": 1, "b": 5, "c": 9}),
    ],
)
def test_every_rank_of_every_engine_has_a_number_of_its_own(workers, ranks_each, members, offsets):
    plan = GroupPlan.of(workers, ranks_each)
    assert (plan.members, plan.offsets) == (members, offsets)
    numbers = [0, *(offset + rank for offset in offsets.values() for rank in range(ranks_each))]
    assert sorted(numbers) == list(range(members))
    info = plan.init_info(workers[-1], "host", 4711)
    assert info == {
        "master_address": "host",
        "master_port": 4711,
        "rank_offset": offsets[workers[-1]],
        "world_size": members,
        "packed": True,
    }


def test_the_messages_are_those_of_vllm():
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferUpdateInfo
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferInitInfo, NCCLWeightTransferUpdateInfo

    info = NCCLWeightTransferUpdateInfo(**update_info(UPDATE))
    assert (info.names, info.dtype_names, info.shapes) == (["a", "b"], ["bfloat16", "float32"], [[2, 3], [4]])
    assert NCCLWeightTransferInitInfo(**GroupPlan.of(["w"], 2).init_info("w", "host", 1)).rank_offset == 1
    piece = {"names": ["a"], "dtype_names": ["bfloat16"], "shapes": [[2, 3]], "tensor_sizes": [12]}
    assert IPCWeightTransferUpdateInfo(**piece, ipc_handles={"GPU-a": ()}).tensor_sizes == [12]


def test_a_group_is_made_again_only_where_its_members_changed():
    learner = Learner()
    sync = NcclSync(learner, ranks_each=2, seconds=5)
    workers = {"w0": Worker(), "w1": Worker()}
    assert spread(sync, workers) == spread(sync, workers) == {"w0": 5, "w1": 5}
    assert [call[0] for call in learner.calls] == ["meet", "broadcast", "broadcast"]
    assert workers["w1"].names() == ["begin", "meet", "load", "finish", "begin", "load", "finish"]
    _, piece = workers["w1"].calls[2]
    assert piece == {"carrier": "nccl", "info": update_info(UPDATE), "digests": {"a": "d1"}}
    workers["w1"] = Worker()  # replaced, under the same name
    spread(sync, workers)
    spread(sync, {"w0": workers["w0"]})
    met = [call for call in learner.calls if call[0] == "meet"]
    assert met == [("meet", "learner", 7001, 5), ("meet", "learner", 7002, 5), ("meet", "learner", 7003, 3)]


def test_a_worker_that_is_not_ready_is_left_out_before_anything_is_sent():
    learner = Learner()
    workers = {"w0": Worker(), "w1": Worker(), "w2": Worker()}
    workers["w0"].trouble["begin"] = None  # hangs
    workers["w2"].trouble["begin"] = WorkerFailedError("'begin_update' failed")
    outcomes = spread(NcclSync(learner, ranks_each=1, seconds=0.1), workers)
    assert outcomes.pop("w1") == 5
    assert all(isinstance(outcome, WorkerLostError) for outcome in outcomes.values())
    assert "within 0 s" in str(outcomes["w0"])
    assert learner.calls == [("meet", "learner", 7001, 2), ("broadcast",)]


def test_who_fails_in_the_broadcast_fails_alone_and_the_group_is_made_anew():
    learner = Learner()
    workers = {"w0": Worker(), "w1": Worker()}
    sync = NcclSync(learner, ranks_each=1, seconds=0.1)
    workers["w1"].trouble["load"] = None
    outcomes = spread(sync, workers)
    assert outcomes["w0"] == 5
    assert isinstance(outcomes["w1"], WorkerLostError)
    assert "finish" not in workers["w1"].names()
    spread(sync, {"w0": workers["w0"]})
    assert [call[0] for call in learner.calls] == ["meet", "broadcast", "meet", "broadcast"]


def test_a_group_that_cannot_be_made_is_everyones_failure():
    workers = {"w0": Worker(), "w1": Worker()}
    workers["w1"].trouble["meet"] = WorkerFailedError("'meet' failed: no NCCL")
    outcomes = spread(NcclSync(Learner(), ranks_each=1, seconds=0.1), workers)
    assert all("no NCCL" in str(outcome) for outcome in outcomes.values())


def test_who_joins_late_takes_the_object_store():
    worker = Worker()
    sync = NcclSync(Learner(), ranks_each=1, seconds=5)
    with pytest.raises(ElsewhereError, match="version 5 is in the learner's GPUs"):
        asyncio.run(sync.join(UPDATE, worker))
    assert asyncio.run(sync.join(UPDATE_IN_STORE, worker)) == 5
    assert worker.calls == [("update", Carrier.OBJECT_STORE)]


def test_pieces_of_a_shared_gpu_are_loaded_one_behind_the_other():
    learner = Learner()
    learner.pieces = [{"names": ["a"]}, {"names": ["b"]}]
    workers = {"w0": Worker(), "w1": Worker()}
    workers["w1"].trouble["load"] = WorkerFailedError("'load' failed")
    outcomes = spread(CudaIpcSync(learner, seconds=5), workers, replace(UPDATE, carrier=Carrier.CUDA_IPC))
    assert outcomes["w0"] == 5
    assert isinstance(outcomes["w1"], WorkerLostError)
    loads = [call[1] for call in workers["w0"].calls if call[0] == "load"]
    assert loads == [{"carrier": "cuda_ipc", "info": {"names": [n]}, "digests": {"a": "d1"}} for n in "ab"]
    assert workers["w1"].names() == ["begin", "load"]


SHARED = replace(UPDATE, buckets=(), carrier=Carrier.SHARED_MEMORY, address="here", announced=3)


def asked(worker) -> list[Carrier]:
    return [call[1] for call in worker.calls if call[0] == "update"]


def far(worker) -> None:
    """Have a worker be on another machine."""

    async def update(update):
        await worker.part("update", update.carrier)
        if update.carrier is Carrier.SHARED_MEMORY:
            raise ElsewhereError("no learner on this machine")
        return update.version

    worker.update = update


def test_a_worker_that_has_shared_weights_is_not_asked_again():
    sync, workers = SharedMemorySync(Learner()), {"a": Worker(), "b": Worker()}
    assert spread(sync, workers, SHARED) == {"a": 5, "b": 5}
    assert spread(sync, workers, replace(SHARED, version=6, held_by=frozenset("a"))) == {"a": 6, "b": 6}
    assert (len(asked(workers["a"])), len(asked(workers["b"]))) == (1, 2)


def test_a_worker_that_was_replaced_is_asked_whatever_the_old_one_had():
    sync = SharedMemorySync(Learner())
    spread(sync, {"a": Worker()}, SHARED)
    new = Worker()
    assert spread(sync, {"a": new}, replace(SHARED, version=6, held_by=frozenset("a"))) == {"a": 6}
    assert asked(new) == [Carrier.SHARED_MEMORY]


def test_workers_elsewhere_take_one_copy_in_the_object_store_and_are_not_asked_here_again():
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
    assert spread(sync, workers, SHARED) == {"near": 5, "far": 5, "further": 5}
    assert publications == [Carrier.OBJECT_STORE]
    learner.version = 6
    assert spread(sync, workers, replace(SHARED, version=6, held_by=frozenset({"near"}))) == dict.fromkeys(workers, 6)
    assert publications == [Carrier.OBJECT_STORE] * 2
    assert asked(workers["far"]) == [Carrier.SHARED_MEMORY, Carrier.OBJECT_STORE, Carrier.OBJECT_STORE]
    assert sync.carrier is Carrier.SHARED_MEMORY, "one is near"


def test_where_all_workers_are_elsewhere_the_learner_publishes_there_at_once():
    sync, workers = SharedMemorySync(Learner()), {"a": Worker(), "b": Worker()}
    for worker in workers.values():
        far(worker)
    spread(sync, workers, SHARED)
    assert sync.carrier is Carrier.OBJECT_STORE
    assert spread(sync, workers, UPDATE_IN_STORE) == {"a": 5, "b": 5}
    near = Worker()
    assert asyncio.run(sync.join(UPDATE_IN_STORE, near)) == 5
    assert asked(near) == [Carrier.OBJECT_STORE], "it joins by what there is"
    spread(sync, {**workers, "c": near}, UPDATE_IN_STORE)
    assert sync.carrier is Carrier.SHARED_MEMORY, "and is offered the shorter way from then on"


def test_a_learner_that_is_lost_leaves_workers_elsewhere_with_the_weights_they_had():
    learner, worker = Learner(), Worker()
    far(worker)

    async def publish(carrier):
        raise RuntimeError("rank 0 died")

    learner.publish = publish
    outcome = spread(SharedMemorySync(learner), {"a": worker}, SHARED)["a"]
    assert isinstance(outcome, WeightsUnavailableError)
    assert not isinstance(outcome, ElsewhereError)
    assert "rank 0 died" in str(outcome)


def test_a_worker_elsewhere_that_is_late_is_not_given_a_later_version():
    """It would count as lost, with weights that nobody meant it to have."""
    learner, worker = Learner(), Worker()
    far(worker)
    learner.version = 6
    outcome = spread(SharedMemorySync(learner), {"a": worker}, SHARED)["a"]
    assert isinstance(outcome, WeightsUnavailableError)
    assert "has version 6, not 5" in str(outcome)
    assert asked(worker) == [Carrier.SHARED_MEMORY]


def test_who_joins_elsewhere_has_the_pool_find_another_way():
    sync, worker = SharedMemorySync(Learner()), Worker()
    far(worker)
    with pytest.raises(ElsewhereError):
        asyncio.run(sync.join(SHARED, worker))
    assert asyncio.run(sync.join(UPDATE_IN_STORE, worker)) == 5


def test_a_worker_that_fails_with_shared_weights_fails_alone():
    sync, workers = SharedMemorySync(Learner()), {"a": Worker(), "b": Worker()}
    workers["a"].trouble["update"] = WorkerFailedError("'update' failed")
    outcome = spread(sync, workers, SHARED)
    assert isinstance(outcome["a"], WorkerFailedError)
    assert outcome["b"] == 5
    spread(sync, workers, replace(SHARED, held_by=frozenset("a")))
    assert len(asked(workers["a"])) == 2, "what it says it has is not believed before it was asked once"
