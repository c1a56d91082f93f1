"""Weight updates that meet requests in flight, by the carriers that one GPU allows."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import torch
from safetensors import safe_open

from benchmarks.gpu_day.inputs import questions_of
from benchmarks.gpu_day.plan import Home
from benchmarks.gpu_day.running import (
    Findings,
    Learner,
    Worker,
    agree,
    ask,
    differences,
    free_gib,
    running_learner,
    running_worker,
    summary,
)
from protocol.rollout import Group, Sampling
from protocol.weights import Carrier, digest
from rollout_workers.engine.segment import copied
from rollout_workers.limits import RolloutLimits
from rollout_workers.weight_sync.cuda_ipc import CudaIpcSync
from rollout_workers.weight_sync.shared_memory import SharedMemorySync
from rollout_workers.weight_sync.sync import WeightSync

_NAME = "worker"
_PART_SECONDS = 60.0
_BEFORE_UPDATE_SECONDS = 0.3
"""Time for requests to have tokens of the old weights."""
_REPEATED = 3
_MOVED = 3.0
"""Old completions must score differently by this many times the mean gap: else the update changed nothing."""


async def by_shared_memory(home: Home) -> Findings:
    """Update an engine through the memory of this machine."""
    return await _update(home, Carrier.SHARED_MEMORY)


async def by_cuda_ipc(home: Home) -> Findings:
    """Update an engine from the learner's GPU memory, which both share."""
    return await _update(home, Carrier.CUDA_IPC)


def _sync(carrier: Carrier, learner: Learner) -> WeightSync:
    if carrier is Carrier.CUDA_IPC:
        return CudaIpcSync(learner, limits=RolloutLimits(update_seconds=_PART_SECONDS))
    return SharedMemorySync(learner)


async def _carry(sync: WeightSync, learner: Learner, worker: Worker) -> tuple[int, float]:
    """Bring the learner's weights to the worker; return the worker's version and the seconds."""
    started = time.perf_counter()
    update = await learner.publish(sync.carrier)
    version = await sync.distribute(update, {_NAME: worker})[_NAME]
    return version, time.perf_counter() - started


async def _wrong_bytes_refused(home: Home, worker: Worker) -> bool:
    """Send bytes that do not have their digest; return whether the worker refused them and gave itself up."""
    with safe_open(next(home.model.glob("*.safetensors")), framework="pt") as checkpoint:
        name = min(checkpoint.keys())
        value = checkpoint.get_tensor(name)
    data = value.contiguous().view(-1).view(torch.uint8).numpy()
    with copied([data]) as (path, offsets):
        slot = (name, str(value.dtype).removeprefix("torch."), list(value.shape), offsets[0])
        piece = {
            "carrier": Carrier.OBJECT_STORE.value,
            "info": {"path": path, "slots": [slot]},
            "digests": {name: digest(b"other bytes")},
        }
        await worker.begin_update()
        try:
            await worker.load(piece)
        except Exception as error:
            home.report(f"wrong bytes: {str(error).splitlines()[-1]}")
            return worker.ended
    return False


async def _keep_asking(home: Home, worker: Worker, max_tokens: int, updated: asyncio.Event) -> list[Group]:
    """Ask the questions again and again until the worker is updated; return all groups."""
    sampling, groups = Sampling(home.plan.sizes.group_size, max_tokens), list[Group]()
    while not updated.is_set():
        groups += await ask(worker, questions_of(home)[: home.plan.sizes.questions], sampling, first_seed=len(groups))
    return groups


async def _meet_in_flight(
    home: Home, sync: WeightSync, learner: Learner, worker: Worker
) -> tuple[list[Group], int, float]:
    """Update while requests are decoded; return their groups, the worker's version then, and the update's seconds.

    Publishing takes seconds, so requests follow one another in two series of different lengths: at any moment some of
    them have tokens and lack others.
    """
    longest, updated = home.plan.sizes.in_flight_tokens, asyncio.Event()
    series = [
        asyncio.create_task(_keep_asking(home, worker, tokens, updated)) for tokens in (longest, longest * 3 // 4)
    ]
    await asyncio.sleep(_BEFORE_UPDATE_SECONDS)
    try:
        version, seconds = await _carry(sync, learner, worker)
    finally:
        updated.set()
    return [group for groups in await asyncio.gather(*series) for group in groups], version, seconds


def _tokens_of_versions(groups: Sequence[Group]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for group in groups:
        for completion in group.completions:
            counts.update(dict(completion.versions))
    return counts


async def _update(home: Home, carrier: Carrier) -> Findings:
    on_gpu = home.plan.device == "cuda"
    sizes, questions = home.plan.sizes, questions_of(home)[: home.plan.sizes.questions]
    sampling = Sampling(sizes.group_size, sizes.max_tokens)
    async with running_worker(home) as worker, running_learner(home) as learner:
        sync = _sync(carrier, learner)
        first, _ = await _carry(sync, learner, worker)
        old = await ask(worker, questions, sampling)
        await learner.learn(old)
        groups, version, seconds = await _meet_in_flight(home, sync, learner, worker)
        home.report(f"updated to version {version} in flight, in {seconds:.2f} s")
        tokens = _tokens_of_versions(groups)
        both = sum(len(c.versions) > 1 for g in groups for c in g.completions)
        new = await ask(worker, questions, sampling, first_seed=1000)
        found = summary(differences(new, await learner.score(new)))
        moved = summary(differences(old, await learner.score(old)))
        # Computing digests takes longer than an update without them.
        learner.checksums = False
        free, idle = [free_gib()] if on_gpu else [], []
        for _ in range(_REPEATED):
            idle.append((await _carry(sync, learner, worker))[1])
            free += [free_gib()] if on_gpu else []
        refused = await _wrong_bytes_refused(home, worker)
    home.report(f"tokens by version {dict(sorted(tokens.items()))}, gap {found['mean']:.3g}, moved {moved['mean']:.3g}")
    checks = {
        "versions_agree": (first, version) == (0, learner.version) and learner.version == 1,
        "tokens_of_both_versions": both > 0 and set(tokens) == {0, 1},
        "gap_within_bounds": agree(home, found),
        "weights_changed": moved["mean"] > _MOVED * found["mean"],
        "wrong_bytes_refused": refused,
    }
    if on_gpu:
        checks["no_memory_lost"] = min(free[1:]) > free[1] - 0.1
    return Findings(
        checks=checks,
        measured={
            "seconds_in_flight": round(seconds, 3),
            "seconds_idle": [round(s, 3) for s in idle],
            "completions_of_both_versions": both,
            "tokens_by_version": {str(v): n for v, n in sorted(tokens.items())},
            "gap_nats": found,
            "moved_nats": moved,
            **({"free_gib": [round(f, 2) for f in free]} if on_gpu else {}),
        },
    )
