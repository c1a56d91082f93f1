"""`earshot data filter`: removes the questions that a model answers without hearing their clips.

He et al., 2025, "Measuring Audio's Impact on Correctness" (arXiv 2509.21060): a question that is answered correctly
with silence instead of its clip rewards reading, not listening.

Invariant: every training question is in the new file, or listed among the removed ones with its number of correct
answers.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_qa.answer import chance, is_correct
from audio_qa.dataset import write_jsonl
from audio_qa.question import Question
from audio_qa.whole_file import whole_file
from orchestrator.display.progress import Progress
from orchestrator.driver.evaluation import started_workers
from orchestrator.driver.session import failing_after_start, ray_session
from orchestrator.evaluation.evaluate import NothingAskedError, UnaskedQuestion, unasked_text
from orchestrator.job.sections.evaluation import AudioControl
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.preflight.prepare import Prepared
from orchestrator.questions.source import sample_seed
from protocol.calls import Generate
from protocol.rollout import Answer, FailedQuestion, RolloutRequest, Sampling


@dataclass(frozen=True, slots=True)
class SilenceResult:
    """The answers to a question with silence instead of its clip."""

    id: str
    question: str
    answer: str
    right: int | None
    """Number of correct answers; None if the question failed."""
    asked: int
    failure: UnaskedQuestion | None = None
    """Why the question failed."""

    def as_record(self) -> dict[str, object]:
        """Return the answers as plain data."""
        return {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "right": self.right,
            "asked": self.asked,
        }

    def known_without(self, threshold: float) -> bool:
        """Return whether at least the threshold's share of answers was correct."""
        return self.right is not None and self.right >= threshold * self.asked


def dropped_file(output: Path) -> Path:
    """Return the file that lists the questions removed from a question file."""
    return output.with_name(f"{output.stem}.dropped.jsonl")


def check_output(spec: JobSpec, output: Path) -> None:
    """Raise SpecError if the output cannot be written, before the model is prepared."""
    if spec.data.unlabelled:
        raise SpecError("data.unlabelled: without labels it is not known which answers are correct; remove it")
    for path in (output, dropped_file(output)):
        if path.exists():
            raise SpecError(f"--output: {str(path)!r} exists; name a new file")
    if not output.absolute().parent.is_dir():
        raise SpecError(f"--output: the folder {str(output.absolute().parent)!r} does not exist; create it first")
    if not os.access(output.absolute().parent, os.W_OK):
        raise SpecError(f"--output: no file can be created in {str(output.absolute().parent)!r}; name another folder")


def check_writable(output: Path, questions: Sequence[Question]) -> None:
    """Raise DatasetError if a file in Earshot's schema cannot hold the questions, before the model is asked."""
    with tempfile.TemporaryDirectory() as folder:
        write_jsonl(Path(folder) / output.name, questions)


def filter_by_silence(
    prepared: Prepared, progress: Progress, output: Path, *, samples: int, threshold: float, temperature: float
) -> dict[str, Any]:
    """Ask all training questions with silence, and write those that are not answered correctly too often.

    Args:
        output: the new question file, in Earshot's schema. `dropped_file`, next to it, lists the removed ones.
        samples: answers per question.
        threshold: minimum share of correct answers of a question that is removed.

    Returns plain data: the counts, the removed questions and those that failed. Nothing is written if no question is
    left. Raises NothingAskedError if all failed.
    """
    spec, questions = prepared.spec, prepared.train

    async def ask() -> list[SilenceResult]:
        async with started_workers(prepared, progress) as generate:
            return await ask_silently(generate, spec, questions, samples=samples, temperature=temperature)

    with failing_after_start(), ray_session(spec):
        results = asyncio.run(ask())
    failures = check_asked(results, progress)
    dropped = [item for item in results if item.known_without(threshold)]
    kept = [q for q, item in zip(questions, results, strict=True) if not item.known_without(threshold)]
    result: dict[str, Any] = {
        "model": spec.model.path,
        "data": spec.data.train,
        "samples": samples,
        "threshold": threshold,
        "questions": len(questions),
        "kept": len(kept),
        "failed": len(failures),
        "failures": [failed.as_record() for failed in failures],
        "chance_accuracy": sum(map(chance, questions)) / len(questions),
        "silence_accuracy": _share(results),
        "dropped": [item.as_record() for item in dropped],
        "output": None,
    }
    if kept:
        with whole_file(dropped_file(output)) as file:
            file.writelines(json.dumps(item.as_record(), ensure_ascii=False).encode() + b"\n" for item in dropped)
        write_jsonl(output, kept)
        result["output"] = str(output.resolve())
    return result


async def ask_silently(
    generate: Generate, spec: JobSpec, questions: Sequence[Question], *, samples: int, temperature: float
) -> list[SilenceResult]:
    """Return the answers to each question with silence instead of its clip, in the given order."""
    requests = [
        RolloutRequest(question, spec.data.prompt, sample_seed(spec.seed, i), silent=True)
        for i, question in enumerate(questions)
    ]
    answers = await generate(requests, Sampling(samples, spec.rollout.max_tokens, temperature))
    return [_result(answer, samples) for answer in answers]


def check_asked(results: Sequence[SilenceResult], progress: Progress) -> list[UnaskedQuestion]:
    """Return the questions that failed, and show how many and why. Raises NothingAskedError if all failed."""
    failures = [item.failure for item in results if item.failure is not None]
    if len(failures) == len(results):
        raise NothingAskedError(f"nothing was written: {unasked_text(failures, len(results))}")
    if failures:
        progress.message(unasked_text(failures, len(results), " and stay in the file"))
    return failures


def _result(answer: Answer, samples: int) -> SilenceResult:
    question = answer.question
    described = (question.id, question.text, question.answer)
    if isinstance(answer, FailedQuestion):
        failure = UnaskedQuestion(question, AudioControl.SILENCE, answer.reason.value, answer.detail)
        return SilenceResult(*described, None, samples, failure)
    right = sum(is_correct(c.text, question.answer, question.choices) for c in answer.completions)
    return SilenceResult(*described, right, samples)


def _share(results: Sequence[SilenceResult]) -> float | None:
    asked = [item for item in results if item.right is not None]
    return sum(item.right or 0 for item in asked) / sum(item.asked for item in asked) if asked else None
