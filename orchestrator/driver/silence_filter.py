"""`earshot data filter`: leaves out the questions that a model answers without hearing their clips.

He et al., 2025, "Measuring Audio's Impact on Correctness" (arXiv 2509.21060): what is answered right with silence in
the clip's place rewards reading, not listening.

Invariant: every training question is in the new file, or among those that are listed with how often they were answered.
"""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audio_qa.answer import is_correct
from audio_qa.dataset import write_jsonl
from audio_qa.question import Question
from audio_qa.whole_file import whole_file
from orchestrator.display.progress import Progress
from orchestrator.driver.evaluation import answering
from orchestrator.driver.session import cluster
from orchestrator.evaluation.evaluate import Generate
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.preflight.prepare import Prepared
from orchestrator.questions.source import sample_seed
from protocol.rollout import FailedQuestion, RolloutRequest, Sampling

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class SilenceResult:
    """How a question was answered with silence in its clip's place."""

    id: str
    question: str
    answer: str
    right: int | None
    """Answers that were right; None where it could not be asked."""
    asked: int

    def known_without(self, threshold: float) -> bool:
        """Whether at least the threshold's share of answers was right."""
        return self.right is not None and self.right >= threshold * self.asked


def listed_file(output: Path) -> Path:
    """Where what is left out of a question file is listed."""
    return output.with_name(f"{output.stem}.dropped.jsonl")


def check_output(spec: JobSpec, output: Path, questions: Sequence[Question]) -> None:
    """Raise SpecError or DatasetError for what could not be written later, before the model is asked."""
    if spec.data.unlabelled:
        raise SpecError("data.unlabelled: which answers are right is not known without labels; leave it out")
    for path in (output, listed_file(output)):
        if path.exists():
            raise SpecError(f"--output: {str(path)!r} exists; name a new file")
    if not output.absolute().parent.is_dir():
        raise SpecError(f"--output: there is no folder {str(output.absolute().parent)!r}; make it first")
    with tempfile.TemporaryDirectory() as folder:
        write_jsonl(Path(folder) / output.name, questions)


def filter_by_silence(
    prepared: Prepared, progress: Progress, output: Path, *, samples: int, threshold: float, temperature: float
) -> dict[str, Any]:
    """Ask all training questions with silence, and write those that are not answered right too often.

    Args:
        output: the new question file, in Earshot's own schema. Beside it, `listed_file` has what is left out.
        samples: answers a question.
        threshold: the share of right answers from which on a question is left out.

    Returns plain data: the counts, and everything that was left out. Nothing is written where no question is left.
    """
    spec, questions = prepared.spec, prepared.train

    async def ask() -> list[SilenceResult]:
        async with answering(prepared, progress) as generate:
            return await ask_silently(generate, spec, questions, samples=samples, temperature=temperature)

    with cluster(spec):
        heard = asyncio.run(ask())
    dropped = [item for item in heard if item.known_without(threshold)]
    kept = [q for q, item in zip(questions, heard, strict=True) if not item.known_without(threshold)]
    result: dict[str, Any] = {
        "model": spec.model.path,
        "data": spec.data.train,
        "samples": samples,
        "threshold": threshold,
        "questions": len(questions),
        "kept": len(kept),
        "failed": sum(item.right is None for item in heard),
        "chance_accuracy": sum(q.chance for q in questions) / len(questions),
        "silence_accuracy": _share(heard),
        "dropped": [asdict(item) for item in dropped],
        "output": None,
    }
    if kept:
        with whole_file(listed_file(output)) as file:
            file.writelines(json.dumps(asdict(item), ensure_ascii=False).encode() + b"\n" for item in dropped)
        write_jsonl(output, kept)
        result["output"] = str(output.resolve())
    return result


async def ask_silently(
    generate: Generate, spec: JobSpec, questions: Sequence[Question], *, samples: int, temperature: float
) -> list[SilenceResult]:
    """How each question is answered with silence in its clip's place, in their order."""
    requests = [
        RolloutRequest(question, spec.data.prompt, sample_seed(spec.seed, i), silent=True)
        for i, question in enumerate(questions)
    ]
    answers = await generate(requests, Sampling(samples, spec.rollout.max_tokens, temperature))
    return [
        SilenceResult(
            question.id,
            question.text,
            question.answer,
            None
            if isinstance(answer, FailedQuestion)
            else sum(is_correct(c.text, question.answer) for c in answer.completions),
            samples,
        )
        for question, answer in zip(questions, answers, strict=True)
    ]


def _share(heard: Sequence[SilenceResult]) -> float | None:
    asked = [item for item in heard if item.right is not None]
    return sum(item.right or 0 for item in asked) / sum(item.asked for item in asked) if asked else None
