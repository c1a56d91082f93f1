"""What does computing a group's prompt and audio once save? The policy's forward and backward, both ways, on the CPU.

The plain path is the usual one (`benchmarks.padded_rows`): a padded row for each completion, the clip encoded for each
of them. The shared path is the learner's own. Time is taken in turn in one process, the peak of the memory in a process
of its own for each. The value is the ratio of times for 20 s clips and 24-token answers; `passed` in the details says
whether that is at least 9, at 30 s at least 7, the memory at most a third, and both ways agree.
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

from benchmarks.learner_work import FAMILY, Work, Workload, make_work
from benchmarks.padded_rows import PaddedRows
from benchmarks.result import Result
from learner.model.loading import load_model, load_processor
from learner.model.packing import make_rows, pack
from learner.model.policy import Policy
from learner.model.prompts import PromptEncoder

CLIP_SECONDS = (10.0, 20.0, 30.0)
COMPLETION_TOKENS = (10, 24, 128)
CHOSEN = (20.0, 24)
"""Of the value."""
NEEDED = {20.0: 9.0, 30.0: 7.0}
"""At least so many times faster with 24-token answers, by the seconds of the clip."""
_CHILD_SECONDS = 600


class SharedRows:
    """All completions of a work as the learner computes them: a row a group."""

    def __init__(self, work: Work) -> None:
        folder = str(work.model)
        self.model = load_model(FAMILY, folder, "float32").eval()
        self._policy = Policy(FAMILY, self.model)
        encoder = PromptEncoder(FAMILY, load_processor(folder))
        prompts = [encoder.encode(g.question, g.template) for g in work.groups]
        rows = make_rows(prompts, [[c.token_ids for c in g.completions] for g in work.groups], shared=True)
        self._batch = pack(rows, FAMILY.audio_token_id(self.model))

    def logprobs(self) -> torch.Tensor:
        """Log-probability of every token of every completion, in order, shape (N,), with gradient."""
        logprobs: torch.Tensor = self._policy(self._batch)[0]
        return logprobs


WAYS: dict[str, Callable[[Work], Any]] = {"plain": PaddedRows, "shared": SharedRows}


def weights_like(logprobs: torch.Tensor) -> torch.Tensor:
    """What tokens weigh in the loss: of both signs, the same on both paths."""
    return torch.linspace(-1, 1, len(logprobs)).flip(0)


def forward_backward(way: Any) -> tuple[float, torch.Tensor]:
    """Seconds, and the log-probabilities. The gradients stay on the model."""
    way.model.zero_grad()
    started = time.perf_counter()
    logprobs = way.logprobs()
    (logprobs * weights_like(logprobs)).mean().backward()
    return time.perf_counter() - started, logprobs.detach()


def difference(plain: Any, shared: Any) -> float:
    """The norm of the gradients' difference over the norm of the plain path's."""
    pairs = [
        (p.grad, s.grad)
        for p, s in zip(plain.model.parameters(), shared.model.parameters(), strict=True)
        if p.grad is not None
    ]
    apart = sum(float((p - s).square().sum()) for p, s in pairs)
    whole = sum(float(p.square().sum()) for p, _ in pairs)
    return float((apart / whole) ** 0.5)


def compare(workload: Workload, repetitions: int) -> dict[str, Any]:
    """Both ways on one workload."""
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
        work = make_work(Path(folder), workload)
        ways = {name: make(work) for name, make in WAYS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        logprobs = {}
        for repetition in range(repetitions + 1):
            for name, way in ways.items():
                taken, logprobs[name] = forward_backward(way)
                if repetition:  # the first warms up
                    seconds[name].append(taken)
        gradients = difference(ways["plain"], ways["shared"])
    mebibytes = {name: peak_of(name, workload) for name in WAYS}
    return {
        "clip_seconds": workload.clip_seconds,
        "completion_tokens": workload.completion_tokens,
        "seconds": {name: [round(s, 3) for s in taken] for name, taken in seconds.items()},
        # Of the fastest repetitions: whatever else the machine does only adds to the others.
        "times_faster": round(min(seconds["plain"]) / min(seconds["shared"]), 2),
        "peak_mib": mebibytes,
        "memory_share": round(mebibytes["shared"] / mebibytes["plain"], 3),
        "largest_logprob_difference": float((logprobs["plain"] - logprobs["shared"]).abs().max()),
        "relative_gradient_difference": gradients,
    }


def peak_of(name: str, workload: Workload) -> int:
    """What one way's forward and backward add to the memory of a process at their peak, MiB."""
    arguments = ["--peak-of", name, str(workload.clip_seconds), str(workload.completion_tokens)]
    command = [sys.executable, "-m", "benchmarks.learner_shared_prefix", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=_CHILD_SECONDS)
    return int(json.loads(done.stdout.splitlines()[-1]))


def print_peak(name: str, workload: Workload) -> None:
    """In a process of its own: print the peak behind loading, in MiB."""
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
        way = WAYS[name](make_work(Path(folder), workload))
        # Not getrusage: its peak is inherited from the process that started this one. Writing 5 resets the kernel's.
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        forward_backward(way)
        print(memory("VmHWM") - before)


def memory(name: str) -> int:
    """A line of /proc/self/status: VmRSS, what is held now; VmHWM, the most that was held. MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--peak-of", nargs=3, metavar=("WAY", "SECONDS", "TOKENS"), help=argparse.SUPPRESS)
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
        "memory_at_most_a_third": by_case[CHOSEN]["memory_share"] <= 1 / 3,
        "logprobs_within_1e-5": all(c["largest_logprob_difference"] < 1e-5 for c in cases),
        "gradients_within_1e-5": all(c["relative_gradient_difference"] < 1e-5 for c in cases),
    }
    details = {"passed": all(bounds.values()), "bounds": bounds, "cases": cases}
    Result("learner_shared_prefix", by_case[CHOSEN]["times_faster"], "times", "higher", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
