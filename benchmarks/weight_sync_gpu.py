"""Duration of a weight update between a learner and an engine that share a GPU, next to a copy within that GPU.

The learner is a real one, in bfloat16, whose parameters all train and were changed by a step. The receiver is a
separate process with Earshot's receiving side and vLLM's: its CUDA IPC reader and its layerwise reload. It loads into
transformers' module, without an engine. In the first round every tensor's bytes are verified on arrival; after the
last, the receiver's parameters are compared with the learner's, byte by byte.

The value is the seconds of a round, from packing the first piece to loading the last layer. A round must not leave more
GPU memory in use than the one before.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from benchmarks.support.learner_workload import (
    FAMILY,
    BenchmarkLearner,
    Shape,
    Workload,
    prepare_workload,
    running_learner,
)
from benchmarks.support.result import Result
from learner.schedule import Schedule
from learner.settings import LearnerSettings, OptimizerSettings
from protocol.weights import Carrier

ONE_BILLION = Shape(
    audio_layers=4, audio_width=512, layers=4, width=4096, heads=32, intermediate=11_008, vocabulary=32_768
)
_TIMEOUT_SECONDS = 120


class Receiver(nn.Module):
    """transformers' model of a checkpoint, loaded by canonical names as vLLM's models are."""

    def __init__(self, folder: str, device: str) -> None:
        super().__init__()
        self.inner = FAMILY.load(folder, torch.bfloat16)[0].to(device)
        self._module_names = {FAMILY.canonical_name(name): name for name, _ in self.inner.named_parameters()}

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        from vllm.model_executor.model_loader.weight_utils import default_weight_loader  # noqa: PLC0415

        for name, value in weights:
            parameter = self.inner.get_parameter(self._module_names[name])
            getattr(parameter, "weight_loader", default_weight_loader)(parameter, value)

    def digests(self) -> dict[str, str]:
        from rollout_workers.engine.bucket import digest_of  # noqa: PLC0415

        return {name: digest_of(self.inner.get_parameter(own)) for name, own in self._module_names.items()}


def receive(connection: Connection, folder: str, device: str) -> None:
    """Run the receiver's process: execute requests until the request is None."""
    # vLLM takes seconds to import, and only this process needs it.
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading  # noqa: PLC0415

    from rollout_workers.engine.transfer import TransferEngine  # noqa: PLC0415

    model = Receiver(folder, device)
    with torch.device(device):  # where vLLM creates the reloaded layers
        record_metadata_for_reloading(model)
    settings = SimpleNamespace(parallel_config=None, model_config=SimpleNamespace(model=folder))
    engine = TransferEngine(None, settings, torch.device(device, 0), model)
    methods: dict[str, Callable[..., Any]] = {
        "start": engine.start_weight_update,
        "load": engine.update_weights,
        "finish": engine.finish_weight_update,
        "digests": model.digests,
    }
    connection.send("ready")
    while (request := connection.recv()) is not None:
        name, *arguments = request
        with torch.no_grad():
            connection.send(methods[name](*arguments))


def carry(learner: BenchmarkLearner, request: Any, digests: dict[str, str]) -> int:
    """Run one update as `rollout_workers.weight_sync.cuda_ipc` does. Return the number of pieces."""
    pieces = 0
    request("start")
    while (piece := learner.next_piece()) is not None:
        request("load", {"carrier": Carrier.CUDA_IPC.value, "info": piece, "digests": digests})
        pieces += 1
    request("finish")
    return pieces


def copy_seconds(nbytes: int, device: str) -> float:
    """Measure a copy of this number of bytes within the GPU: the best of five."""
    source = torch.randint(0, 255, (nbytes,), dtype=torch.uint8, device=device)
    target, best = torch.zeros_like(source), float("inf")
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def measure(shape: Shape, rounds: int, device: str) -> dict[str, Any]:
    """Measure rounds to one receiver. Raises RuntimeError if a byte differs."""
    optimizer = OptimizerSettings(learning_rate=1e-2, schedule=Schedule.CONSTANT)
    settings = LearnerSettings(dtype="bfloat16", zero_stage=1, beta=0, optimizer=optimizer)
    workload = Workload(shape=shape, questions=1, clip_seconds=3.0)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
        work = prepare_workload(Path(folder), workload, dtype=torch.bfloat16, device=device)
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=receive, args=(theirs, str(work.model), device), daemon=True)
        process.start()
        theirs.close()

        def reply() -> Any:
            if not ours.poll(_TIMEOUT_SECONDS):
                raise TimeoutError("the receiver does not reply")
            return ours.recv()

        def request(*arguments: Any) -> Any:
            ours.send(arguments)
            return reply()

        with running_learner(work, settings) as learner:
            learner.step()
            slots = learner.describe(checksums=True)
            digests = {slot.name: str(slot.digest) for slot in slots}
            reply()
            before = request("digests")
            changed = sum(before[name] != digest for name, digest in digests.items())
            print(f"{changed} of {len(digests)} tensors are new; {len(before)} in all", file=sys.stderr, flush=True)
            pieces, seconds, held = carry(learner, request, digests), [], []
            for _ in range(rounds):
                started = time.perf_counter()
                carry(learner, request, {})
                seconds.append(time.perf_counter() - started)
                held.append(torch.cuda.memory_allocated() if device != "cpu" else 0)
                print(f"a round: {seconds[-1]:.4f} s, {held[-1]} bytes held", file=sys.stderr, flush=True)
            after = request("digests")
            wrong = [name for name, digest in (before | digests).items() if after[name] != digest]
            if wrong:
                raise RuntimeError(f"{len(wrong)} tensors differ from the learner's, for example {wrong[0]}")
        ours.send(None)
        process.join(_TIMEOUT_SECONDS)
    nbytes = sum(slot.nbytes for slot in slots)
    return {
        "passed": changed > 0 and held[-1] == held[0],
        "tensors": len(digests),
        "changed": changed,
        "bytes": nbytes,
        "pieces": pieces,
        "seconds": [round(s, 4) for s in seconds],
        "copy_seconds": round(copy_seconds(nbytes, device), 5),
        "held_bytes": held,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="Use a model of some millions of parameters.")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this machine has no GPU")
    found = measure(Shape() if arguments.small else ONE_BILLION, arguments.rounds, "cuda")
    details = {"device": torch.cuda.get_device_name(), **found}
    Result("weight_sync_gpu", round(median(found["seconds"]), 4), "s", "lower", details).publish()
    if not found["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
