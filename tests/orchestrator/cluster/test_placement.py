"""The bundles of a job's parts, and the nodes that they go to. Without Ray."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster import reservation
from orchestrator.cluster.placement import Bundles, Strategy, bundle_for, described, fit, learner_bundles, strategy_for
from orchestrator.job import demand
from orchestrator.job.spec import JobSpec

NODE = {"CPU": 16.0, "GPU": 8.0}


def job(*, ranks=2, method="reinforce", cluster=None, **rollout):
    return JobSpec.model_validate(
        {
            "model": {"path": "builtin:tiny-qwen2-audio", "max_context": 512},
            "data": {"train": "t", "evaluation": "e"},
            "method": method,
            "rollout": {"workers": 2, **rollout},
            "learner": {"ranks": ranks},
            "cluster": {"address": "auto", **(cluster or {})},
        }
        | ({"steps": 0} if method == "evaluate" else {})
    )


SHARED = {"gpus": 0.5, "weight_sync": "cuda_ipc"}


def test_on_shared_gpus_each_bundle_is_one_gpu_for_a_rank_and_a_worker():
    bundles = learner_bundles(job(ranks=2, **SHARED))
    assert bundles == Bundles(({"CPU": 2, "GPU": 1.0},) * 2, workers=2)
    assert demand.gpus(job(ranks=2, **SHARED)) == 2
    # A GPU of the learner is the job's also while no worker has a part of it.
    assert demand.max_gpus(demand.scaled(job(ranks=2, **SHARED), 1)) == 2


@pytest.mark.parametrize("share", [0.5, 0.3, 1 / 3, 0.33335, 0.9999, 0.00001, 1e-9])
def test_both_parts_of_a_gpu_fit_it_in_rays_rounding(share):
    spec = job(gpus=share, weight_sync="cuda_ipc")
    parts = [round(part * 10_000) for part in (demand.gpus_per_worker(spec), demand.gpus_per_rank(spec))]
    assert sum(parts) == 10_000
    assert min(parts) >= 1


def test_gpus_of_their_own_are_the_learners_bundles_alone():
    assert learner_bundles(job(ranks=4, gpus=1)) == Bundles(({"CPU": 1, "GPU": 1},) * 4)
    assert learner_bundles(job(ranks=1)) == Bundles(({"CPU": 1},))


def test_on_one_node_the_workers_have_bundles_after_the_ranks():
    spec = job(ranks=1, gpus=2, tensor_parallel=2, cluster={"placement": "one_node"})
    bundles = learner_bundles(spec)
    worker = {"CPU": 1, "GPU": 2}
    assert bundles == Bundles(({"CPU": 1, "GPU": 1}, worker, worker), first_worker=1, workers=2, one_node=True)
    assert strategy_for(bundles, [{"CPU": 64.0, "GPU": 4.0}]) is Strategy.ONE_NODE
    # Their room stays reserved when fewer are wanted.
    assert demand.max_gpus(demand.scaled(spec, 1)) == demand.max_gpus(spec) == 5
    assert demand.max_gpus(demand.scaled(spec, 3)) == 7


def test_the_cpus_of_a_shared_gpus_worker_are_reserved_with_it():
    assert demand.max_cpus(job(ranks=2, **SHARED | {"workers": 1})) == 2 + 2 + 1
    assert demand.max_cpus(job(ranks=2, gpus=1, workers=1)) == 1 + 2 + 1


def test_a_job_without_ranks_has_none():
    assert demand.most_workers(job(method="evaluate", **SHARED)) is None
    assert demand.gpus(job(method="evaluate", **SHARED)) == 1


@pytest.mark.parametrize(
    ("ranks", "nodes", "expected"),
    [
        (4, [NODE, NODE], Strategy.ONE_NODE),
        (8, [NODE, NODE], Strategy.ONE_NODE),
        (9, [NODE, NODE], Strategy.FEW_NODES),
        (4, [{"CPU": 64.0}, {"CPU": 4.0, "GPU": 4.0}], Strategy.ONE_NODE),
        (4, [{"CPU": 64.0}, {"CPU": 3.0, "GPU": 4.0}], Strategy.FEW_NODES),
        (4, [], Strategy.FEW_NODES),
    ],
)
def test_ranks_are_on_one_node_where_a_node_has_as_many_gpus(ranks, nodes, expected):
    assert strategy_for(learner_bundles(job(ranks=ranks, gpus=1)), nodes) is expected


def test_ranks_on_cpus_are_not_bound_to_one_node():
    assert strategy_for(learner_bundles(job(ranks=2)), [NODE]) is Strategy.FEW_NODES


FOUR = Bundles(({"CPU": 1, "GPU": 1},) * 4)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([{"CPU": 8.0, "GPU": 3.0}, {"CPU": 1.0, "GPU": 1.0}], True),
        ([{"CPU": 8.0, "GPU": 3.0}], False),
        # Enough of each, but not on the same nodes.
        ([{"CPU": 64.0}, {"CPU": 3.0, "GPU": 8.0}], False),
        ([], False),
    ],
)
def test_bundles_that_no_free_cluster_would_hold_are_infeasible(nodes, expected, monkeypatch):
    assert fit(FOUR, nodes) is expected
    # Ray's answer is the same in all cases, unless there is no node.
    monkeypatch.setattr(reservation, "placement_group", lambda *_, **__: None)
    monkeypatch.setattr(reservation, "placement_group_table", lambda group: {"state": "PENDING"})
    monkeypatch.setattr(reservation, "_nodes", lambda: nodes)
    state = asyncio.run(reservation.Reservation(FOUR).state())
    assert state is (reservation.ReservationState.WAITING if expected else reservation.ReservationState.INFEASIBLE)


def test_what_is_needed_in_words():
    assert described(learner_bundles(job(ranks=4, gpus=1)), Strategy.ONE_NODE) == "4 GPUs and 4 CPUs on one node"
    assert described(Bundles(({"CPU": 1},)), Strategy.FEW_NODES) == "1 CPU"


@given(
    first=st.integers(0, 3),
    workers=st.integers(0, 4),
    moves=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30),
)
def test_no_two_workers_have_one_bundle(first, workers, moves):
    """Slots join, are replaced and leave in any order."""
    bundles, places = Bundles(({"GPU": 1},) * (first + workers), first_worker=first, workers=workers), {}
    for slot, joins in moves:
        last = places.pop(slot, None)
        if not joins:
            continue
        free = workers - len(places)
        bundle = bundle_for(slot, bundles, list(places.values()), last)
        assert (bundle is None) == (free == 0)
        if bundle is not None:
            assert first <= bundle < first + workers
            assert last is None or bundle == last
            places[slot] = bundle
    assert len(set(places.values())) == len(places)


@pytest.mark.parametrize(
    ("rollout", "learner", "words"),
    [
        ({"gpus": 2}, {}, "gpus is 2"),
        ({"gpus": 1, "tensor_parallel": 2}, {}, "gpus is 1"),
        ({"gpus": 0.5, "tensor_parallel": 2}, {}, "gpus is 0.5"),
        ({"gpus": 1.5}, {}, "gpus is 1.5"),
        ({**SHARED, "tensor_parallel": 2}, {}, "with weight_sync cuda_ipc each worker has part of one"),
        ({**SHARED, "workers": 3}, {"ranks": 2}, r"rollout.workers \(3\) is greater than learner.ranks \(2\)"),
        (
            {**SHARED, "workers": 1, "autoscale": {"max": 3}},
            {"ranks": 2},
            r"rollout.autoscale.max \(3\) is greater than learner.ranks \(2\)",
        ),
    ],
)
def test_workers_that_cannot_be_placed_are_refused(rollout, learner, words):
    with pytest.raises(ValueError, match=words):
        job(**{"ranks": 2} | learner, **rollout)


def test_an_engine_of_several_processes_runs_on_cpus_as_well():
    assert job(tensor_parallel=2).rollout.gpus == 0
