"""How long do new weights take to reach 1 to 8 receivers on this machine? Against a plain copy of the same bytes.

The learner's side is the product's own: lots of weights go from where they train into Ray's object store. So is the
receivers' side: each is an actor that fetches the references as a rollout worker does, finds the bytes in the store,
maps them as the engine does, and copies every tensor into a parameter of its own. Left out are the engines, eight of
which would not fit: what vLLM does with loaded weights (repacking them for the CPU's matrix multiplications, resetting
caches) comes on top in a job, whatever carried them.

The baseline is one thread's copy of the same tensors into others, both of them touched before, in the same run. The
value is the largest ratio of a whole sync (publication included, until the last receiver has all) for each receiver to
that copy, over all sizes and numbers of receivers that fit into the memory; `passed` says whether it is at most 2.5.
`call_seconds` is what an empty call of the same actors takes: of small models it is the larger part.
"""

import argparse
import json
import math
import os
import sys
import time
from statistics import median
from typing import Any

import ray
import torch
from torch import nn

from benchmarks.result import Result
from learner.publish import BUCKET_BYTES, _pack
from learner.weights import Weight, lots
from protocol.weights import Bucket, WeightUpdate
from rollout_workers.bucket import tensors
from rollout_workers.segment import Mapper, shared
from rollout_workers.worker import fetch

PARAMETERS = (10_000_000, 100_000_000, 1_000_000_000)
RECEIVERS = (1, 2, 4, 8)
MOST = 2.5
WARM_UP = 3
"""Versions until the store's memory and the receivers' have been touched, as they have in a job that runs."""
PAUSE_SECONDS = 1.2
"""Between two versions, as between two steps: Ray frees a version's place about a second after it was dropped."""
_MATRIX = 2048 * 2048
"""Parameters of each weight, as large as those of a model of some billions."""
_OF_THE_MEMORY = 0.85


class Receiver:
    """A rollout worker and its engine, without vLLM between them."""

    def __init__(self, shapes: list[tuple[str, tuple[int, ...]]], dtype: str) -> None:
        torch.set_num_threads(1)
        self._mapper = Mapper()
        self._parameters = {name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, shape in shapes}

    def ready(self) -> None:
        """Nothing: the empty call."""

    def take(self, update: WeightUpdate) -> int:
        """Returns the version."""
        for bucket, arrays in zip(update.buckets, fetch(update), strict=True):
            with shared(arrays) as (path, offsets):
                places = [(s.name, s.dtype, list(s.shape), o) for s, o in zip(bucket.slots, offsets, strict=True)]
                for name, tensor in tensors(self._mapper, path, places):
                    self._parameters[name].copy_(tensor)
        return update.version

    def holds(self, values: dict[str, float]) -> bool:
        """Whether each parameter is filled with one value."""
        return all(bool((self._parameters[name] == value).all()) for name, value in values.items())


def weights_of(parameters: int, dtype: torch.dtype) -> list[Weight]:
    """Matrices with so many parameters together."""
    count = max(1, round(parameters / _MATRIX))
    side = math.isqrt(parameters // count)
    return [Weight(f"layer.{i}.weight", (nn.Parameter(torch.zeros(side, side, dtype=dtype)),)) for i in range(count)]


def publish(weights: list[Weight], version: int) -> WeightUpdate:
    """What the first of one learner rank does."""
    buckets = []
    for lot in lots(weights, BUCKET_BYTES):
        slots, arrays = _pack(lot, checksums=False)
        buckets.append(Bucket(slots, ray.put(arrays)))
    return WeightUpdate(version, tuple(buckets), audio_changed=True, nbytes=sum(w.nbytes for w in weights))


def copy_seconds(weights: list[Weight], targets: list[torch.Tensor]) -> float:
    """One thread's copy of every weight into a tensor that was touched before."""
    started = time.perf_counter()
    for weight, target in zip(weights, targets, strict=True):
        target.copy_(weight.parameters[0])
    return time.perf_counter() - started


def measure(parameters: int, receivers: int, dtype: str, repetitions: int) -> dict[str, Any]:
    """A few syncs to new receivers, and the copies between them."""
    weights = weights_of(parameters, getattr(torch, dtype))
    nbytes = sum(weight.nbytes for weight in weights)
    actor = ray.remote(Receiver).options(num_cpus=0)
    actors = [actor.remote([(w.name, w.shape) for w in weights], dtype) for _ in range(receivers)]
    ray.get([a.ready.remote() for a in actors])
    targets = [torch.ones(weight.shape, dtype=weight.parameters[0].dtype) for weight in weights]
    published, received, whole, copies, calls = [], [], [], [], []
    for version in range(1, repetitions + WARM_UP + 1):
        with torch.no_grad():
            for weight in weights:
                weight.parameters[0].fill_(version % 100)
            time.sleep(PAUSE_SECONDS)
            copies.append(copy_seconds(weights, targets))
        started = time.perf_counter()
        ray.get([a.ready.remote() for a in actors])
        calls.append(time.perf_counter() - started)
        started = time.perf_counter()
        update = publish(weights, version)
        between = time.perf_counter()
        assert ray.get([a.take.remote(update) for a in actors]) == [version] * receivers
        ended = time.perf_counter()
        if version > WARM_UP:
            published.append(between - started)
            received.append(ended - between)
            whole.append(ended - started)
        del update
    assert all(ray.get([a.holds.remote({w.name: version % 100 for w in weights}) for a in actors]))
    for one in actors:
        ray.kill(one)
    copy = median(copies)
    return {
        "parameters": parameters,
        "receivers": receivers,
        "bytes": nbytes,
        "copy_seconds": round(copy, 4),
        "call_seconds": round(median(calls), 4),
        "publish_seconds": round(median(published), 4),
        "receive_seconds": round(median(received), 4),
        "sync_seconds": round(median(whole), 4),
        "copies_per_receiver": round(median(whole) / copy / receivers, 2),
    }


def available_bytes() -> int:
    line = next(line for line in open("/proc/meminfo") if line.startswith("MemAvailable"))  # noqa: PTH123, SIM115
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, nargs="+", default=list(PARAMETERS))
    parser.add_argument("--receivers", type=int, nargs="+", default=list(RECEIVERS))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    torch.set_num_threads(1)
    width = getattr(torch, arguments.dtype).itemsize
    room = _OF_THE_MEMORY * available_bytes()
    # The learner's, two versions in the store (or the two arrays of the plain copy), and each receiver's.
    fits = [(p, r) for p in arguments.parameters for r in arguments.receivers if p * width * (3.5 + r) <= room]
    largest = max(p for p, _ in fits) * width
    store = int(2.3 * largest) + 200 * 2**20
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=store,
    )
    cases = []
    try:
        for parameters, receivers in fits:
            cases.append(measure(parameters, receivers, arguments.dtype, arguments.repetitions))
            print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    finally:
        ray.shutdown()
    value = max(case["copies_per_receiver"] for case in cases)
    left_out = [(p, r) for p in arguments.parameters for r in arguments.receivers if (p, r) not in fits]
    details = {"passed": value <= MOST, "dtype": arguments.dtype, "did_not_fit": left_out, "cases": cases}
    Result("weight_sync", value, "copies per receiver", "lower", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
