"""Check a job, read its questions and build its model, before anything is started or written to the run directory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from audio_qa.audio import AudioError, AudioInfo, clip_samples
from audio_qa.chat import ChatError, render
from audio_qa.families import facts_of
from audio_qa.files.clips import ClipCheck, clip_memory, probe_all
from audio_qa.files.guard import Guard
from audio_qa.formats.question_set import QuestionSet, summary
from audio_qa.processor import load_processor
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from audio_qa.scoring.rules import rule_of
from audio_qa.scoring.submission import check_predictions, submission_name
from audio_qa.synthetic.benchmark import load_split, make_benchmark
from orchestrator.display.progress import OnProgress
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.sections.model import TINY_INSTRUCT, TINY_MODELS
from orchestrator.job.spec import JobSpec, Method
from orchestrator.job.spec_file import SpecError
from orchestrator.places import cache_directory
from orchestrator.preflight.clip_lengths import ClipLengths
from orchestrator.preflight.model_folder import (
    check_attention,
    check_context,
    check_model_folder,
    check_tensor_parallel,
    naming_the_key,
)
from orchestrator.questions.curriculum import within
from orchestrator.questions.held_out import asked_set, check_held_out, synthetic_set
from orchestrator.questions.solve_rates import SolveRate, measured_rates
from orchestrator.questions.splits import Split, clip_cache, described, read_split, refuse_overlap
from orchestrator.storage.stored_run import check_storage
from orchestrator.tracking.following import check_tracking
from reward.judge import read_key
from reward.registry import check_name

_PROMPTS_AT_ONCE = 500
"""Prompts that the tokenizer gets together; it works on them in parallel."""


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
    held_out_set: QuestionSet | None = None
    """The held-out questions with their records; None without any."""


def prepare(spec: JobSpec, report: OnProgress, guard: Guard | None = None) -> Prepared:
    """Read, build and check everything that a job needs.

    Args:
        guard: decides which question files and clips may be read, before they are; by default all.

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
    check_attention(spec)
    check_tensor_parallel(spec)
    train, held_out_set, data = job_questions(spec, report, guard)
    held_out = () if held_out_set is None else held_out_set.questions
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
    return Prepared(
        spec, folder, tuple(train), held_out, base_seconds, base_cached, longest, measured, data, held_out_set
    )


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


def job_questions(
    spec: JobSpec, report: OnProgress, guard: Guard | None = None
) -> tuple[Sequence[Question], QuestionSet | None, dict[str, dict[str, Any]]]:
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

    def read(split: Split) -> QuestionSet:
        report("reading questions and clips", 0, 1)
        found = read_split(data, split, clip_check=ClipCheck(report=report), guard=guard)
        sources[split] = described(found)
        found.accepted()
        return found

    train: Sequence[Question] = ()
    if spec.method is not Method.EVALUATE and data.train == SYNTHETIC and synthetic is not None:
        train = load_split(synthetic, "train")
        train = [replace(question, answer="") for question in train] if data.unlabelled else train
    elif spec.method is not Method.EVALUATE:
        train = read("train").questions
    held_out: QuestionSet | None = None
    if data.evaluation == SYNTHETIC and synthetic is not None:
        held_out = synthetic_set(load_split(synthetic, "heldout"), spec.seed)
    elif data.evaluation is not None:
        held_out = read("evaluation")
    if held_out is not None:
        check_held_out(spec, held_out)
        held_out = asked_set(held_out, spec.evaluation.questions)
        refuse_overlap(spec, train, held_out.questions)
        if spec.method is Method.EVALUATE:
            rule = rule_of(held_out.source.format)
            check_predictions(Path(submission_name(held_out.source.location, rule)), held_out, rule)
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

    Raises SpecError for prompts that do not fit, and for clips that are longer or shorter than the model takes.

    Args:
        room: maximum number of tokens of a prompt: the context minus the longest completion.
        truncate: accept clips that are too long.
    """
    facts = facts_of(folder)
    with naming_the_key():
        processor = load_processor(folder)
    extractor = processor.feature_extractor
    lengths = ClipLengths(facts.max_clip_seconds(extractor), facts.least_samples(extractor.hop_length))
    seconds, problems = _clip_seconds(questions, lengths, truncate, report)
    heard = [question for question in questions if question.audio in seconds]
    longest = 0
    for i in range(0, len(heard), _PROMPTS_AT_ONCE):
        part = heard[i : i + _PROMPTS_AT_ONCE]
        for question, text in zip(part, _token_counts(processor, part, template, problems), strict=True):
            samples = clip_samples(min(seconds[question.audio], lengths.longest_seconds))
            # The single placeholder in the text is replaced by the audio tokens.
            length = text - 1 + facts.clip_tokens(samples, extractor.hop_length)
            if text and length > room:
                problems.append(
                    f"question {question.key}: its prompt has {length} tokens, {room} fit with the longest completion; "
                    "raise model.max_context or lower rollout.max_tokens"
                )
            longest = max(longest, length)
        report("checking questions", i + len(part), len(heard))
    if problems:
        raise SpecError(summary(problems))
    return longest


def _clip_seconds(
    questions: Sequence[Question], lengths: ClipLengths, truncate: bool, report: OnProgress
) -> tuple[dict[str, float], list[str]]:
    """Return the length of each clip that the model hears, and the problems of the other ones."""
    checked = probe_all([question.audio for question in questions], clip_memory(clip_cache()), ClipCheck(report=report))
    found = {path: clip.seconds for path, clip in checked.items() if isinstance(clip, AudioInfo)}
    problems = [f"question {q.key}: {clip}" for q in questions if isinstance(clip := checked[q.audio], AudioError)]
    for problem in lengths.problems(questions, found, truncate=truncate):
        if problem.refused:
            problems.append(str(problem))
    for question in questions:
        if question.audio in found and not lengths.fits(found[question.audio], truncate=truncate):
            del found[question.audio]
    return found, problems


def _token_counts(
    processor: Any, questions: Sequence[Question], template: PromptTemplate, problems: list[str]
) -> list[int]:
    """Return the number of tokens of each question's chat; 0, and a new problem, where it cannot be rendered."""
    texts: list[str] = []
    for question in questions:
        try:
            texts.append(render(processor, question, template))
        except ChatError as error:
            problems.append(str(error))
            texts.append("")
    return [len(ids) if text else 0 for text, ids in zip(texts, processor.tokenizer(texts)["input_ids"], strict=True)]
