"""Savings of computing a group's prompt and audio once: the policy's forward and backward on the CPU.

The plain path is the usual one (`benchmarks.support.padded_rows`): a padded row per completion, with the clip encoded
for each row. The shared path is the learner's. Times are measured in turn in one process, the peak memory of each path
in a separate process. The value is the ratio of times for 20 s clips and 24-token answers; `passed` in the details is
true if it is at least 9, for 30 s clips at least 7, the memory at most a third, and both paths agree.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.learner_workload import FAMILY, PreparedWorkload, Workload, prepare_workload
from benchmarks.support.padded_rows import PaddedRows
from benchmarks.support.result import Result
from learner.model.loading import load_model, load_processor
from learner.model.packing import make_rows, pack
from learner.model.policy import Policy
from learner.model.prompts import PromptEncoder

CLIP_SECONDS = (10.0, 20.0, 30.0)
COMPLETION_TOKENS = (10, 24, 128)
HEADLINE_CASE = (20.0, 24)
"""Clip seconds and answer tokens of the value."""
NEEDED = {20.0: 9.0, 30.0: 7.0}
"""Minimum speedup with 24-token answers, by the seconds of the clip."""
_CHILD_SECONDS = 600


class SharedRows:
    """All completions of a workload as the learner computes them: one row per group."""

    def __init__(self, work: PreparedWorkload) -> None:
        folder = str(work.model)
        self.model = load_model(FAMILY, folder, "float32").eval()
        self._policy = Policy(FAMILY, self.model)
        encoder = PromptEncoder(FAMILY, load_processor(folder))
        prompts = [encoder.encode(g.question, g.template) for g in work.groups]
        rows = make_rows(prompts, [[c.token_ids for c in g.completions] for g in work.groups], shared=True)
        self._batch = pack(rows, FAMILY.audio_token_id(self.model))

    def logprobs(self) -> torch.Tensor:
        """Return the log-probability of every token of every completion, in order, shape (N,), with gradient."""
        logprobs: torch.Tensor = self._policy(self._batch)[0]
        return logprobs


PATHS: dict[str, Callable[[PreparedWorkload], Any]] = {"plain": PaddedRows, "shared": SharedRows}


def weights_like(logprobs: torch.Tensor) -> torch.Tensor:
    """Return the tokens' weights in the loss: of both signs, the same on both paths."""
    return torch.linspace(-1, 1, len(logprobs)).flip(0)


def forward_backward(rows: Any) -> tuple[float, torch.Tensor]:
    """Return the seconds and the log-probabilities. The gradients stay on the model."""
    rows.model.zero_grad()
    started = time.perf_counter()
    logprobs = rows.logprobs()
    (logprobs * weights_like(logprobs)).mean().backward()
    return time.perf_counter() - started, logprobs.detach()


def difference(plain: Any, shared: Any) -> float:
    """Return the norm of the difference of the gradients over the norm of the plain path's gradient."""
    pairs = [
        (p.grad, s.grad)
        for p, s in zip(plain.model.parameters(), shared.model.parameters(), strict=True)
        if p.grad is not None
    ]
    difference_square = sum(float((p - s).square().sum()) for p, s in pairs)
    plain_square = sum(float(p.square().sum()) for p, _ in pairs)
    return float((difference_square / plain_square) ** 0.5)


def compare(workload: Workload, repetitions: int) -> dict[str, Any]:
    """Measure both paths on one workload."""
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
        work = prepare_workload(Path(folder), workload)
        paths = {name: make(work) for name, make in PATHS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in PATHS}
        logprobs = {}
        for repetition in range(repetitions + 1):
            for name, rows in paths.items():
                taken, logprobs[name] = forward_backward(rows)
                if repetition:  # the first is a warm-up
                    seconds[name].append(taken)
        gradients = difference(paths["plain"], paths["shared"])
    mebibytes = {name: peak_of(name, workload) for name in PATHS}
    return {
        "clip_seconds": workload.clip_seconds,
        "completion_tokens": workload.completion_tokens,
        "seconds": {name: [round(s, 3) for s in taken] for name, taken in seconds.items()},
        # Ratio of the fastest repetitions: other load on the machine only slows the others.
        "times_faster": round(min(seconds["plain"]) / min(seconds["shared"]), 2),
        "peak_mib": mebibytes,
        "memory_share": round(mebibytes["shared"] / mebibytes["plain"], 3),
        "largest_logprob_difference": float((logprobs["plain"] - logprobs["shared"]).abs().max()),
        "relative_gradient_difference": gradients,
    }


def peak_of(name: str, workload: Workload) -> int:
    """Measure the peak memory that one path's forward and backward add to a process, MiB."""
    arguments = ["--peak-of", name, str(workload.clip_seconds), str(workload.completion_tokens)]
    command = [sys.executable, "-m", "benchmarks.learner_shared_prefix", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=_CHILD_SECONDS)
    return int(json.loads(done.stdout.splitlines()[-1]))


def print_peak(name: str, workload: Workload) -> None:
    """Print the peak memory after loading, in MiB. Runs in a separate process."""
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
        rows = PATHS[name](prepare_workload(Path(folder), workload))
        # Not getrusage, whose peak is inherited from the parent process. Writing 5 resets the kernel's peak.
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        forward_backward(rows)
        print(memory("VmHWM") - before)


def memory(name: str) -> int:
    """Return a value of /proc/self/status in MiB: VmRSS, the current memory; VmHWM, the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--peak-of", nargs=3, metavar=("PATH", "SECONDS", "TOKENS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    if arguments.peak_of:
        name, seconds, tokens = arguments.peak_of
        print_peak(name, Workload(clip_seconds=float(seconds), completion_tokens=int(tokens)))
        return
    cases = []
    for seconds in CLIP_SECONDS:
        for tokens in COMPLETION_TOKENS:
            cases.append(compare(Workload(clip_seconds=seconds, completion_tokens=tokens), arguments.repetitions))
            print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    by_case = {(c["clip_seconds"], c["completion_tokens"]): c for c in cases}
    bounds = {
        **{f"times_faster_{s:.0f}_s": by_case[s, 24]["times_faster"] >= n for s, n in NEEDED.items()},
        "memory_at_most_a_third": by_case[HEADLINE_CASE]["memory_share"] <= 1 / 3,
        "logprobs_within_1e-5": all(c["largest_logprob_difference"] < 1e-5 for c in cases),
        "gradients_within_1e-5": all(c["relative_gradient_difference"] < 1e-5 for c in cases),
    }
    details = {"passed": all(bounds.values()), "bounds": bounds, "cases": cases}
    Result("learner_shared_prefix", by_case[HEADLINE_CASE]["times_faster"], "times", "higher", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
