"""Read the questions of a job and check them, before anything is started."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from audio_qa.files.clips import QUICK, ClipCheck
from audio_qa.files.guard import Guard
from audio_qa.files.reader import read_questions
from audio_qa.formats.item import Answers
from audio_qa.formats.question_set import QuestionSet, refuse
from audio_qa.inspection.overlap import overlapping
from audio_qa.question import Question
from orchestrator.job.sections.data import SYNTHETIC, DataSection
from orchestrator.job.spec import PLACEHOLDER_PREFIX, JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.places import cache_directory

Split = Literal["train", "evaluation"]


def read_split(
    data: DataSection,
    split: Split,
    *,
    check_audio: bool = True,
    remote: bool = True,
    answers: Answers | None = None,
    clip_check: ClipCheck = QUICK,
    guard: Guard | None = None,
) -> QuestionSet:
    """Read the training or held-out questions of a job, with all their problems; not the built-in ones.

    Args:
        check_audio: fetch clips that are given by URL, and check every clip.
        remote: whether files given by URL may be fetched, into Earshot's cache.
        answers: whether items need an answer; None for what a job needs.
        clip_check: how the clips are checked.
        guard: called before the file and before each clip is read; raises for what must not be read.

    Raises:
        DatasetError: the file as a whole cannot be read.
        SpecError: the job has no such split, or names a built-in dataset that does not exist.
    """
    source = data.train if split == "train" else data.evaluation
    if source is None or source == SYNTHETIC:
        raise SpecError(f"data.{split}: there is no question file to read")
    if source.startswith(PLACEHOLDER_PREFIX):
        raise SpecError(
            f"data.{split}: put your file of {source.removeprefix(PLACEHOLDER_PREFIX)} instead of {source!r}"
        )
    if source.startswith("builtin:"):
        raise SpecError(f"data: {source!r} is not built in; choose {SYNTHETIC} or a question file")
    training = split == "train"
    with _without_collection():
        return read_questions(
            source,
            format=data.format if training else data.evaluation_format,
            columns=(data.columns if training else data.evaluation_columns) or None,
            audio_root=data.audio_root if training else data.evaluation_audio_root,
            check_audio=check_audio,
            cache=clip_cache() if remote else None,
            answers=_answers(data, split) if answers is None else answers,
            clip_check=clip_check,
            guard=guard,
        )


@contextmanager
def _without_collection() -> Iterator[None]:
    """Pause garbage collection, which takes a fifth of the time: 38,000 questions are made, and none is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _answers(data: DataSection, split: Split) -> Answers:
    if split == "evaluation":
        return Answers.OPTIONAL
    return Answers.IGNORED if data.unlabelled else Answers.REQUIRED


def clip_cache() -> Path:
    """Return the folder of fetched clips, and of the memory of earlier checks."""
    return cache_directory() / "clips"


def described(found: QuestionSet) -> dict[str, Any]:
    """Return the origin and the number of questions, as plans and events hold them."""
    return {**asdict(found.source), "questions": len(found.questions), "left_out": found.left_out()}


def trains(spec: JobSpec) -> bool:
    """Return whether a job trains on its training questions."""
    return spec.steps > 0 or spec.warm_start is not None


def refuse_overlap(spec: JobSpec, train: Sequence[Question], held_out: Sequence[Question]) -> None:
    """Raise DatasetError if a job would be evaluated on clips that it trains on with their answers."""
    if trains(spec) and not spec.data.unlabelled and held_out and spec.data.train != SYNTHETIC:
        refuse([str(problem) for problem in overlapping(train, held_out, clip_cache())])
