"""A node with the learner's rank is lost, and the others are full: workers make room for the new rank."""

import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from integration.conftest import end, start_earshot, wait_for

from orchestrator.run.directory import RunDirectory

WORKERS = 3
SOON = 150.0
"""Seconds until the next step: a rank without room would wait for 300. Ray notices a lost node after about 20."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def cluster() -> Iterator[tuple[Any, list[Any]]]:
    """A cluster with exactly as many CPUs as the job's parts, on three nodes beside its head."""
    from ray.cluster_utils import Cluster

    options = {"include_dashboard": False, "object_store_memory": 100_000_000}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **options})
    nodes = [made.add_node(num_cpus=cpus, object_store_memory=100_000_000) for cpus in (2, 2, 1)]
    yield made, nodes
    made.shutdown()


def node_of(title: str, nodes: list[Any]) -> Any:
    """Return the node on which an actor runs."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    found = [
        raylets[process.ppid()]
        for process in psutil.process_iter(["cmdline"])
        if title in " ".join(process.info["cmdline"] or ()) and process.ppid() in raylets
    ]
    assert len(found) == 1, found
    return found[0]


def test_workers_make_room_for_the_new_rank(cluster, job_file, tmp_path) -> None:
    made, nodes = cluster
    job = job_file(
        tmp_path / "job",
        steps=100_000,
        data={"evaluation": None},
        rollout={"workers": WORKERS, "limits": {"silent_seconds": 10, "max_restarts": 1000}},
        learner={"max_restarts": 100, "timeout_seconds": 60},
        reward={"max_restarts": 100},
        checkpoint={"every": 2, "keep_last": 2},
        cluster={"address": made.address},
    )
    home = tmp_path / "run"
    process = start_earshot("run", job, "--json", "--run-dir", home, stderr=tmp_path / "stderr.txt")
    try:
        wait_for((home / "events.jsonl").exists, process, 120)
        run = RunDirectory(home)

        def serving() -> int:
            return len({event["worker"] for event in run.events() if event["kind"] == "worker_started"})

        wait_for(lambda: serving() == WORKERS and len(run.metrics()) > 3, process, 300)
        made.remove_node(node_of("ray::LearnerActor", nodes), allow_graceful=False)
        lost = time.monotonic()
        wait_for(lambda: any(event.get("state") == "recovering" for event in run.events()), process, 120)
        noticed, done = time.monotonic(), len(run.metrics())
        wait_for(lambda: len(run.metrics()) > done, process, SOON)
        print(f"noticed after {noticed - lost:.0f} s, a step {time.monotonic() - noticed:.0f} s later")
        kinds = [event["kind"] for event in run.events()]
        assert "worker_withdrawn" in kinds or "room_pending" not in kinds
    finally:
        end(process)
