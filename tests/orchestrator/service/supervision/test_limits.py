"""Jobs that no cluster of a size could ever place, by where their workers have to be."""

import pytest
from support.postgres import small_spec

from orchestrator.job.demand import scaled
from orchestrator.service.supervision.limits import Capacity, Limits, NeverFitsError, check_fits

TWO_NODES = Capacity(cpus=64, gpus=16, node_gpus=8)


def test_an_engine_needs_its_gpus_on_one_node():
    spec = small_spec(rollout={"workers": 2, "gpus": 4, "tensor_parallel": 4}, learner={"ranks": 1})
    check_fits(spec, Limits(), TWO_NODES)
    with pytest.raises(NeverFitsError, match=r"4 GPUs on one node \(rollout.gpus, of each worker\), and the largest"):
        check_fits(spec, Limits(), Capacity(cpus=64, gpus=16, node_gpus=2))


def test_a_job_on_one_node_needs_a_node_as_large():
    one_node = {"cluster": {"placement": "one_node"}, "learner": {"ranks": 4}}
    spec = small_spec(rollout={"workers": 4, "gpus": 1}, **one_node)
    check_fits(spec, Limits(), TWO_NODES)
    # Workers that join later run anywhere.
    check_fits(scaled(spec, 8), Limits(), TWO_NODES)
    with pytest.raises(NeverFitsError, match=r"9 GPUs on one node \(cluster.placement: one_node\)"):
        check_fits(small_spec(rollout={"workers": 5, "gpus": 1}, **one_node), Limits(), TWO_NODES)


def test_workers_on_the_learners_gpus_are_at_most_one_for_each():
    spec = small_spec(rollout={"workers": 2, "gpus": 0.5, "weight_sync": "cuda_ipc"}, learner={"ranks": 2})
    check_fits(spec, Limits(gpus=2), TWO_NODES)
    with pytest.raises(NeverFitsError, match="3 rollout workers are too many"):
        check_fits(scaled(spec, 3), Limits(), TWO_NODES)
