"""Check a job, read its questions and build its model, before anything is started or written to the run directory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from audio_qa.audio import probe
from audio_qa.chat import ChatError, render
from audio_qa.families import facts_of, mel_frames
from audio_qa.formats.question_set import summary
from audio_qa.processor import load_processor
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from audio_qa.synthetic.benchmark import load_split, make_benchmark
from orchestrator.display.progress import OnProgress
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.sections.model import TINY_INSTRUCT, TINY_MODELS
from orchestrator.job.spec import JobSpec, Method
from orchestrator.job.spec_file import SpecError
from orchestrator.places import cache_directory
from orchestrator.preflight.model_folder import check_context, check_model_folder
from orchestrator.questions.curriculum import within
from orchestrator.questions.solve_rates import SolveRate, measured_rates
from orchestrator.questions.splits import Split, described, read_split, refuse_overlap
from orchestrator.storage.stored_run import check_storage
from orchestrator.tracking.following import check_tracking
from reward.judge import read_key
from reward.registry import check_name


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job with its questions and a model folder, checked against each other."""

    spec: JobSpec
    model_folder: str
    train: tuple[Question, ...]
    held_out: tuple[Question, ...]
    base_seconds: float | None
    """Seconds that building the built-in model took, now or in an earlier run; None for any other model."""
    base_cached: bool
    """True if an earlier run built it."""
    longest_prompt: int
    """Number of tokens of the longest prompt, audio included."""
    measured: dict[str, SolveRate] = field(default_factory=dict)
    """Solve rates of the training questions from the curriculum's file, by question key."""
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Sources of the questions by split (`questions.splits.described`), without built-in ones."""


def prepare(spec: JobSpec, report: OnProgress) -> Prepared:
    """Read, build and check everything that a job needs.

    Raises:
        InputError: one line that names the fault and how to correct it.
    """
    for name in spec.reward.functions:
        check_name(name, spec.reward.allowed_modules)
    if spec.reward.judge is not None and spec.cluster.address is None:
        read_key(spec.reward.judge)
    check_tracking(spec)
    check_storage(spec)
    if spec.model.path not in TINY_MODELS:
        check_model_folder(spec.model.path)
    check_context(spec)
    train, held_out, data = _questions(spec, report)
    in_file = len(train)
    train, measured = by_solve_rate(spec, train)
    if measured:
        data["curriculum"] = {"measured": len(measured), "questions": len(train), "left_out": in_file - len(train)}
    base_seconds, base_cached, folder = None, True, spec.model.path
    if folder in TINY_MODELS:
        # Building the tiny model needs torch, which the base install does not have.
        from learner.tiny.base import tiny_base, tiny_instruct  # noqa: PLC0415

        make = tiny_instruct if folder == TINY_INSTRUCT else tiny_base
        base = make(spec.seed, report, cache_directory() / "models")
        base_seconds, base_cached, folder = base.seconds, base.cached, str(base.folder)
    longest = check_prompts(
        [*train, *held_out],
        folder,
        spec.data.prompt,
        room=spec.model.max_context - spec.rollout.max_tokens,
        truncate=spec.model.too_long == "truncate",
        report=report,
    )
    return Prepared(spec, folder, tuple(train), tuple(held_out), base_seconds, base_cached, longest, measured, data)


def by_solve_rate(spec: JobSpec, train: Sequence[Question]) -> tuple[Sequence[Question], dict[str, SolveRate]]:
    """Return the training questions within the curriculum's bounds, and all solve rates of its file.

    Raises SpecError if the file cannot be used or no question is left.
    """
    section = spec.data.curriculum
    if section is None or section.measured is None:
        return train, {}
    measured = measured_rates(section.measured, train)
    left = within(train, measured, section)
    if not left:
        raise SpecError(
            f"data.curriculum: all {len(train)} training questions are solved less often than min_solve_rate or more "
            "often than max_solve_rate: widen the bounds"
        )
    return left, measured


def _questions(
    spec: JobSpec, report: OnProgress
) -> tuple[Sequence[Question], Sequence[Question], dict[str, dict[str, Any]]]:
    """Return the training questions, the held-out questions, and their sources by split."""
    data = spec.data
    sources: dict[str, dict[str, Any]] = {}
    synthetic: Path | None = None
    if SYNTHETIC in (data.train, data.evaluation):
        report("making the synthetic benchmark", 0, 1)
        synthetic = make_benchmark(
            cache_directory() / "data",
            seed=spec.seed,
            train=data.synthetic_train,
            heldout=data.synthetic_evaluation,
            categories=data.synthetic_train_categories,
        )

    def read(source: str, split: Split, built_in: str) -> Sequence[Question]:
        if source == SYNTHETIC and synthetic is not None:
            questions = load_split(synthetic, built_in)
            return [replace(q, answer="") for q in questions] if split == "train" and data.unlabelled else questions
        report("reading questions and clips", 0, 1)
        found = read_split(data, split)
        sources[split] = described(found)
        return found.accepted()

    train = read(data.train, "train", "train") if spec.method is not Method.EVALUATE else ()
    held_out = read(data.evaluation, "evaluation", "heldout") if data.evaluation is not None else []
    if spec.evaluation.questions:
        held_out = held_out[: spec.evaluation.questions]
    refuse_overlap(spec, train, held_out)
    return train, held_out, sources


def check_prompts(
    questions: Sequence[Question],
    folder: str,
    template: PromptTemplate,
    *,
    room: int,
    truncate: bool,
    report: OnProgress,
) -> int:
    """Return the number of tokens of the longest prompt.

    Raises SpecError for prompts that do not fit, and for clips longer than the model takes.

    Args:
        room: maximum number of tokens of a prompt: the context minus the longest completion.
        truncate: accept clips that are too long.
    """
    facts = facts_of(folder)
    try:
        processor = load_processor(folder)
        extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise SpecError(
            f"model.path: {folder!r}: its processor cannot be loaded: {' '.join(str(error).split())}"
        ) from error
    longest_clip = facts.max_clip_seconds(extractor)
    longest, problems = 0, list[str]()
    for i, question in enumerate(questions):
        seconds = probe(question.audio).seconds
        if seconds > longest_clip and not truncate:
            problems.append(
                f"{question.audio}: question {question.key}: the clip has {seconds:.1f} s and the model takes "
                f"{longest_clip:.0f} s; shorten the clip, remove the question, or set model.too_long to truncate"
            )
            continue
        try:
            text = len(tokenizer(render(processor, question, template))["input_ids"])
        except ChatError as error:
            problems.append(str(error))
            continue
        frames = mel_frames(int(min(seconds, longest_clip) * extractor.sampling_rate), extractor.hop_length)
        # The single placeholder in the text is replaced by the audio tokens.
        length = text - 1 + facts.audio_tokens(frames)
        if length > room:
            problems.append(
                f"question {question.key}: its prompt has {length} tokens, {room} fit with the longest completion; "
                "raise model.max_context or lower rollout.max_tokens"
            )
        longest = max(longest, length)
        if i % 200 == 0 or i + 1 == len(questions):
            report("checking questions", i + 1, len(questions))
    if problems:
        raise SpecError(summary(problems))
    return longest
