"""What a job would do, worked out without starting it: `earshot run --dry-run`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from audio_qa.families import facts_of
from audio_qa.question import Question
from orchestrator.estimate import has_reference, learner_bytes, memory_warnings, rollout_bytes, time_estimate
from orchestrator.preflight import by_solve_rate, check_context, check_model_folder
from orchestrator.questions import Split, described, read_split, refuse_overlap
from orchestrator.sections.data import SYNTHETIC
from orchestrator.sections.model import TINY_MODELS
from orchestrator.sizes import PUBLISHED, TINY_SIZES, Sizes, sizes_of
from orchestrator.solve_rates import check_measured
from orchestrator.spec import TO_FILL_IN, JobSpec, Method
from orchestrator.spec_file import SpecError, dump_spec
from orchestrator.storage.stored_run import check_storage
from protocol.weights import Carrier
from reward.registry import check_name


def plan(spec: JobSpec) -> dict[str, Any]:
    """Models, workers, GPUs and an estimate of memory and time, as plain data.

    A job whose model or questions are still to be filled in is planned from what is published of them.

    Raises:
        SpecError, DatasetError, RewardError: bad input.
    """
    for name in spec.reward.functions:
        check_name(name, spec.reward.allowed_modules)
    check_storage(spec)
    sizes = model_sizes(spec)
    train, held_out, data = count_questions(spec)
    return {
        "name": spec.name,
        "model": spec.model.path,
        "training_questions": train,
        "evaluation_questions": held_out,
        "data": data,
        "to_fill_in": to_fill_in(spec),
        "parameters": sizes.total,
        "steps": spec.steps,
        "completions_per_step": 0
        if not spec.steps or spec.method is Method.SUPERVISED
        else spec.rollout.questions_per_step * spec.rollout.group_size,
        "rollout_workers": spec.rollout.workers,
        "learner_ranks": ranks_of(spec),
        "reference_model": has_reference(spec),
        "gpus": gpus(spec),
        "memory_gib": {
            "learner_rank": round(learner_bytes(spec, sizes) / 2**30, 2),
            "rollout_worker": round(rollout_bytes(spec, sizes) / 2**30, 2),
        },
        "memory_warnings": memory_warnings(spec, sizes),
        "time": time_estimate(spec, sizes, held_out),
        "job": json.loads(spec.model_dump_json()),
    }


def ranks_of(spec: JobSpec) -> int:
    """Learner ranks: none where nothing is learnt."""
    return 0 if spec.method is Method.EVALUATE else spec.learner.ranks


def model_sizes(spec: JobSpec) -> Sizes:
    """The parameters of a job's model. Raises SpecError for a model that is not there, or that nobody knows."""
    path = spec.model.path
    if path in TINY_MODELS:
        return TINY_SIZES
    if path.startswith(TO_FILL_IN):
        name = path.removeprefix(TO_FILL_IN)
        if name not in PUBLISHED:
            raise SpecError(f"model.path: the sizes of {name!r} are not known; known are {', '.join(PUBLISHED)}")
        return PUBLISHED[name]
    check_model_folder(path)
    check_context(spec)
    return sizes_of(Path(path), facts_of(path).weights)


def to_fill_in(spec: JobSpec) -> dict[str, str]:
    """What the user has still to put into the job file, by key."""
    named = {"model.path": spec.model.path, "data.train": spec.data.train, "data.evaluation": spec.data.evaluation}
    if spec.method is Method.EVALUATE:
        del named["data.train"]  # is not read
    return {
        key: value.removeprefix(TO_FILL_IN) for key, value in named.items() if value and value.startswith(TO_FILL_IN)
    }


def gpus(spec: JobSpec) -> float:
    """GPUs of workers and learner ranks together; where they share some, each has its part of them."""
    if not spec.rollout.gpus:
        return 0
    of_a_rank = 1 - spec.rollout.gpus if spec.rollout.weight_sync is Carrier.CUDA_IPC else 1
    return spec.rollout.workers * spec.rollout.gpus + ranks_of(spec) * of_a_rank


def count_questions(spec: JobSpec) -> tuple[int | None, int | None, dict[str, dict[str, Any]]]:
    """How many training and held-out questions there are, None where they are to be filled in; where they come from.

    Every one is read and its clip looked at; raises DatasetError.
    """
    sources: dict[str, dict[str, Any]] = {}

    def read(source: str | None, split: Split) -> Sequence[Question]:
        if source is None or source == SYNTHETIC or source.startswith(TO_FILL_IN):
            return ()
        found = read_split(spec.data, split)
        sources[split] = described(found)
        return found.accepted()

    evaluates = spec.method is Method.EVALUATE
    train = () if evaluates else read(spec.data.train, "train")
    held_out = read(spec.data.evaluation, "evaluation")
    refuse_overlap(spec, train, held_out)
    if spec.data.train not in (None, SYNTHETIC) and train:
        train, _ = by_solve_rate(spec, train)
    elif spec.data.curriculum is not None and spec.data.curriculum.measured is not None:
        # What is built in is not made for a plan; how many of its questions are within bounds, the job says.
        check_measured(spec.data.curriculum.measured)

    def count(source: str | None, built_in: int, found: Sequence[Question]) -> int | None:
        if source is not None and source.startswith(TO_FILL_IN):
            return None
        return built_in if source == SYNTHETIC else len(found)

    data = spec.data
    asked = count(data.evaluation, data.synthetic_evaluation, held_out)
    if asked is not None and spec.evaluation.questions:
        asked = min(asked, spec.evaluation.questions)
    trained = 0 if evaluates else count(data.train, data.synthetic_train, train)
    return trained, asked, sources


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
        text = "to be filled in" if value is None else str(value) if isinstance(value, bool | str) else f"{value:,}"
        table.add_row(key.replace("_", " "), text)
    for split, source in planned["data"].items():
        left_out = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in source["left_out"].items())
        version = f"{source['format']} {source['version']}".strip()
        table.add_row(f"{split} file", f"{version}; left out: {left_out}" if left_out else version)
    for part, gib in planned["memory_gib"].items():
        more = " and activations" if part == "learner_rank" else ""
        table.add_row(f"memory of a {part.replace('_', ' ')}", f"{gib} GiB{more}")
    _describe_time(planned["time"], table)
    console.print(table)
    for key, name in planned["to_fill_in"].items():
        console.print(f"To be filled in: {key}, {name}. The plan is made from what is published.", highlight=False)
    for warning in planned["memory_warnings"]:
        console.print(f"Does not fit: {warning}.", highlight=False)
    for assumption in (planned["time"] or {}).get("assumptions", ()):
        console.print(f"Time: {assumption}.", style="dim", highlight=False)
    console.print(dump_spec(JobSpec.model_validate(planned["job"])), markup=False, highlight=False)


def _describe_time(time: dict[str, Any] | None, table: Table) -> None:
    if time is None:
        table.add_row("time", "not estimated on CPUs")
        return
    rows = (("step_seconds", "a step", "s"), ("evaluation_seconds", "an evaluation", "s"), ("hours", "the job", "h"))
    for key, of_what, unit in rows:
        if time[key] is not None:
            low, high = time[key]
            table.add_row(f"time of {of_what}", f"{low} to {high} {unit}, an estimate")
