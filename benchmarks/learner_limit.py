"""Utilization of a learner step: its necessary operations at the machine's matrix multiplication rate over its time.

The value is the time that the step's necessary operations take at the rate of matrix multiplications, measured in the
same run, over the time of the whole step, AdamW included. Necessary are the operations of unique tokens: each clip's
own frames once, each prompt once, each completion once, the head on completions only; three passes for the policy (a
backward counts as two) and one for the reference. `passed` is true if the value is at least 0.5.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.support.learner_workload import (
    FAMILY,
    HUNDRED_MILLION,
    PreparedWorkload,
    Shape,
    Workload,
    prepare_workload,
    running_learner,
)
from benchmarks.support.result import Result
from learner.model.flops import causal_pairs
from learner.schedule import Schedule
from learner.settings import LearnerSettings, OptimizerSettings

WORKLOAD = Workload(shape=HUNDRED_MILLION, questions=2, group_size=8, clip_seconds=20.0, completion_tokens=24)
BETA = 0.04
NEEDED = 0.5
_MATRIX = 2048
_VOCABULARY = 640


def necessary_operations(work: PreparedWorkload, workload: Workload, questions: int | None = None) -> float:
    """Count the floating-point operations of one forward pass over the unique tokens: two per weight and token.

    Args:
        questions: count only the first questions of the workload; all of them by default.
    """
    total, shape = 0.0, workload.shape
    for group in work.groups[:questions]:
        frames = round(workload.clip_seconds * 100)
        prompt = len(group.prompt_token_ids)
        answers = [len(c.token_ids) for c in group.completions]
        total += encoder_operations(frames, shape)
        total += 2 * shape.audio_width * shape.width * FAMILY.facts.audio_tokens(frames)
        per_token = 2 * (4 * shape.width**2 + 3 * shape.width * shape.intermediate)
        pairs = causal_pairs(prompt) + sum(n * prompt + causal_pairs(n) for n in answers)
        total += shape.layers * (per_token * (prompt + sum(answers)) + 4 * shape.width * pairs)
        total += 2 * shape.width * (shape.vocabulary or _VOCABULARY) * sum(answers)
    return total


def encoder_operations(frames: int, shape: Shape) -> float:
    """Count the audio tower's operations on a clip's frames: two convolutions of width 3, layers at half the frames."""
    width, tokens = shape.audio_width, (frames + 1) // 2
    convolutions = 2 * 3 * 128 * width * frames + 2 * 3 * width * width * tokens
    per_token = 2 * (4 * width**2 + 2 * width * 4 * width)
    return convolutions + shape.audio_layers * (per_token * tokens + 4 * width * tokens**2)


def multiplication_rate(size: int = _MATRIX, dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """Measure operations per second of multiplying square matrices: the best of five repetitions."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, b)
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    optimizer = OptimizerSettings(learning_rate=1e-5, schedule=Schedule.CONSTANT)
    settings = LearnerSettings(threads=threads, beta=BETA, optimizer=optimizer)
    fractions, seconds, rates = [], [], []
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
        work = prepare_workload(Path(folder), WORKLOAD)
        operations = 4 * necessary_operations(work, WORKLOAD)
        with running_learner(work, settings) as learner:
            learner.step()
            for _ in range(repetitions):
                # The rate before and after the step: other load on the machine slows both.
                before = multiplication_rate()
                seconds.append(learner.step().seconds)
                rates.append((before + multiplication_rate()) / 2)
                fractions.append(operations / rates[-1] / seconds[-1])
                print(f"{fractions[-1]:.3f} of {rates[-1] / 1e9:.0f} GFLOP/s", file=sys.stderr, flush=True)
    value = median(fractions)
    details = {
        "passed": value >= NEEDED,
        "fractions": [round(f, 3) for f in fractions],
        "seconds": [round(s, 3) for s in seconds],
        "gflop_per_step": round(operations / 1e9, 1),
        "multiplication_gflop_per_second": [round(rate / 1e9, 1) for rate in rates],
    }
    Result("learner_limit", round(value, 3), "of the multiplication rate", "higher", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
