"""The learner at Qwen2-Audio-7B's own sizes on one GPU: random weights made on the spot, one optimizer step at a time.

The value is the achieved rate over the card's own rate of multiplying bfloat16 matrices, measured in the same run, by
the count of `benchmarks.learner_limit`: operations that are not necessary do not count. Adapters (`--lora-rank`) fit a
card of 80 GB; with `--lora-rank 0` all parameters train, with the optimizer's state in the CPU's memory (about 100 GB).
`--small` runs the same on the CPU with a small model, to see that it runs.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks.learner_limit import BETA, multiplication_rate, necessary_operations
from benchmarks.learner_work import SEVEN_BILLION, Shape, Workload, learner_at_work, make_work
from benchmarks.result import Result
from learner.schedule import Schedule
from learner.settings import LearnerSettings, LoraSettings, OptimizerSettings

_GPU_MATRIX = 8192


def settings_for(lora_rank: int) -> LearnerSettings:
    """bfloat16 with float32 masters; full training keeps its optimizer off the card and recomputes activations."""
    return LearnerSettings(
        dtype="bfloat16",
        beta=BETA,
        zero_stage=1 if lora_rank else 2,
        offload_optimizer=not lora_rank,
        lora=LoraSettings(rank=lora_rank) if lora_rank else None,
        activation_checkpointing=not lora_rank,
        optimizer=OptimizerSettings(schedule=Schedule.CONSTANT),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lora-rank", type=int, default=16)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    if not (torch.cuda.is_available() or arguments.small):
        parser.error("there is no GPU here; --small runs a small model on the CPU")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    workload = Workload(
        shape=Shape() if arguments.small else SEVEN_BILLION,
        questions=arguments.questions,
        clip_seconds=3.0 if arguments.small else 20.0,
    )
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as folder:
        work = make_work(Path(folder), workload, dtype=torch.bfloat16)
        with learner_at_work(work, settings_for(arguments.lora_rank)) as learner:
            learner.step()
            seconds = [learner.step().seconds for _ in range(arguments.repetitions)]
    # Adapters need no gradient of the weights beneath them: a backward pass is one forward pass's worth, not two.
    passes = 4 if not arguments.lora_rank else 3
    operations = passes * necessary_operations(work, workload)
    size = 1024 if arguments.small else _GPU_MATRIX
    rate = multiplication_rate(size, torch.bfloat16, device)
    achieved = operations / median(seconds)
    details = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "small": arguments.small,
        "lora_rank": arguments.lora_rank,
        "seconds": [round(s, 3) for s in seconds],
        "tflop_per_step": round(operations / 1e12, 3),
        "achieved_tflop_per_second": round(achieved / 1e12, 3),
        "multiplication_tflop_per_second": round(rate / 1e12, 3),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if device == "cuda" else None,
    }
    name = "learner_seven_billion"
    Result(name, round(achieved / rate, 3), "of the multiplication rate", "higher", details).publish()


if __name__ == "__main__":
    main()
