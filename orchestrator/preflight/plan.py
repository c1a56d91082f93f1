"""The plan of a job, computed without starting it: `earshot run --dry-run`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audio_qa.files.clips import QUICK, ClipCheck
from audio_qa.question import Question
from orchestrator.job.demand import gpus, ranks_of
from orchestrator.job.gpu import DATA_SHEETS
from orchestrator.job.marked import marked_values
from orchestrator.job.memory.fit import engine_gib, learner_gib, misfits
from orchestrator.job.memory.parameters import has_reference
from orchestrator.job.memory.published import PUBLISHED, TINY_SIZES
from orchestrator.job.memory.rank import GIB, engine_memory, rank_memory
from orchestrator.job.memory.sizes import Sizes, sizes_of
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import PLACEHOLDER_PREFIX, JobSpec, Method
from orchestrator.job.spec_file import SpecError
from orchestrator.preflight.clip_lengths import clip_lengths, refuse_lengths
from orchestrator.preflight.estimate import device_warnings, time_estimate, weight_update
from orchestrator.preflight.model_folder import (
    check_attention,
    check_context,
    check_model_folder,
    check_tensor_parallel,
)
from orchestrator.preflight.precision import precision_warnings
from orchestrator.preflight.prepare import by_solve_rate
from orchestrator.preflight.room import checkpoint_room, disk_warnings
from orchestrator.questions.held_out import check_held_out
from orchestrator.questions.solve_rates import check_measured
from orchestrator.questions.splits import Split, described, read_split, refuse_overlap
from orchestrator.storage.stored_run import check_storage
from protocol.marks import PathTo
from reward.registry import check_name


def plan(spec: JobSpec, run: Path | None = None, clip_check: ClipCheck = QUICK) -> dict[str, Any]:
    """Return the model, workers, GPUs and an estimate of memory, disk space and time, as plain data.

    Placeholders for a model or questions (`yours:NAME`) are planned from published figures.

    Args:
        run: the job's run directory, which need not exist; by default one in `runs`.
        clip_check: how the clips are checked.

    Raises:
        InputError: the job file, its model, questions or rewards cannot be used.
    """
    for name in spec.reward.functions:
        check_name(name, spec.reward.allowed_modules)
    check_storage(spec)
    sizes = model_sizes(spec)
    train, held_out, data = count_questions(spec, clip_check)
    room = checkpoint_room(spec, sizes)
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
        **memory(spec, sizes),
        "weight_update": weight_update(spec, sizes),
        "checkpoint_gib": {
            "each": round(room.each / 2**30, 2),
            "most": room.most,
            "total": round(room.total / 2**30, 2),
        },
        "memory_warnings": misfits(spec, sizes),
        "disk_warnings": disk_warnings(spec, sizes, run or Path("runs") / spec.name),
        "device_warnings": device_warnings(spec, sizes),
        "precision_warnings": precision_warnings(spec),
        "time": time_estimate(spec, sizes, held_out),
        "job": json.loads(spec.model_dump_json()),
    }


def model_sizes(spec: JobSpec) -> Sizes:
    """Return the sizes of a job's model. Raises SpecError for a folder or a context that cannot be used."""
    path = spec.model.path
    if path in TINY_MODELS:
        check_context(spec)
        check_tensor_parallel(spec)
        return TINY_SIZES
    if path.startswith(PLACEHOLDER_PREFIX):
        name = path.removeprefix(PLACEHOLDER_PREFIX)
        if name not in PUBLISHED:
            raise SpecError(f"model.path: the sizes of {name!r} are not known; known are {', '.join(PUBLISHED)}")
        return PUBLISHED[name]
    check_model_folder(path)
    check_context(spec)
    check_attention(spec)
    check_tensor_parallel(spec)
    return sizes_of(Path(path))


def memory(spec: JobSpec, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Return the GiB that a learner rank and a rollout worker take on each of their GPUs, and in CPU memory.

    Without GPUs all of it is CPU memory: the first figures then say how much.
    """
    rank, engine = rank_memory(spec, sizes), engine_memory(spec, sizes)
    if spec.rollout.gpus:
        learner = learner_gib(spec, rank) if ranks_of(spec) else 0.0
        worker = DATA_SHEETS[spec.cluster.gpu].memory_gib * spec.rollout.gpu_memory_fraction
    else:
        learner, worker = (rank.most + rank.cpu) / GIB, engine.weights / GIB + spec.rollout.cpu_kv_gib
    found = {
        "memory_gib": {"learner_rank": learner, "rollout_worker": worker},
        "memory_parts_gib": {
            "model_and_optimizer": rank.states / GIB,
            "activations": rank.activations / GIB,
            "between_steps": rank.between_steps / GIB,
            "engine_weights": engine.weights / GIB,
            "engine_least": engine_gib(engine),
        },
        "cpu_memory_gib": {"learner_rank": rank.cpu / GIB, "rollout_worker": engine.cpu / GIB},
    }
    return {key: {part: round(gib, 2) for part, gib in parts.items()} for key, parts in found.items()}


def to_fill_in(spec: JobSpec) -> dict[str, str]:
    """Return the placeholders that the user still has to replace in the job file, by key."""
    named = dict(marked_values(spec, tuple(PathTo)))
    if spec.method is Method.EVALUATE:
        del named["data.train"]  # not read
    return {
        key: value.removeprefix(PLACEHOLDER_PREFIX)
        for key, value in named.items()
        if value.startswith(PLACEHOLDER_PREFIX)
    }


def count_questions(
    spec: JobSpec, clip_check: ClipCheck = QUICK
) -> tuple[int | None, int | None, dict[str, dict[str, Any]]]:
    """Return the numbers of training and held-out questions, None for placeholders, and their sources by split.

    Reads every question and checks every clip, also its length. Raises DatasetError.
    """
    sources: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}

    def read(source: str | None, split: Split) -> Sequence[Question]:
        if source is None or source == SYNTHETIC or source.startswith(PLACEHOLDER_PREFIX):
            return ()
        found = read_split(spec.data, split, clip_check=clip_check)
        sources[split] = described(found)
        accepted = found.accepted()
        seconds.update(found.seconds)
        if split == "evaluation":
            check_held_out(spec, found)
        return accepted

    evaluates = spec.method is Method.EVALUATE
    train = () if evaluates else read(spec.data.train, "train")
    held_out = read(spec.data.evaluation, "evaluation")
    refuse_overlap(spec, train, held_out)
    if spec.data.train not in (None, SYNTHETIC) and train:
        train, _ = by_solve_rate(spec, train)
    elif spec.data.curriculum is not None and spec.data.curriculum.measured is not None:
        # Built-in questions are not made for a plan, so their number within the bounds is not known here.
        check_measured(spec.data.curriculum.measured)
    asked_questions = held_out[: spec.evaluation.questions or None]
    refuse_lengths(spec, clip_lengths(spec.model.path), [*train, *asked_questions], seconds)

    def count(source: str | None, built_in: int, found: Sequence[Question]) -> int | None:
        if source is not None and source.startswith(PLACEHOLDER_PREFIX):
            return None
        return built_in if source == SYNTHETIC else len(found)

    data = spec.data
    asked = count(data.evaluation, data.synthetic_evaluation, held_out)
    if asked is not None and spec.evaluation.questions:
        asked = min(asked, spec.evaluation.questions)
    trained = 0 if evaluates else count(data.train, data.synthetic_train, train)
    return trained, asked, sources
