"""The held-out questions of a job with their records, kept from before the job starts: the file is not read again.

A question file may change or vanish while a job runs for hours; its predictions are written from these records.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from audio_qa.errors import shown
from audio_qa.files.source import records_sha256
from audio_qa.formats.question_set import FileOrigin, QuestionSet
from audio_qa.question import Question
from audio_qa.scoring.rules import rule_of
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.spec import JobSpec, Method
from orchestrator.job.spec_file import SpecError


def check_held_out(spec: JobSpec, found: QuestionSet) -> None:
    """Raise SpecError if a job cannot use the held-out questions of its file."""
    if not found.labelled and spec.method is not Method.EVALUATE:
        raise SpecError(
            f"data.evaluation: {shown(spec.data.evaluation)} has no answers, so a job that trains has no accuracy to "
            "report; leave it out, and ask its questions later, with `method: evaluate` or `earshot evaluate "
            "--predictions FILE`"
        )


def asked_set(found: QuestionSet, questions: int) -> QuestionSet:
    """Return the first questions of a file, 0 for all, with records that predictions can be added to.

    Predictions that the file has already are left out, and so is what JSON cannot hold: bytes, NaN and infinity.
    """
    count = questions or len(found.questions)
    keys = rule_of(found.source.format).keys
    records = tuple(
        {key: _plain(value) for key, value in record.items() if key not in keys} for record in found.records[:count]
    )
    return replace(found, questions=found.questions[:count], records=records, problems=(), seconds={}, described=())


def synthetic_set(held_out: Sequence[Question], seed: int) -> QuestionSet:
    """Return the synthetic benchmark's questions with records in Earshot's schema."""
    keys = ("id", "audio", "choices", "answer", "task", "category", "sub_category", "difficulty")
    records = tuple(
        {"question": question.text} | {key: value for key in keys if (value := getattr(question, key))}
        for question in held_out
    )
    # The digest identifies questions, wherever their clips are stored.
    digest = records_sha256({key: value for key, value in record.items() if key != "audio"} for record in records)
    source = FileOrigin(SYNTHETIC, "earshot", digest, f"seed {seed}")
    return QuestionSet(source, tuple(held_out), records, (), {})


def _plain(value: object) -> object:
    """Return a record's value with null for bytes and for numbers that are not finite."""
    if isinstance(value, bytes | bytearray) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
