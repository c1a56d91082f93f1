"""Decoding rates at several numbers of sequences, with and without a seed for each sequence."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

from audio_qa.question import Question
from benchmarks.gpu_day.inputs import questions_of
from benchmarks.gpu_day.plan import Home
from benchmarks.gpu_day.running import Findings, Worker, ask, running_worker
from protocol.rollout import Sampling


def _without_seeds() -> AbstractContextManager[Any]:
    """Have the engine sample without seeds inside the context. No job can: its samples would depend on the batch."""
    return patch("rollout_workers.engine.engine.first_seed", lambda _: None)


async def _rate(worker: Worker, questions: Sequence[Question], sampling: Sampling, first_seed: int) -> dict[str, Any]:
    """Time one batch twice: its first tokens, and whole. The prefix cache has the prompts then, in both."""
    await ask(worker, questions, Sampling(sampling.group_size, 1), first_seed=first_seed)
    seconds, tokens = [], 0
    for length in (1, sampling.max_tokens):
        started = time.perf_counter()
        groups = await ask(worker, questions, Sampling(sampling.group_size, length), first_seed=first_seed)
        seconds.append(time.perf_counter() - started)
        tokens = sum(len(c.token_ids) for g in groups for c in g.completions)
    sequences = len(questions) * sampling.group_size
    decoding = max(seconds[1] - seconds[0], 1e-9)
    return {
        "tokens": tokens,
        "seconds": round(seconds[1], 3),
        "first_token_seconds": round(seconds[0], 3),
        "tokens_per_second": round(tokens / seconds[1], 1),
        "decoded_per_second": round((tokens - sequences) / decoding, 1),
    }


async def measure_rates(home: Home) -> Findings:
    """Measure tokens per second. With seeds, each sequence of a batch has a random generator of its own."""
    sizes, questions = home.plan.sizes, questions_of(home)
    cases: list[dict[str, Any]] = []
    async with running_worker(home) as worker:
        prefill = time.perf_counter()
        groups = await ask(worker, questions, Sampling(1, 1))
        prefill = time.perf_counter() - prefill
        for sequences in sizes.batches:
            group_size = min(sizes.group_size, sequences)
            # More groups than questions repeat some of them, with other seeds.
            asked = [questions[i % len(questions)] for i in range(sequences // group_size)]
            sampling = Sampling(group_size, sizes.in_flight_tokens // 4)
            for seeded in (True, False):
                with nullcontext() if seeded else _without_seeds():
                    found = await _rate(worker, asked, sampling, 1000 * sequences)
                cases.append({"sequences": sequences, "seeded": seeded, **found})
                home.report(
                    f"{sequences} sequences {'with' if seeded else 'without'} seeds: "
                    f"{found['tokens_per_second']:,.0f} tokens/s, {found['decoded_per_second']:,.0f} while decoding"
                )
    rates = [case["tokens_per_second"] for case in cases if case["seeded"]]
    return Findings(
        checks={"larger_batches_are_faster": rates[-1] > rates[0]},
        measured={
            "prefill_tokens_per_second": round(sum(len(g.prompt_token_ids) for g in groups) / prefill, 1),
            "cases": cases,
        },
    )
