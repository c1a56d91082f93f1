"""What a job would do, worked out without starting it: `earshot run --dry-run`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from audio_qa.families import facts_of
from audio_qa.question import Question
from orchestrator.preflight import check_context, check_model_folder
from orchestrator.questions import Split, described, read_split, refuse_overlap
from orchestrator.spec import SYNTHETIC, TINY_MODEL, JobSpec
from orchestrator.spec_file import dump_spec
from orchestrator.storage.stored_run import check_storage
from protocol.weights import Carrier
from reward.registry import check_name

TINY_PARAMETERS = 2_492_416
_BYTES = {"float32": 4, "bfloat16": 2}


def plan(spec: JobSpec) -> dict[str, Any]:
    """Models, workers, GPUs and a memory estimate, as plain data. Raises SpecError, RewardError for bad input."""
    for name in spec.reward.functions:
        check_name(name, spec.reward.allowed_modules)
    check_storage(spec)
    if spec.model.path == TINY_MODEL:
        parameters = TINY_PARAMETERS
    else:
        check_model_folder(spec.model.path)
        check_context(spec)
        parameters = count_parameters(Path(spec.model.path), facts_of(spec.model.path).weights)
    train, held_out, data = count_questions(spec)
    return {
        "name": spec.name,
        "model": spec.model.path,
        "training_questions": train,
        "evaluation_questions": held_out,
        "data": data,
        "parameters": parameters,
        "steps": spec.steps,
        "completions_per_step": spec.rollout.questions_per_step * spec.rollout.group_size,
        "rollout_workers": spec.rollout.workers,
        "learner_ranks": spec.learner.ranks,
        "reference_model": spec.learner.beta > 0,
        "gpus": gpus(spec),
        "memory_gib": {
            "learner_rank": round(learner_bytes(spec, parameters) / 2**30, 2),
            "rollout_worker": round(rollout_bytes(spec, parameters) / 2**30, 2),
        },
        "job": json.loads(spec.model_dump_json()),
    }


def gpus(spec: JobSpec) -> float:
    """GPUs of workers and learner ranks together; where they share some, each has its part of them."""
    if not spec.rollout.gpus:
        return 0
    of_a_rank = 1 - spec.rollout.gpus if spec.rollout.weight_sync is Carrier.CUDA_IPC else 1
    return spec.rollout.workers * spec.rollout.gpus + spec.learner.ranks * of_a_rank


def count_questions(spec: JobSpec) -> tuple[int, int, dict[str, dict[str, Any]]]:
    """How many training and held-out questions there are, and where they come from.

    Every one is read and its clip looked at; raises DatasetError.
    """
    sources: dict[str, dict[str, Any]] = {}

    def read(source: str | None, split: Split) -> Sequence[Question]:
        if source in (None, SYNTHETIC):
            return ()
        found = read_split(spec.data, split)
        sources[split] = described(found)
        return found.accepted()

    train, held_out = read(spec.data.train, "train"), read(spec.data.evaluation, "evaluation")
    refuse_overlap(spec, train, held_out)
    return (
        spec.data.synthetic_train if spec.data.train == SYNTHETIC else len(train),
        spec.data.synthetic_evaluation if spec.data.evaluation == SYNTHETIC else len(held_out),
        sources,
    )


def count_parameters(folder: Path, prefix: str = "") -> int:
    """Parameters of a safetensors checkpoint whose names begin with `prefix`, from its headers; 0 where it has none."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__" and name.startswith(prefix):
                size = 1
                for extent in tensor["shape"]:
                    size *= extent
                total += size
    return total


def learner_bytes(spec: JobSpec, parameters: int) -> int:
    """Model, gradients and AdamW's state of one rank under its ZeRO stage; activations are not counted.

    The accounting of Rajbhandari et al., 2020, "ZeRO", section 3.1, with a float32 reference copy where beta > 0.
    """
    learner = spec.learner
    width = _BYTES[learner.dtype]
    master = 0 if learner.dtype == "float32" else 4
    share = learner.ranks
    weights = parameters * width // (share if learner.zero_stage == 3 else 1)
    gradients = parameters * width // (share if learner.zero_stage >= 2 else 1)
    optimizer = parameters * (8 + master) // (share if learner.zero_stage >= 1 else 1)
    reference = parameters * width if learner.beta > 0 else 0
    return weights + gradients + optimizer + reference


def rollout_bytes(spec: JobSpec, parameters: int) -> int:
    """Weights and key-value cache of one engine on the CPU; on a GPU it takes the share of the card it is given."""
    return parameters * _BYTES[spec.learner.dtype] + spec.rollout.cpu_kv_gib * 2**30


def describe(planned: dict[str, Any], console: Console) -> None:
    """Print a plan for a person."""
    table = Table(title=f"Plan of {planned['name']}", show_header=False)
    for key in (
        "model",
        "parameters",
        "training_questions",
        "evaluation_questions",
        "steps",
        "completions_per_step",
        "rollout_workers",
        "learner_ranks",
        "reference_model",
        "gpus",
    ):
        value = planned[key]
        table.add_row(key.replace("_", " "), str(value) if isinstance(value, bool | str) else f"{value:,}")
    for split, source in planned["data"].items():
        left_out = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in source["left_out"].items())
        version = f"{source['format']} {source['version']}".strip()
        table.add_row(f"{split} file", f"{version}; left out: {left_out}" if left_out else version)
    for part, gib in planned["memory_gib"].items():
        table.add_row(f"memory of a {part.replace('_', ' ')}", f"{gib} GiB and activations")
    console.print(table)
    console.print(dump_spec(JobSpec.model_validate(planned["job"])), markup=False, highlight=False)
