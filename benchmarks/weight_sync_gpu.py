"""How long do new weights take from a learner to an engine that share a GPU? Against a copy within that GPU.

The learner is a real one, in bfloat16, whose parameters all train and have been moved by a step. The receiver is a
process of its own with our receiving side and vLLM's: its reader of CUDA IPC and its layerwise reload. What it loads
into is transformers' module; there is no engine around it. In the first round every tensor's bytes are checked on
arrival; behind the last, the receiver's parameters are compared with the learner's, byte by byte.

The value is the seconds of a round, from the first piece that is packed to the last layer that is loaded. A round must
leave no more of the GPU's memory in use than the one before.
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

from benchmarks.learner_work import FAMILY, LearnerAtWork, Shape, Workload, learner_at_work, make_work
from benchmarks.result import Result
from learner.schedule import Schedule
from learner.settings import LearnerSettings, OptimizerSettings
from protocol.weights import Carrier

ONE_BILLION = Shape(
    audio_layers=4, audio_width=512, layers=4, width=4096, heads=32, intermediate=11_008, vocabulary=32_768
)
_PATIENCE_SECONDS = 120


class Receiver(nn.Module):
    """transformers' model of a checkpoint, loaded by the checkpoint's names as vLLM's models are."""

    def __init__(self, folder: str, device: str) -> None:
        super().__init__()
        self.inner = FAMILY.load(folder, torch.bfloat16)[0].to(device)
        self._places = {FAMILY.canonical_name(name): name for name, _ in self.inner.named_parameters()}

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        from vllm.model_executor.model_loader.weight_utils import default_weight_loader  # noqa: PLC0415

        for name, value in weights:
            parameter = self.inner.get_parameter(self._places[name])
            getattr(parameter, "weight_loader", default_weight_loader)(parameter, value)

    def digests(self) -> dict[str, str]:
        from rollout_workers.engine.bucket import digest_of  # noqa: PLC0415

        return {name: digest_of(self.inner.get_parameter(place)) for name, place in self._places.items()}


def receive(connection: Connection, folder: str, device: str) -> None:
    """The receiver's process: does what it is told until it is told nothing more."""
    # vLLM takes seconds to import, and its processes differ from those that only measure.
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading  # noqa: PLC0415

    from rollout_workers.engine.transfer import TransferEngine  # noqa: PLC0415

    model = Receiver(folder, device)
    with torch.device(device):  # where vLLM will make layers anew
        record_metadata_for_reloading(model)
    settings = SimpleNamespace(parallel_config=None, model_config=SimpleNamespace(model=folder))
    engine = TransferEngine(None, settings, torch.device(device, 0), model)
    does: dict[str, Callable[..., Any]] = {
        "start": engine.start_weight_update,
        "load": engine.update_weights,
        "finish": engine.finish_weight_update,
        "digests": model.digests,
    }
    connection.send("ready")
    while (told := connection.recv()) is not None:
        name, *arguments = told
        with torch.no_grad():
            connection.send(does[name](*arguments))


def carry(learner: LearnerAtWork, ask: Any, digests: dict[str, str]) -> int:
    """One update, as `rollout_workers.weight_sync.cuda_ipc` drives it. Returns the number of pieces."""
    pieces = 0
    ask("start")
    while (piece := learner.next_piece()) is not None:
        ask("load", {"carrier": Carrier.CUDA_IPC.value, "info": piece, "digests": digests})
        pieces += 1
    ask("finish")
    return pieces


def copy_seconds(nbytes: int, device: str) -> float:
    """A copy of so many bytes within the GPU: the best of some."""
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
    """Some rounds to one receiver; raises where a byte differs."""
    optimizer = OptimizerSettings(learning_rate=1e-2, schedule=Schedule.CONSTANT)
    settings = LearnerSettings(dtype="bfloat16", zero_stage=1, beta=0, optimizer=optimizer)
    workload = Workload(shape=shape, questions=1, clip_seconds=3.0)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
        work = make_work(Path(folder), workload, dtype=torch.bfloat16, device=device)
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=receive, args=(theirs, str(work.model), device), daemon=True)
        process.start()
        theirs.close()

        def told() -> Any:
            if not ours.poll(_PATIENCE_SECONDS):
                raise TimeoutError("the receiver does not answer")
            return ours.recv()

        def ask(*what: Any) -> Any:
            ours.send(what)
            return told()

        with learner_at_work(work, settings) as learner:
            learner.step()
            slots = learner.describe(checksums=True)
            digests = {slot.name: str(slot.digest) for slot in slots}
            told()
            before = ask("digests")
            changed = sum(before[name] != digest for name, digest in digests.items())
            print(f"{changed} of {len(digests)} tensors are new; {len(before)} in all", file=sys.stderr, flush=True)
            pieces, seconds, held = carry(learner, ask, digests), [], []
            for _ in range(rounds):
                started = time.perf_counter()
                carry(learner, ask, {})
                seconds.append(time.perf_counter() - started)
                held.append(torch.cuda.memory_allocated() if device != "cpu" else 0)
                print(f"a round: {seconds[-1]:.4f} s, {held[-1]} bytes held", file=sys.stderr, flush=True)
            after = ask("digests")
            wrong = [name for name, digest in (before | digests).items() if after[name] != digest]
            if wrong:
                raise RuntimeError(f"{len(wrong)} tensors differ from the learner's, {wrong[0]} among them")
        ours.send(None)
        process.join(_PATIENCE_SECONDS)
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
    parser.add_argument("--small", action="store_true", help="a model of some millions of parameters")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU here")
    found = measure(Shape() if arguments.small else ONE_BILLION, arguments.rounds, "cuda")
    details = {"device": torch.cuda.get_device_name(), **found}
    Result("weight_sync_gpu", round(median(found["seconds"]), 4), "s", "lower", details).publish()
    if not found["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
