"""The calls that the carriers between GPUs make of learner and workers; no GPU needed."""

import asyncio
from dataclasses import replace

import pytest
from support.carriers import UPDATE, UPDATE_IN_STORE, Learner, Worker, distribute

from protocol.weights import Carrier
from rollout_workers.errors import ElsewhereError, WorkerFailedError, WorkerLostError
from rollout_workers.limits import RolloutLimits
from rollout_workers.weight_sync.cuda_ipc import CudaIpcSync
from rollout_workers.weight_sync.nccl import GroupPlan, NcclSync, update_info

LIMITS = RolloutLimits(update_seconds=5)
SHORT = RolloutLimits(update_seconds=0.1, stall_seconds=0.1)


@pytest.mark.parametrize(
    ("workers", "ranks_each", "members", "offsets"),
    [
        (["a"], 1, 2, {"a": 1}),
        (["a", "b", "c"], 1, 4, {"a": 1, "b": 2, "c": 3}),
        (["a", "b", "c"], 4, 13, {"a": 1, "b": 5, "c": 9}),
    ],
)
def test_every_rank_of_every_engine_has_a_unique_number(workers, ranks_each, members, offsets):
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
    sync = NcclSync(learner, ranks_each=2, limits=LIMITS)
    workers = {"w0": Worker(), "w1": Worker()}
    assert distribute(sync, workers) == distribute(sync, workers) == {"w0": 5, "w1": 5}
    assert [call[0] for call in learner.calls] == ["meet", "broadcast", "broadcast"]
    assert workers["w1"].names() == ["begin", "meet", "load", "finish", "begin", "load", "finish"]
    _, piece = workers["w1"].calls[2]
    assert piece == {"carrier": "nccl", "info": update_info(UPDATE), "digests": {"a": "d1"}}
    workers["w1"] = Worker()  # replaced, under the same name
    distribute(sync, workers)
    distribute(sync, {"w0": workers["w0"]})
    met = [call for call in learner.calls if call[0] == "meet"]
    assert met == [("meet", "learner", 7001, 5), ("meet", "learner", 7002, 5), ("meet", "learner", 7003, 3)]


def test_a_worker_that_is_not_ready_is_left_out_before_anything_is_sent():
    learner = Learner()
    workers = {"w0": Worker(), "w1": Worker(), "w2": Worker()}
    workers["w0"].trouble["begin"] = None  # hangs
    workers["w2"].trouble["begin"] = WorkerFailedError("'begin_update' failed")
    outcomes = distribute(NcclSync(learner, ranks_each=1, limits=SHORT), workers)
    assert outcomes.pop("w1") == 5
    assert all(isinstance(outcome, WorkerLostError) for outcome in outcomes.values())
    assert "within 0 s" in str(outcomes["w0"])
    assert learner.calls == [("meet", "learner", 7001, 2), ("broadcast",)]


def test_a_worker_that_fails_in_the_broadcast_fails_alone_and_the_group_is_made_anew():
    learner = Learner()
    workers = {"w0": Worker(), "w1": Worker()}
    sync = NcclSync(learner, ranks_each=1, limits=SHORT)
    workers["w1"].trouble["load"] = None
    outcomes = distribute(sync, workers)
    assert outcomes["w0"] == 5
    assert isinstance(outcomes["w1"], WorkerLostError)
    assert "finish" not in workers["w1"].names()
    distribute(sync, {"w0": workers["w0"]})
    assert [call[0] for call in learner.calls] == ["meet", "broadcast", "meet", "broadcast"]


def test_a_group_that_cannot_be_made_fails_all_workers():
    workers = {"w0": Worker(), "w1": Worker()}
    workers["w1"].trouble["meet"] = WorkerFailedError("'meet' failed: no NCCL")
    outcomes = distribute(NcclSync(Learner(), ranks_each=1, limits=SHORT), workers)
    assert all("no NCCL" in str(outcome) for outcome in outcomes.values())


def test_a_joining_worker_takes_the_object_store():
    worker = Worker()
    sync = NcclSync(Learner(), ranks_each=1, limits=LIMITS)
    with pytest.raises(ElsewhereError, match="version 5 is in the learner's GPUs"):
        asyncio.run(sync.deliver(UPDATE, worker))
    assert asyncio.run(sync.deliver(UPDATE_IN_STORE, worker)) == 5
    assert worker.calls == [("update", Carrier.OBJECT_STORE)]


def test_pieces_of_a_shared_gpu_are_loaded_sequentially():
    learner = Learner()
    learner.pieces = [{"names": ["a"]}, {"names": ["b"]}]
    workers = {"w0": Worker(), "w1": Worker()}
    workers["w1"].trouble["load"] = WorkerFailedError("'load' failed")
    outcomes = distribute(CudaIpcSync(learner, limits=LIMITS), workers, replace(UPDATE, carrier=Carrier.CUDA_IPC))
    assert outcomes["w0"] == 5
    assert isinstance(outcomes["w1"], WorkerLostError)
    loads = [call[1] for call in workers["w0"].calls if call[0] == "load"]
    assert loads == [{"carrier": "cuda_ipc", "info": {"names": [n]}, "digests": {"a": "d1"}} for n in "ab"]
    assert workers["w1"].names() == ["begin", "load"]
