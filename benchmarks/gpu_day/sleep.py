"""An engine that sleeps while a learner works on the same GPU: free memory before and after, by the driver's count."""

import time
from collections.abc import Sequence

from benchmarks.gpu_day.inputs import questions_of
from benchmarks.gpu_day.plan import Home
from benchmarks.gpu_day.running import GIB, Findings, ask, free_gib, running_learner, running_worker
from protocol.rollout import Group, Sampling

_FREED = 0.8
"""Share of what the engine took that its sleep must give back. CUDA's context and captured graphs stay."""
_TOLERANCE_GIB = 1.0
_SAME = 0.8
"""Share of first tokens that must be equal: batches of other shapes round in other ways. With wrong weights it is 0."""


def _equal_share(before: Sequence[Group], after: Sequence[Group]) -> float:
    """Return the share of completions that are equal."""
    pairs = [
        (one.token_ids, other.token_ids)
        for first, second in zip(before, after, strict=True)
        for one, other in zip(first.completions, second.completions, strict=True)
    ]
    return sum(one == other for one, other in pairs) / len(pairs)


async def sleep_and_wake(home: Home) -> Findings:
    """Start, sleep, take a learner step, wake, and answer as before."""
    sizes, questions = home.plan.sizes, questions_of(home)[: home.plan.sizes.questions]
    sampling, first_token = Sampling(sizes.group_size, sizes.max_tokens), Sampling(sizes.group_size, 1)
    free, seconds = {"at_first": free_gib()}, {}
    async with running_worker(home) as worker:
        free["engine_started"] = free_gib()
        groups = await ask(worker, questions, sampling)
        before = await ask(worker, questions, first_token)
        started = time.perf_counter()
        engine_freed = await worker.sleep()
        seconds["sleep"] = round(time.perf_counter() - started, 2)
        free["engine_sleeps"] = free_gib()
        async with running_learner(home) as learner:
            free["learner_started"] = free_gib()
            await learner.learn(groups)
            free["learner_stepped"] = free_gib()
            learner_freed = await learner.give_memory_back()
            free["learner_rests"] = free_gib()
            started = time.perf_counter()
            await worker.wake()
            seconds["wake"] = round(time.perf_counter() - started, 2)
            free["engine_woke"] = free_gib()
            # The engine has the weights that it slept with: the learner's step was not sent.
            after = await ask(worker, questions, first_token)
            for _ in range(2):
                await worker.sleep()
                await learner.learn(groups)
                await learner.give_memory_back()
                await worker.wake()
            free["third_time"] = free_gib()
    for state, gib in free.items():
        home.report(f"{state.replace('_', ' ')}: {gib:.2f} GiB free")
    took, freed = free["at_first"] - free["engine_started"], free["engine_sleeps"] - free["engine_started"]
    return Findings(
        checks={
            "sleep_frees_memory": freed >= _FREED * took,
            "learner_gives_back": free["learner_rests"] >= free["learner_stepped"],
            "answers_are_the_same": (same := _equal_share(before, after)) >= _SAME,
            "no_memory_lost": free["third_time"] > free["engine_woke"] - _TOLERANCE_GIB,
        },
        measured={
            "free_gib": {state: round(gib, 2) for state, gib in free.items()},
            "freed_gib": {"engine": round(engine_freed / GIB, 2), "learner": round(learner_freed / GIB, 2)},
            "seconds": seconds,
            "equal_first_tokens": round(same, 3),
        },
    )
