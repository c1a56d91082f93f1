"""Cost of pool and actors: tokens per second through them over those of the bare vLLM engine, on the same prompts.

Both sides run an engine with Earshot's configuration, each in a Ray actor, and take turns in one run. Every round has
new questions, with the same seeds on both sides, so both sample the same number of tokens. The bare side gets texts and
audio in memory, passes all of them to vLLM at once, and measures its time inside the actor. The other side is
Earshot's: requests with clip paths go to the pool, the worker reads the clips and renders the chats, and the groups
return to this process.

The value is the median over rounds of the pool's tokens per second over the bare engine's; `passed` is true if it is at
least 0.95.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import ray

from audio_qa.audio import load_audio
from audio_qa.chat import render
from audio_qa.prompt import PromptTemplate
from audio_qa.synthetic.benchmark import load_split, make_benchmark
from benchmarks.support.result import Result
from protocol.rollout import Group, RolloutRequest, Sampling, WorkerSettings
from rollout_workers.pool.pool import RolloutPool

NEEDED = 0.95
GROUP_SIZE, MAX_TOKENS = 8, 64
QUESTIONS = 48
"""Questions per round: three times as many sequences as the engine decodes at once."""


class BareEngine:
    """The bare vLLM engine."""

    def __init__(self, settings: WorkerSettings) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 - in the actor's process only

        from audio_qa.families import facts_of  # noqa: PLC0415
        from audio_qa.processor import load_processor  # noqa: PLC0415
        from rollout_workers.engine.config import engine_args, engine_environment  # noqa: PLC0415
        from rollout_workers.engine.models import adapt  # noqa: PLC0415

        self._processor, facts = load_processor(settings.model), facts_of(settings.model)
        adapt()
        with engine_environment(settings):
            self._llm = AsyncLLM.from_engine_args(engine_args(settings, self._processor, facts))
        self._settings = settings

    async def generate(
        self, prompts: Sequence[tuple[str, npt.NDArray[np.float32], int]], sampling: Sampling
    ) -> tuple[int, float]:
        """Return the number of sampled tokens, and the seconds."""
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        from audio_qa.chat import stop_token_ids  # noqa: PLC0415
        from rollout_workers.engine.engine import first_seed  # noqa: PLC0415

        stops = list(stop_token_ids(self._settings.model, self._processor.tokenizer))

        async def one(text: str, samples: npt.NDArray[np.float32], seed: int) -> int:
            params = SamplingParams(
                n=sampling.group_size,
                max_tokens=sampling.max_tokens,
                seed=first_seed(seed),
                stop_token_ids=stops,
                logprobs=0,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            prompt = {"prompt": text, "multi_modal_data": {"audio": samples}}
            async for output in self._llm.generate(prompt, params, request_id=f"{seed}-{time.monotonic_ns()}"):
                if output.finished:
                    return sum(len(o.token_ids) for o in output.outputs)
            raise RuntimeError("the engine gave no output")

        started = time.perf_counter()
        tokens = sum(await asyncio.gather(*(one(*prompt) for prompt in prompts)))
        return tokens, time.perf_counter() - started


def make_model(folder: Path) -> None:
    """Write the tiny Qwen2-Audio with random weights, which rarely samples its stop token."""
    from learner.checkpoint.export import write_checkpoint  # noqa: PLC0415
    from learner.families.qwen2_audio import Qwen2Audio  # noqa: PLC0415
    from learner.tiny import architecture  # noqa: PLC0415

    processor = architecture.make_processor()
    model = architecture.make_model(architecture.make_config(processor), seed=0)
    write_checkpoint(folder, Qwen2Audio(), model, processor)


async def measure(home: Path, rounds: int) -> list[dict[str, float]]:
    """Measure both sides in turn."""
    from transformers import AutoProcessor  # noqa: PLC0415

    model = home / "model"
    make_model(model)
    questions = load_split(make_benchmark(home / "data", seed=0, train=QUESTIONS * (rounds + 1), heldout=10), "train")
    processor = AutoProcessor.from_pretrained(model)
    settings = WorkerSettings(model=str(model), max_context=512, threads=max(1, (os.cpu_count() or 2) // 2))
    pool = RolloutPool(settings)
    bare = ray.remote(BareEngine).options(num_cpus=1, max_concurrency=10).remote(settings)
    await pool.start(1)
    sampling = Sampling(GROUP_SIZE, MAX_TOKENS)
    measured = []
    for number in range(rounds + 1):
        requests = [
            RolloutRequest(question, PromptTemplate.ANSWER, seed=1000 * number + i)
            for i, question in enumerate(questions[number * QUESTIONS : (number + 1) * QUESTIONS])
        ]
        prompts = [
            (
                render(processor, r.question, r.template),
                load_audio(r.question.audio, max_seconds=2, too_long="truncate").samples,
                r.seed,
            )
            for r in requests
        ]
        tokens, seconds = await bare.generate.remote(prompts, sampling)
        started = time.perf_counter()
        answers = await pool.generate(requests, sampling)
        ours = time.perf_counter() - started
        groups = [answer for answer in answers if isinstance(answer, Group)]
        assert len(groups) == len(requests), "some questions failed"
        sampled = sum(len(c.token_ids) for g in groups for c in g.completions)
        if number:  # the first round is a warm-up
            measured.append({"bare": tokens / seconds, "pool": sampled / ours, "tokens": sampled, "of": tokens})
            print({k: round(v) for k, v in measured[-1].items()}, file=sys.stderr, flush=True)
    await pool.stop()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
            measured = asyncio.run(measure(Path(folder), rounds))
    finally:
        ray.shutdown()
    ratios = [one["pool"] / one["bare"] for one in measured]
    value = median(ratios)
    details = {
        "passed": value >= NEEDED,
        "ratios": [round(ratio, 3) for ratio in ratios],
        "tokens_per_second": {side: [round(one[side]) for one in measured] for side in ("bare", "pool")},
        "tokens": {"bare": [int(one["of"]) for one in measured], "pool": [int(one["tokens"]) for one in measured]},
    }
    Result("rollout_efficiency", round(value, 3), "of the bare engine's tokens/s", "higher", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
