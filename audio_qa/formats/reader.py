"""Reads a question file of any format, and says everything that is wrong with it."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from audio_qa.audio import AudioError, probe
from audio_qa.dataset import DatasetError, Line
from audio_qa.formats.item import Item, ItemError
from audio_qa.formats.mapped import Columns
from audio_qa.formats.question_set import Problem, ProblemKind, QuestionSet, Source
from audio_qa.formats.records import read_records
from audio_qa.formats.registry import AUTO, EARSHOT, Format, choose
from audio_qa.question import Question


def read_questions(
    location: str | os.PathLike[str],
    *,
    format: str = AUTO,
    columns: Columns | None = None,
    audio_root: str | None = None,
    name: str | None = None,
    check_audio: bool = True,
) -> QuestionSet:
    """All questions of a file, in its order, and all problems of it.

    Args:
        location: a JSON array or JSON lines.
        format: one of `registry.NAMES`; `auto` tells it from the keys of the first item.
        columns: by key of Earshot's schema, the file's column; the format is then `mapped`.
        audio_root: the folder that relative clip paths start at; by default the file's own.
        name: the dataset's, by default the file's stem.
        check_audio: read every clip's header; one that is missing or broken is a problem.

    Raises:
        DatasetError: the file is missing or no JSON, holds no item at all, or the format is not known. What is wrong
            with single items is in the result's `problems` instead.
    """
    path = Path(location)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    base = Path(audio_root).absolute() if audio_root is not None else path.absolute().parent
    entries = list(read_records(path))
    return build(
        entries,
        location=str(location),
        format=format,
        columns=columns,
        base=base,
        name=path.stem if name is None else name,
        sha256=sha256,
        check_audio=check_audio,
    )


def build(
    entries: Iterable[Item | Line | Problem],
    *,
    location: str,
    format: str,
    columns: Columns | None,
    base: Path,
    name: str,
    sha256: str,
    check_audio: bool,
) -> QuestionSet:
    """The question set of some records, wherever they come from. Arguments and errors as in `read_questions`."""
    entries = list(entries)
    first = next((e.record for e in entries if not isinstance(e, Problem)), None)
    if first is None and not entries:
        raise DatasetError(f"{location!r}: holds no question; write one JSON object per line")
    chosen = choose(format, columns, first or {})
    reading = _Reading(chosen, name, base, check_audio)
    for index, entry in enumerate(entries):
        if isinstance(entry, Problem):
            reading.problems.append(entry)
        else:
            reading.read(index, entry)
    if not reading.questions and not any(problem.refused for problem in reading.problems):
        kinds = ", ".join(sorted({problem.kind.value for problem in reading.problems}))
        raise DatasetError(f"{location!r}: every item is left out ({kinds}), first {reading.problems[0]}")
    found = EARSHOT if chosen is None else chosen.name
    version = "" if chosen is None else chosen.version(sha256)
    source = Source(location, found, sha256, version)
    return QuestionSet(source, tuple(reading.questions), tuple(reading.records), tuple(reading.problems))


def records_sha256(records: Iterable[Mapping[str, object]]) -> str:
    """The hash of records that come from no one file."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record, ensure_ascii=True, sort_keys=True, default=repr).encode() + b"\n")
    return digest.hexdigest()


@dataclass(slots=True)
class _Reading:
    """What has been read so far."""

    format: Format | None
    dataset: str
    base: Path
    check_audio: bool
    questions: list[Question] = field(default_factory=list)
    records: list[Mapping[str, object]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    place_of_id: dict[str, str] = field(default_factory=dict)
    probed: dict[str, AudioError | None] = field(default_factory=dict)

    def read(self, index: int, entry: Item | Line) -> None:
        item = _item(entry)
        try:
            question = self._earshot(index, entry) if self.format is None else self._published(index, item)
        except ItemError as error:
            refused = error.kind is not ProblemKind.NOT_SINGLE_CHOICE
            shown = str(item.record.get("id", ""))
            self.problems.append(Problem(error.kind, item.place, shown, error.detail, refused))
            return
        found = list(self._problems_of(question, item.place))
        self.problems.extend(found)
        if not found:
            self.questions.append(question)
            self.records.append(item.record)

    def _earshot(self, index: int, entry: Item | Line) -> Question:
        line = entry if isinstance(entry, Line) else Line(Path(), 0, dict(entry.record))
        try:
            return line.question(self.dataset, index, self.base)
        except DatasetError as error:
            detail = str(error).removeprefix(f"{str(line.path)!r}, line {line.number}: ")
            kind = ProblemKind.ANSWER if "is not among the choices" in detail else ProblemKind.ITEM
            raise ItemError(detail, kind) from error

    def _published(self, index: int, item: Item) -> Question:
        assert self.format is not None
        draft = self.format.parse(item)
        return Question(
            dataset=self.dataset,
            index=index,
            id=draft.id,
            audio=os.path.normpath(self.base / draft.audio),
            text=draft.text,
            choices=draft.choices,
            answer=draft.answer,
            task=draft.task,
            category=draft.category,
            difficulty=draft.difficulty,
            sub_category=draft.sub_category,
        )

    def _problems_of(self, question: Question, place: str) -> Iterator[Problem]:
        """What is wrong with a question besides its own text."""
        before = self.place_of_id.setdefault(question.id, place)
        if before != place:
            where = before.rpartition(", ")[2]
            detail = f"id {question.id!r} stands in {where} already; make ids unique"
            yield Problem(ProblemKind.DUPLICATE_ID, place, question.id, detail)
        error = self._audio_error(question.audio) if self.check_audio else None
        if error is not None:
            missing = not Path(question.audio).is_file()
            kind = ProblemKind.MISSING_AUDIO if missing else ProblemKind.UNREADABLE_AUDIO
            refused = not missing or self.format is None or self.format.missing_audio_refused
            yield Problem(kind, place, question.id, f"audio {error}", refused)

    def _audio_error(self, audio: str) -> AudioError | None:
        if audio not in self.probed:
            try:
                probe(audio)
                self.probed[audio] = None
            except AudioError as error:
                self.probed[audio] = error
        return self.probed[audio]


def _item(entry: Item | Line) -> Item:
    return entry if isinstance(entry, Item) else Item(entry.record, f"{str(entry.path)!r}, line {entry.number}")
