"""What many tests share: a tiny model with random weights and a small benchmark, both made once a session."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Two processes with two threads each on two cores wait for one another more than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

ROOT = Path(__file__).parent.parent

# These files' tests share what is dear to make, and run in one process; by default each file is a group of its own.
_TOGETHER = {
    "tests/integration/test_run.py": "repeated runs",
    "tests/integration/test_recovery.py": "repeated runs",
    "tests/rollout_workers/worker/test_evaluation.py": "engines",
    "tests/rollout_workers/worker/test_generation.py": "engines",
    "tests/rollout_workers/worker/test_in_flight_update.py": "engines",
    "tests/rollout_workers/worker/test_one_worker.py": "engines",
    "tests/rollout_workers/engine/test_weights.py": "engines",
}


class FileScheduling(LoadScopeScheduling):
    """Files in their order to whichever process is free: a file's fixtures start engines and ranks once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _TOGETHER.get(file, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    """For pytest-xdist, whose own grouping by mark does nothing under pytest 9.2."""
    config.option.loadscopereorder = False
    return FileScheduling(config, log)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny Qwen2-Audio: the real classes, random weights."""
    from learner.checkpoint.export import write_checkpoint
    from learner.families.qwen2_audio import Qwen2Audio
    from learner.tiny.architecture import make_config, make_model, make_processor

    folder = tmp_path_factory.mktemp("models") / "tiny"
    processor = make_processor()
    write_checkpoint(folder, Qwen2Audio(), make_model(make_config(processor), seed=0), processor)
    return folder


@pytest.fixture(scope="session")
def benchmark_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic benchmark on disk: 60 training questions, 20 held out."""
    from audio_qa.synthetic.benchmark import make_benchmark

    return make_benchmark(tmp_path_factory.mktemp("data"), seed=0, train=60, heldout=20)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One Ray for all tests that talk to actors; the command's own tests start theirs."""
    import ray

    ray.init(
        address="local", num_cpus=16, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def alone() -> Iterator[None]:
    """torch.distributed with this process alone: ranks made in it need no Ray."""
    from learner.training.engine import join, leave

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    join(0, 1, "127.0.0.1", port, 60)
    yield
    leave()
