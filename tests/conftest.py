"""Shared fixtures: a tiny model with random weights and a small benchmark, both created once per session."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Two processes with two threads each on two cores mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# On a busy machine an example may take any time; tests of speed measure it themselves.
settings.register_profile("earshot", deadline=None)
settings.load_profile("earshot")

ROOT = Path(__file__).parent.parent

# Tests of these files share expensive fixtures and run in one process; by default each file is its own group.
_TOGETHER = {
    "tests/integration/test_finished_run.py": "repeated runs",
    "tests/integration/test_recovery.py": "repeated runs",
    "tests/rollout_workers/worker/test_evaluation.py": "engines",
    "tests/rollout_workers/worker/test_generation.py": "engines",
    "tests/rollout_workers/worker/test_in_flight_update.py": "engines",
    "tests/rollout_workers/worker/test_one_worker.py": "engines",
    "tests/rollout_workers/engine/test_weights.py": "engines",
}


class FileScheduling(LoadScopeScheduling):
    """Assign files in order to the next free process, so that a file's fixtures start engines and ranks once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _TOGETHER.get(file, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    """Replace pytest-xdist's scheduler, whose grouping by mark has no effect under pytest 9.2."""
    config.option.loadscopereorder = False
    return FileScheduling(config, log)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a checkpoint of the tiny Qwen2-Audio: real classes, random weights."""
    from learner.checkpoint.export import write_checkpoint
    from learner.families.qwen2_audio import Qwen2Audio
    from learner.tiny.architecture import make_config, make_model, make_processor

    folder = tmp_path_factory.mktemp("models") / "tiny"
    processor = make_processor()
    write_checkpoint(folder, Qwen2Audio(), make_model(make_config(processor), seed=0), processor)
    return folder


@pytest.fixture(scope="session")
def benchmark_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a small synthetic benchmark on disk: 60 training questions, 20 held out."""
    from audio_qa.synthetic.benchmark import make_benchmark

    return make_benchmark(tmp_path_factory.mktemp("data"), seed=0, train=60, heldout=20)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Start one Ray for all tests that use actors; tests of the command start their own."""
    import ray

    ray.init(
        address="local",
        num_cpus=16,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        # A killed node is known to be dead after 5 s instead of 15; one that is slow still has five times 10 s.
        _system_config={"health_check_period_ms": 1000},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def alone() -> Iterator[None]:
    """Set up torch.distributed with this process alone: ranks created in it need no Ray."""
    from learner.training.engine import join, shut_down

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    join(0, 1, "127.0.0.1", port, 60)
    yield
    shut_down()
