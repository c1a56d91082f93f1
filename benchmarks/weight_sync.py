"""Duration of a weight update to 1 to 8 receivers on this machine, relative to a plain copy of the same bytes.

The learner's side is Earshot's, and so is the receivers' side: each is an actor that gets the announcement, or fetches
the weights, as a rollout worker does, maps the bytes as the engine does, and copies every tensor into a parameter. The
engines are left out, because eight would not fit: vLLM's processing of loaded weights (repacking for the CPU's matrix
multiplications, resetting caches) is additional in a job, with any carrier.

The time is measured from the learner's first byte until it knows that the last receiver has all weights. The baseline
is one thread's copy of the same tensors into others, in memory that was touched before, in the same run. The value is
the largest ratio per receiver of shared memory, the carrier within a machine, over all sizes and numbers of receivers
that fit into memory; `passed` is true if it is at most 2.5. The object store, the carrier between machines, is measured
in the same run, and so is `call_seconds`, an empty call of the same actors: for small models it is most of that
carrier's time.
"""

import argparse
import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import product
from statistics import median
from typing import Any

import ray
import torch
from torch import nn

from benchmarks.support.result import Result
from learner.model.weights import Weight, in_buckets
from learner.weight_sync.publish import BUCKET_BYTES, _pack
from learner.weight_sync.shared_memory import SharedMemoryPublisher
from protocol.announcement import Announcement, PlacedTensor
from protocol.weights import Bucket, Carrier, TensorSlot, WeightUpdate
from rollout_workers.engine.bucket import Place, tensors
from rollout_workers.engine.segment import Mapper, shared
from rollout_workers.worker.stored import fetch
from rollout_workers.worker.subscription import Subscription

PARAMETERS = (10_000_000, 100_000_000, 1_000_000_000)
RECEIVERS = (1, 2, 4, 8)
MOST = 2.5
WARM_UP = 3
"""Versions until the memory of the store and the receivers has been touched, as in a running job."""
PAUSE_SECONDS = 1.2
"""Pause between two versions, as between two steps: Ray frees a version about a second after it is dropped."""
_MATRIX = 2048 * 2048
"""Parameters per weight, as in a model of some billions of parameters."""
_OF_THE_MEMORY = 0.85


class Receiver:
    """A rollout worker and its engine, without vLLM."""

    def __init__(self, name: str, shapes: list[tuple[str, tuple[int, ...]]], dtype: str) -> None:
        torch.set_num_threads(1)
        self._mapper = Mapper()
        self._subscription = Subscription(name, self._replace)
        self._parameters = {name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, shape in shapes}

    async def ready(self) -> None:
        """Do nothing: the empty call."""

    async def take(self, update: WeightUpdate) -> int:
        """Load an update and return its version."""
        if update.carrier is Carrier.SHARED_MEMORY:
            await self._subscription.take(update)
            return update.version
        for bucket, arrays in zip(update.buckets, await asyncio.to_thread(fetch, update), strict=True):
            with shared(arrays) as (path, offsets):
                self._load(path, [_place(slot, offset) for slot, offset in zip(bucket.slots, offsets, strict=True)])
        return update.version

    async def _replace(self, announced: Announcement, path: str, placed: Sequence[PlacedTensor]) -> None:
        self._load(path, [_place(p.slot, p.offset) for p in placed])

    def _load(self, path: str, places: list[Place]) -> None:
        for name, tensor in tensors(self._mapper, path, places):
            self._parameters[name].copy_(tensor)

    async def holds(self, values: dict[str, float]) -> bool:
        """Return whether each parameter is filled with its value."""
        return all(bool((self._parameters[name] == value).all()) for name, value in values.items())


def _place(slot: TensorSlot, offset: int) -> Place:
    return slot.name, slot.dtype, list(slot.shape), offset


def weights_of(parameters: int, dtype: torch.dtype) -> list[Weight]:
    """Return matrices with this number of parameters in total."""
    count = max(1, round(parameters / _MATRIX))
    side = math.isqrt(parameters // count)
    return [Weight(f"layer.{i}.weight", (nn.Parameter(torch.zeros(side, side, dtype=dtype)),)) for i in range(count)]


class Learner:
    """The publishing side of a learner with one rank."""

    def __init__(self, weights: list[Weight], carrier: Carrier) -> None:
        self._weights, self._carrier = weights, carrier
        self._publisher = SharedMemoryPublisher() if carrier is Carrier.SHARED_MEMORY else None

    def publish(self, version: int) -> WeightUpdate:
        if self._publisher is None:
            return self._store(version)
        return self._publisher.publish(self._weights, lambda _: nullcontext(), version, audio_changed=True)

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()

    def _store(self, version: int) -> WeightUpdate:
        buckets = []
        for bucket in in_buckets(self._weights, BUCKET_BYTES):
            slots, arrays = _pack(bucket, checksums=False)
            buckets.append(Bucket(slots, ray.put(arrays)))
        return WeightUpdate(version, tuple(buckets), audio_changed=True, nbytes=sum(w.nbytes for w in self._weights))


def copy_seconds(weights: list[Weight], targets: list[torch.Tensor]) -> float:
    """Measure one thread's copy of every weight into a tensor in touched memory."""
    started = time.perf_counter()
    for weight, target in zip(weights, targets, strict=True):
        target.copy_(weight.parameters[0])
    return time.perf_counter() - started


def measure(parameters: int, receivers: int, carrier: Carrier, dtype: str, repetitions: int) -> dict[str, Any]:
    """Measure some weight updates to new receivers, and plain copies between them."""
    weights = weights_of(parameters, getattr(torch, dtype))
    nbytes = sum(weight.nbytes for weight in weights)
    actor = ray.remote(Receiver).options(num_cpus=0)
    shapes = [(w.name, w.shape) for w in weights]
    actors = {f"receiver-{i}": actor.remote(f"receiver-{i}", shapes, dtype) for i in range(receivers)}
    ray.get([a.ready.remote() for a in actors.values()])
    learner = Learner(weights, carrier)
    targets = [torch.ones(weight.shape, dtype=weight.parameters[0].dtype) for weight in weights]
    published, whole, copies, calls = [], [], [], []
    for version in range(1, repetitions + WARM_UP + 1):
        with torch.no_grad():
            for weight in weights:
                weight.parameters[0].fill_(version % 100)
            time.sleep(PAUSE_SECONDS)
            copies.append(copy_seconds(weights, targets))
        started = time.perf_counter()
        ray.get([a.ready.remote() for a in actors.values()])
        calls.append(time.perf_counter() - started)
        started = time.perf_counter()
        update = learner.publish(version)
        between = time.perf_counter()
        remaining = [a for name, a in actors.items() if name not in update.held_by]
        assert ray.get([a.take.remote(update) for a in remaining]) == [version] * len(remaining)
        ended = time.perf_counter()
        if version > WARM_UP:
            published.append(between - started)
            whole.append(ended - started)
        del update
    assert all(ray.get([a.holds.remote({w.name: version % 100 for w in weights}) for a in actors.values()]))
    learner.close()
    for one in actors.values():
        ray.kill(one)
    copy = median(copies)
    return {
        "carrier": carrier.value,
        "parameters": parameters,
        "receivers": receivers,
        "bytes": nbytes,
        "copy_seconds": round(copy, 4),
        "call_seconds": round(median(calls), 4),
        "publish_seconds": round(median(published), 4),
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
    parser.add_argument("--carriers", nargs="+", type=Carrier, default=[Carrier.SHARED_MEMORY, Carrier.OBJECT_STORE])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    torch.set_num_threads(1)
    width = getattr(torch, arguments.dtype).itemsize
    room = _OF_THE_MEMORY * available_bytes()
    # The learner's weights, two published versions, the target of the plain copy, and each receiver's weights.
    fits = [(p, r) for p in arguments.parameters for r in arguments.receivers if p * width * (4.5 + r) <= room]
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
        for (parameters, receivers), carrier in product(fits, arguments.carriers):
            cases.append(measure(parameters, receivers, carrier, arguments.dtype, arguments.repetitions))
            print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    finally:
        ray.shutdown()
    of_the_value = arguments.carriers[0].value
    value = max(case["copies_per_receiver"] for case in cases if case["carrier"] == of_the_value)
    left_out = [(p, r) for p in arguments.parameters for r in arguments.receivers if (p, r) not in fits]
    measured = {"carrier": of_the_value, "dtype": arguments.dtype, "did_not_fit": left_out, "cases": cases}
    details = {"passed": value <= MOST, **measured}
    Result("weight_sync", value, "copies per receiver", "lower", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
