"""Learner steps at the sizes of Qwen2-Audio-7B on one GPU, with random weights.

The value is the achieved rate over the card's rate of multiplying bfloat16 matrices, measured in the same run and
counted as in `benchmarks.learner_limit`: only necessary operations count. It is the maximum over all measured variants:
the numbers of `--questions`, the sizes of `--micro-batch-tokens`, and with `--compile` also compiled layers. Adapters
(`--lora-rank`) fit a card of 80 GB. With `--lora-rank 0` all parameters train, with the optimizer's state in CPU memory
(about 135 GB). The weights, 17 GB, are written to a temporary folder and loaded from there. `--small` runs the same
code with a small model on a CPU.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.learner_limit import BETA, multiplication_rate, necessary_operations
from benchmarks.support.learner_workload import (
    SEVEN_BILLION,
    BenchmarkLearner,
    Shape,
    Workload,
    prepare_workload,
    running_learner,
)
from benchmarks.support.result import Result
from learner.rank import LearnerRank
from learner.schedule import Schedule
from learner.settings import LearnerSettings, LoraSettings, OptimizerSettings
from learner.training.engine import shut_down

_GPU_MATRIX = 8192
_MICRO_BATCH_TOKENS = 4096
"""Fits into 80 GB without recomputing activations."""


def settings_for(lora_rank: int, micro_batch_tokens: int, *, compiled: bool) -> LearnerSettings:
    """Return bfloat16 settings; full training offloads its optimizer and recomputes activations."""
    return LearnerSettings(
        dtype="bfloat16",
        beta=BETA,
        zero_stage=1 if lora_rank else 2,
        offload_optimizer=not lora_rank,
        lora=LoraSettings(rank=lora_rank) if lora_rank else None,
        activation_checkpointing=not lora_rank,
        micro_batch_tokens=micro_batch_tokens,
        compile=compiled,
        optimizer=OptimizerSettings(schedule=Schedule.CONSTANT),
    )


def progress() -> Callable[[str], None]:
    """Return a function that prints a message to stderr with the seconds since the start."""
    started = time.perf_counter()

    def report(message: str) -> None:
        print(f"{time.perf_counter() - started:7.1f} s  {message}", file=sys.stderr, flush=True)

    return report


def gibibytes(device: str) -> float | None:
    """Return torch's peak GPU memory in GiB since the last call; None on the CPU."""
    if device == "cpu":
        return None
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return round(peak / 2**30, 1)


def measure(learner: BenchmarkLearner, questions: int, repetitions: int, device: str) -> dict[str, Any]:
    """Measure steps on some questions: the first, which compiles, and the others."""
    gibibytes(device)
    first, *steps = (learner.step(questions) for _ in range(repetitions + 1))
    return {
        "questions": questions,
        "first_seconds": round(first.seconds, 3),
        "seconds": [round(step.seconds, 3) for step in steps],
        "grad_norm": [round(step.grad_norm, 4) for step in (first, *steps)],
        "peak_gib": gibibytes(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lora-rank", type=int, default=16)
    parser.add_argument("--questions", type=int, nargs="+", default=[16])
    parser.add_argument("--micro-batch-tokens", type=int, nargs="+", default=[_MICRO_BATCH_TOKENS])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    if not (torch.cuda.is_available() or arguments.small):
        parser.error("this machine has no GPU; --small runs a small model on the CPU")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report, counts = progress(), sorted(arguments.questions)
    rate = multiplication_rate(1024 if arguments.small else _GPU_MATRIX, torch.bfloat16, device)
    report(f"matrix multiplication rate: {rate / 1e12:.3f} TFLOP/s")
    workload = Workload(
        shape=Shape() if arguments.small else SEVEN_BILLION,
        questions=counts[-1],
        clip_seconds=3.0 if arguments.small else 20.0,
    )
    # Adapters need no gradient of the frozen weights: a backward pass costs as much as one forward pass, not two.
    passes = 4 if not arguments.lora_rank else 3
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
        work = prepare_workload(Path(folder), workload, dtype=torch.bfloat16, device=device)
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
        report(f"the model is written; building it took {gibibytes(device)} GiB")
        world = LearnerRank(0, 1, settings_for(arguments.lora_rank, 1, compiled=False))
        world.join(*world.address())  # once, because DeepSpeed caches its process groups
        variants = product((False, True) if arguments.compile else (False,), arguments.micro_batch_tokens)
        for compiled, tokens in variants:
            settings = settings_for(arguments.lora_rank, tokens, compiled=compiled)
            with running_learner(work, settings) as learner:
                report(f"learner ready, micro-batches of {tokens} tokens{', compiled' if compiled else ''}")
                for questions in counts:
                    found = measure(learner, questions, arguments.repetitions, device)
                    operations = passes * necessary_operations(work, workload, questions)
                    achieved = operations / median(found["seconds"])
                    found |= {
                        "micro_batch_tokens": tokens,
                        "compiled": compiled,
                        "tflop_per_step": round(operations / 1e12, 3),
                        "achieved_tflop_per_second": round(achieved / 1e12, 3),
                        "of_the_multiplication_rate": round(achieved / rate, 3),
                    }
                    measured.append(found)
                    report(f"steps: {found}")
            del learner
            gc.collect()
            gibibytes(device)
        shut_down()
    details = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "small": arguments.small,
        "lora_rank": arguments.lora_rank,
        "multiplication_tflop_per_second": round(rate / 1e12, 3),
        "batches": measured,
    }
    value = max(each["of_the_multiplication_rate"] for each in measured)
    Result("learner_seven_billion", value, "of the multiplication rate", "higher", details).publish()


if __name__ == "__main__":
    main()
