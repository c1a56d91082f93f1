"""Speed of a learner step against a step of TRL, with the same checkpoint, clips and completions, on the CPU.

A step is the policy's forward and backward, the reference's forward, the loss, clipping and AdamW. Nothing is
generated: both sides get the same completions. The value is TRL's median seconds over ours, with repetitions in turn;
`passed` in the details is true if it is at least 8. Log-probabilities, gradients, update and loss of both sides must
agree first; otherwise the benchmark fails and publishes nothing.
"""

import argparse
import os
import resource
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.agreement import (
    FirstSteps,
    check_audio_used,
    check_conditions,
    measure_agreement,
    take_first_steps,
)
from benchmarks.peers.environment import peer_python
from benchmarks.peers.process import Peer
from benchmarks.support.learner_workload import (
    BenchmarkLearner,
    PreparedWorkload,
    Workload,
    prepare_workload,
    running_learner,
)
from benchmarks.support.result import Result
from learner.schedule import Schedule
from learner.settings import LearnerSettings, OptimizerSettings

ROOT = Path(__file__).parent.parent
LOCK = Path(__file__).parent / "peers" / "trl.lock"
NEEDED = 8.0
WORKLOAD = Workload(questions=2, group_size=8, clip_seconds=20.0, completion_tokens=24)
BETA = 0.04
# A large epsilon keeps Adam's step proportional to the gradient, so that updates are comparable; it costs no time.
OPTIMIZER = OptimizerSettings(
    learning_rate=1e-3, schedule=Schedule.CONSTANT, adam_epsilon=1e-2, weight_decay=0.0, max_grad_norm=1.0
)
ROWS_AT_ONCE = (16, 8)
"""TRL's batch sizes: the whole batch in one forward, or in two with gradient accumulation."""
REPLY_SECONDS = 600.0


def described(work: PreparedWorkload, rows: int, threads: int, scratch: Path) -> dict[str, Any]:
    """Return the workload as JSON for `benchmarks.peers.trl_step`."""
    questions = [
        {
            "prompt": prompt,
            "prompt_token_ids": group.prompt_token_ids,
            "clip": group.question.audio,
            "completions": [c.token_ids for c in group.completions],
            "rewards": rewards,
        }
        for prompt, group, rewards in zip(work.prompts, work.groups, work.rewards, strict=True)
    ]
    return {
        "model": str(work.model),
        "questions": questions,
        "batch_size": rows,
        "beta": BETA,
        "learning_rate": OPTIMIZER.learning_rate,
        "adam_epsilon": OPTIMIZER.adam_epsilon,
        "max_grad_norm": OPTIMIZER.max_grad_norm,
        "threads": threads,
        "steps": 1000,
        "scratch": str(scratch),
    }


def take_turns(
    learner: BenchmarkLearner, ours: FirstSteps, trl: Peer, description: dict[str, Any], repetitions: int
) -> dict[str, Any]:
    """Take our steps and TRL's in turn, `repetitions` times, after checking that TRL's first two agree with ours."""
    ready = trl.request(description)
    check_conditions(ready, ours)
    agreed, step = measure_agreement(ours, trl, Path(description["scratch"]))
    agreed.check()
    check_audio_used(step, WORKLOAD)
    our_seconds, steps = [], []
    for _ in range(repetitions):
        our_seconds.append(learner.step().seconds)
        steps.append(trl.request({"do": "step"}))
    return {
        "seconds": [s["seconds"] for s in steps],
        "of_it_reference_forward": [s["reference_seconds"] for s in steps],
        "our_seconds": our_seconds,
        "times": median(s["seconds"] for s in steps) / median(our_seconds),
        "peak_rss_mib": steps[-1]["peak_rss_mib"],
        "agreement": asdict(agreed),
        "clips_encoded": step["clips_encoded"],
        "audio_embeddings": step["audio_embeddings"],
        **{name: ready[name] for name in ("silence_difference", "versions", "configuration")},
    }


def trl_environment(threads: int) -> dict[str, str]:
    """Return this process's environment without our learner's rank variables, whose process group TRL would join."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    ours = {name: value for name, value in os.environ.items() if name not in ranks}
    return ours | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}


def compare(threads: int, repetitions: int, folder: Path) -> dict[str, Any]:
    """Return the details of the result: TRL with each batch size, and ours."""
    python = peer_python(LOCK)
    work = prepare_workload(folder, WORKLOAD)
    settings = LearnerSettings(threads=threads, beta=BETA, optimizer=OPTIMIZER)
    command = [str(python), "-m", "benchmarks.peers.trl_step"]
    runs = {}
    with running_learner(work, settings) as learner:
        ours = take_first_steps(learner, work, folder / "ours")
        for rows in ROWS_AT_ONCE:
            scratch = folder / f"trl-{rows}"
            scratch.mkdir()
            with Peer("TRL", command, folder=ROOT, environment=trl_environment(threads), timeout=REPLY_SECONDS) as trl:
                description = described(work, rows, threads, scratch)
                runs[f"batch_size_{rows}"] = take_turns(learner, ours, trl, description, repetitions)
    return {
        "workload": asdict(WORKLOAD),
        "prompt_tokens": [len(g.prompt_token_ids) for g in work.groups],
        "beta": BETA,
        "threads": threads,
        "our_peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "trl": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Both sides run on the CPU, on every machine.
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="earshot-learner-vs-trl-") as folder:
        details = compare(arguments.threads, arguments.repetitions, Path(folder))
    fastest = min(details["trl"], key=lambda name: median(details["trl"][name]["seconds"]))
    value = details["trl"][fastest]["times"]
    passed = value >= NEEDED
    details = {"passed": passed, "fastest_of_trl": fastest, "load_before": load, **details}
    Result("learner_vs_trl", value, "times", "higher", details).publish()
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    main()
