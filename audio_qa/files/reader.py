"""Reads a question file of any format, and reports all of its problems."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from audio_qa.dataset import DatasetError, ItemLine, nearest
from audio_qa.errors import shown
from audio_qa.files.clips import QUICK, ClipCheck, Clips
from audio_qa.files.guard import Guard
from audio_qa.files.records import Entry
from audio_qa.files.remote import is_url, joined
from audio_qa.files.source import open_source
from audio_qa.formats.cells import listed
from audio_qa.formats.item import Answers, Item, ItemError, is_missing
from audio_qa.formats.mapped import OPTIONAL, Columns
from audio_qa.formats.question_set import FileOrigin, Problem, ProblemKind, QuestionSet
from audio_qa.formats.registry import AUTO, EARSHOT, Format, choose
from audio_qa.question import Question

_LONGEST_ID = 100


def read_questions(
    location: str | os.PathLike[str],
    *,
    format: str = AUTO,
    columns: Columns | None = None,
    audio_root: str | None = None,
    name: str | None = None,
    check_audio: bool = True,
    cache: Path | None = None,
    answers: Answers = Answers.REQUIRED,
    clip_check: ClipCheck = QUICK,
    guard: Guard | None = None,
) -> QuestionSet:
    """Return all questions of a file or dataset, in its order, and all problems.

    Args:
        location: path or URL of JSON lines, a JSON array, Parquet, CSV or TSV (`content`), or a Hugging Face dataset
            (`hugging_face`).
        format: one of `registry.NAMES`; `auto` detects it from the keys of the first item.
        columns: the file's column by key of Earshot's schema; the format is then `mapped`.
        audio_root: folder or URL that relative clip paths start at; by default the folder of the file.
        name: name of the dataset, by default the file's stem.
        check_audio: fetch every clip with a URL and check every clip; missing and broken ones are problems.
        cache: folder for fetched files and for clips that the file contains; without it URLs are refused.
        answers: whether items need an answer.
        clip_check: how the clips are checked.
        guard: called with the location, and with each clip outside of the file, before anything is read there. With it,
            only files on this machine are read.

    Raises:
        DatasetError: the file is missing, cannot be read as a whole or has no items, or the format is unknown. Problems
            with single items are in the result's `problems` instead.
    """
    location = os.fspath(location)
    opened = open_source(location, cache, keep_sound=check_audio, guard=guard)
    entries = opened.entries
    first = next((entry for entry in entries if not isinstance(entry, Problem)), Item({}, ""))
    chosen = choose(format, columns, first.record, table=isinstance(first, Item) and first.table)
    _check_named(location, columns or {}, entries)
    root = opened.folder if audio_root is None else audio_root
    base = root if is_url(root) else str(Path(root).absolute())
    key = "answer" if chosen is None else chosen.answer_key
    labelled = answers is Answers.REQUIRED
    if answers is Answers.OPTIONAL:
        labelled = _any_answer(entries, key, named=key in (columns or {}).values())
    inside = frozenset(path for entry in entries if isinstance(entry, Item) for path in entry.clips.values())
    clips = Clips(cache, check_audio, clip_check, guard=guard, inside=inside)
    reading = _Reading(chosen, opened.name if name is None else name, base, clips, labelled)
    for index, entry in enumerate(entries):
        reading.read(index, entry)
    questions, records, problems, seconds = reading.result()
    if not questions and not any(problem.refused for problem in problems):
        kinds = ", ".join(sorted({problem.kind.value for problem in problems}))
        raise DatasetError(f"{location!r}: every item is left out ({kinds}), first {problems[0]}")
    found, version = (EARSHOT, "") if chosen is None else (chosen.name, chosen.version(opened.sha256))
    source = FileOrigin(location, found, opened.sha256, version)
    described = tuple(entry.question for entry in reading.found if isinstance(entry, _Candidate))
    return QuestionSet(source, tuple(questions), tuple(records), tuple(problems), seconds, described, labelled, inside)


def _check_named(location: str, columns: Columns, entries: Iterable[Entry]) -> None:
    """Raise DatasetError for a named column that no item has, unless the items themselves are refused without it.

    Otherwise a choice would be left out of every question in silence.
    """
    optional = {key: columns[key] for key in OPTIONAL if key in columns}
    choices = columns.get("choices", "")
    named = {column: key for key, column in optional.items() if isinstance(column, str)}
    if not isinstance(choices, str):
        named |= dict.fromkeys(choices, "choices")
    if not named:
        return
    existing = {key for entry in entries if not isinstance(entry, Problem) for key in entry.record}
    for column, key in named.items():
        if existing and column not in existing:
            raise DatasetError(
                f"{location!r}: no item has {shown(column)}, which the columns name for {key!r}; the nearest is "
                f"{nearest(column, existing)}"
            )


def _any_answer(entries: Iterable[Entry], key: str, *, named: bool) -> bool:
    """Return whether any item has an answer: a value that is neither null nor blank.

    A column that was named for the answer, and does not exist, is a mistake rather than a file without answers.
    """
    records = [entry.record for entry in entries if not isinstance(entry, Problem)]
    return any(not is_missing(record.get(key)) for record in records) or (
        named and not any(key in record for record in records)
    )


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
    clips: Clips
    labelled: bool
    found: list[_Candidate | Problem] = field(default_factory=list)
    place_of_id: dict[str, str] = field(default_factory=dict)

    def read(self, index: int, entry: Entry) -> None:
        """Add the next entry of the file."""
        if isinstance(entry, Problem):
            self.found.append(entry)
            return
        if isinstance(entry, Item):
            item = replace(entry, labelled=self.labelled)
        else:
            item = Item(entry.record, f"{str(entry.path)!r}, line {entry.number}", self.labelled)
        try:
            question = self._earshot(index, item, entry) if self.format is None else self._published(index, item)
        except ItemError as error:
            refused = error.kind is not ProblemKind.NOT_SINGLE_CHOICE
            named = item.record.get("id")
            id = _short(str(named)) if isinstance(named, str | int) else ""
            self.found.append(Problem(error.kind, item.place, id, error.detail, refused, item.record))
            return
        before = self.place_of_id.setdefault(question.id, item.place)
        if before != item.place:
            where = before.rpartition(", ")[2]
            detail = f"id {shown(question.id)} is already used in {where}; make ids unique"
            self.found.append(Problem(ProblemKind.DUPLICATE_ID, item.place, _short(question.id), detail))
            return
        self.found.append(_Candidate(question, item))

    def result(self) -> tuple[list[Question], list[Mapping[str, object]], list[Problem], dict[str, float]]:
        """Check the clips; return questions, their records, problems, and the seconds of each clip."""
        clips = self.clips
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
                question = entry.question
                questions.append(question if audio == question.audio else replace(question, audio=audio))
                records.append(entry.item.record)
                continue
            refused = kind is not ProblemKind.MISSING_AUDIO or self.format is None or self.format.missing_audio_refused
            place, id = entry.item.place, _short(entry.question.id)
            problems.append(Problem(kind, place, id, f"audio {error}", refused, entry.item.record))
        return questions, records, problems, clips.seconds

    def _earshot(self, index: int, item: Item, entry: Item | ItemLine) -> Question:
        line = entry if isinstance(entry, ItemLine) else ItemLine(Path(), 0, _own_schema(item))
        try:
            place = partial(self._place_of, item=item)
            return line.question(self.dataset, index, place, labelled=self.labelled)
        except DatasetError as error:
            detail = str(error).removeprefix(f"{str(line.path)!r}, line {line.number}: ")
            kind = ProblemKind.ANSWER if "is not among the choices" in detail else ProblemKind.ITEM
            raise ItemError(detail, kind) from error

    def _place_of(self, audio: str, item: Item) -> str:
        """Return the location of a clip: relative paths start at the base."""
        return audio if audio in item.clips.values() else joined(self.base, audio)

    def _published(self, index: int, item: Item) -> Question:
        assert self.format is not None
        draft = self.format.parse(item)
        return Question(
            dataset=self.dataset,
            index=index,
            id=draft.id,
            audio=self._place_of(draft.audio, item),
            text=draft.text,
            choices=draft.choices,
            answer=draft.answer,
            task=draft.task,
            category=draft.category,
            difficulty=draft.difficulty,
            sub_category=draft.sub_category,
        )


def _short(id: str) -> str:
    """Return an id as a problem names it: one that is longer than any real one without its middle."""
    return id if len(id) <= _LONGEST_ID else shown(id)


def _own_schema(item: Item) -> dict[str, object]:
    """Return a record of Earshot's own schema as JSON lines would have it."""
    record = {**item.record, **item.clips}
    if not item.table:
        return record
    record = {key: value for key, value in record.items() if not is_missing(value)}
    if isinstance(number := record.get("id"), int) and not isinstance(number, bool):
        record["id"] = str(number)
    if "choices" in record:
        with suppress(ValueError):  # the schema names what is wrong with it
            record["choices"] = listed(record["choices"])
    return record
