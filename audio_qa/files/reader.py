"""Reads a question file of any format, and reports all of its problems."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from audio_qa.dataset import DatasetError, ItemLine
from audio_qa.files.clips import Clips
from audio_qa.files.hugging_face import is_dataset, read_rows
from audio_qa.files.records import read_records
from audio_qa.files.remote import FetchError, fetch, is_url, joined, parent
from audio_qa.formats.item import Item, ItemError
from audio_qa.formats.mapped import Columns
from audio_qa.formats.question_set import FileOrigin, Problem, ProblemKind, QuestionSet
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
    cache: Path | None = None,
    labelled: bool = True,
) -> QuestionSet:
    """Return all questions of a file or dataset, in its order, and all problems.

    Args:
        location: path or URL of a JSON array, JSON lines or Parquet; or a Hugging Face dataset (`hugging_face`).
        format: one of `registry.NAMES`; `auto` detects it from the keys of the first item.
        columns: the file's column by key of Earshot's schema; the format is then `mapped`.
        audio_root: folder or URL that relative clip paths start at; by default the folder of the file.
        name: name of the dataset, by default the file's stem.
        check_audio: fetch every clip with a URL and read every header; missing and broken clips are problems.
        cache: folder for fetched files; without it URLs are refused.
        labelled: require answers; without it answers are not read, and all are empty.

    Raises:
        DatasetError: the file is missing, is not JSON or has no items, or the format is unknown. Problems with single
            items are in the result's `problems` instead.
    """
    location = os.fspath(location)
    entries: list[Item | ItemLine | Problem]
    if is_dataset(location):
        entries = list(read_rows(location, None if cache is None else cache / "rows"))
        sha256 = records_sha256(entry.record for entry in entries if not isinstance(entry, Problem))
        folder, stem = str(Path.cwd()), Path(location.partition("#")[0].removeprefix("hf:")).name
    else:
        path = _local(location, cache)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        entries = list(read_records(path))
        folder, stem = parent(location) if is_url(location) else str(path.absolute().parent), path.stem
    if not entries:
        raise DatasetError(f"{location!r}: holds no question; write a JSON array, or one JSON object per line")
    chosen = choose(format, columns, next((e.record for e in entries if not isinstance(e, Problem)), {}))
    base = folder if audio_root is None else audio_root if is_url(audio_root) else str(Path(audio_root).absolute())
    reading = _Reading(chosen, stem if name is None else name, base, check_audio, cache, labelled)
    for index, entry in enumerate(entries):
        reading.read(index, entry)
    questions, records, problems, seconds = reading.result()
    if not questions and not any(problem.refused for problem in problems):
        kinds = ", ".join(sorted({problem.kind.value for problem in problems}))
        raise DatasetError(f"{location!r}: every item is left out ({kinds}), first {problems[0]}")
    found = EARSHOT if chosen is None else chosen.name
    source = FileOrigin(location, found, sha256, "" if chosen is None else chosen.version(sha256))
    described = tuple(entry.question for entry in reading.found if isinstance(entry, _Candidate))
    return QuestionSet(source, tuple(questions), tuple(records), tuple(problems), seconds, described)


def _local(location: str, cache: Path | None) -> Path:
    """Return the path of the question file on this machine, fetched if it is a URL."""
    if not is_url(location):
        return Path(location)
    if cache is None:
        raise DatasetError(f"{location!r}: URLs are not read here; name a file")
    try:
        return fetch(location, cache)
    except FetchError as error:
        raise DatasetError(str(error)) from error


def records_sha256(records: Iterable[Mapping[str, object]]) -> str:
    """Return the hash of records that do not come from a single file."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record, ensure_ascii=True, sort_keys=True, default=repr).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A question without problems whose clip has not been checked yet."""

    question: Question
    item: Item


@dataclass(slots=True)
class _Reading:
    """Reading in progress: the questions and problems found so far."""

    format: Format | None
    dataset: str
    base: str
    check_audio: bool
    cache: Path | None
    labelled: bool
    found: list[_Candidate | Problem] = field(default_factory=list)
    place_of_id: dict[str, str] = field(default_factory=dict)

    def read(self, index: int, entry: Item | ItemLine | Problem) -> None:
        """Add the next entry of the file."""
        if isinstance(entry, Problem):
            self.found.append(entry)
            return
        place = entry.place if isinstance(entry, Item) else f"{str(entry.path)!r}, line {entry.number}"
        item = Item(entry.record, place, self.labelled)
        try:
            question = self._earshot(index, entry) if self.format is None else self._published(index, item)
        except ItemError as error:
            refused = error.kind is not ProblemKind.NOT_SINGLE_CHOICE
            self.found.append(Problem(error.kind, item.place, str(item.record.get("id", "")), error.detail, refused))
            return
        before = self.place_of_id.setdefault(question.id, item.place)
        if before != item.place:
            where = before.rpartition(", ")[2]
            detail = f"id {question.id!r} is already used in {where}; make ids unique"
            self.found.append(Problem(ProblemKind.DUPLICATE_ID, item.place, question.id, detail))
            return
        self.found.append(_Candidate(question, item))

    def result(self) -> tuple[list[Question], list[Mapping[str, object]], list[Problem], dict[str, float]]:
        """Check the clips; return questions, their records, problems, and the seconds of each clip."""
        clips = Clips(self.cache, self.check_audio)
        clips.fetch(entry.question.audio for entry in self.found if isinstance(entry, _Candidate))
        questions: list[Question] = []
        records: list[Mapping[str, object]] = []
        problems: list[Problem] = []
        for entry in self.found:
            if isinstance(entry, Problem):
                problems.append(entry)
                continue
            audio, kind, error = clips.check(entry.question.audio)
            if kind is None:
                questions.append(replace(entry.question, audio=audio))
                records.append(entry.item.record)
                continue
            refused = kind is not ProblemKind.MISSING_AUDIO or self.format is None or self.format.missing_audio_refused
            problems.append(Problem(kind, entry.item.place, entry.question.id, f"audio {error}", refused))
        return questions, records, problems, clips.seconds

    def _earshot(self, index: int, entry: Item | ItemLine) -> Question:
        line = entry if isinstance(entry, ItemLine) else ItemLine(Path(), 0, dict(entry.record))
        try:
            question = line.question(self.dataset, index, Path(), labelled=self.labelled)
        except DatasetError as error:
            detail = str(error).removeprefix(f"{str(line.path)!r}, line {line.number}: ")
            kind = ProblemKind.ANSWER if "is not among the choices" in detail else ProblemKind.ITEM
            raise ItemError(detail, kind) from error
        return replace(question, audio=joined(self.base, str(line.record["audio"])))

    def _published(self, index: int, item: Item) -> Question:
        assert self.format is not None
        draft = self.format.parse(item)
        return Question(
            dataset=self.dataset,
            index=index,
            id=draft.id,
            audio=joined(self.base, draft.audio),
            text=draft.text,
            choices=draft.choices,
            answer=draft.answer,
            task=draft.task,
            category=draft.category,
            difficulty=draft.difficulty,
            sub_category=draft.sub_category,
        )
