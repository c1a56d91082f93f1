"""The engine's start: its arguments, its memory, and answers about many clips at once."""

import math
import time
from typing import Any

from benchmarks.gpu_day.inputs import questions_of
from benchmarks.gpu_day.plan import Home
from benchmarks.gpu_day.running import Findings, ask, free_gib, running_worker
from protocol.rollout import Sampling

_ARGUMENTS = (
    "dtype",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "enable_sleep_mode",
    "enable_prefix_caching",
    "enable_chunked_prefill",
    "enforce_eager",
    "async_scheduling",
    "tensor_parallel_size",
    "distributed_executor_backend",
    "kv_cache_dtype",
    "quantization",
    "logprobs_mode",
)


def arguments_of(home: Home) -> dict[str, Any]:
    """Return the engine arguments that a job's worker would pass, those that matter on a GPU."""
    # vLLM takes seconds to import.
    from audio_qa.families import facts_of  # noqa: PLC0415
    from audio_qa.processor import load_processor  # noqa: PLC0415
    from rollout_workers.engine.config import engine_args  # noqa: PLC0415

    settings = home.worker_settings()
    made = engine_args(settings, load_processor(settings.model), facts_of(settings.model))
    return {name: getattr(made, name, None) for name in _ARGUMENTS}


async def start_engine(home: Home) -> Findings:
    """Start the engine and ask about all clips at once: prefills of more tokens than a batch has room for."""
    on_gpu = home.plan.device == "cuda"
    arguments = arguments_of(home)
    home.report(", ".join(f"{name} {value}" for name, value in arguments.items() if value is not None))
    before = free_gib() if on_gpu else 0.0
    started = time.perf_counter()
    async with running_worker(home) as worker:
        seconds = time.perf_counter() - started
        after = free_gib() if on_gpu else 0.0
        sizes, questions = home.plan.sizes, questions_of(home)
        first = time.perf_counter()
        groups = await ask(worker, questions, Sampling(sizes.group_size, sizes.max_tokens))
        answered = time.perf_counter() - first
        status = await worker.heartbeat()
    completions = [completion for group in groups for completion in group.completions]
    prompts = [len(group.prompt_token_ids) for group in groups]
    return Findings(
        checks={
            "all_answered": all(len(group.completions) == sizes.group_size for group in groups),
            "finite": all(math.isfinite(p) and p <= 0 for c in completions for p in c.logprobs),
            "versions_named": all({v for v, _ in c.versions} == {0} for c in completions),
            "answers_differ": len({c.token_ids for c in completions}) > len(completions) // 2,
            "nothing_left": status.sequences == 0,
        },
        measured={
            "arguments": {name: str(value) for name, value in arguments.items()},
            "start_seconds": round(seconds, 1),
            "answer_seconds": round(answered, 2),
            "prompt_tokens": sum(prompts),
            "longest_prompt": max(prompts),
            "completion_tokens": sum(len(c.token_ids) for c in completions),
            **({"free_gib": {"before": round(before, 2), "after": round(after, 2)}} if on_gpu else {}),
        },
    )
