"""Datasets in Earshot's own schema: JSON lines, one question per line. Reading finds every error.

    {"id": "q1", "audio": "clips/1.wav", "question": "What is heard?", "choices": ["a dog", "a cat"], "answer": "a dog"}

`task`, `category`, `sub_category` and `difficulty` may be added. Audio paths are absolute, or relative to the file's
own directory.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from audio_qa.answer import nfc, normal_form
from audio_qa.audio import AudioError, is_file, probe
from audio_qa.errors import InputError, shown
from audio_qa.question import Question
from audio_qa.whole_file import whole_file

_REQUIRED = ("id", "audio", "question", "choices", "answer")
_OPTIONAL = ("task", "category", "sub_category", "difficulty")
KEYS = _REQUIRED + _OPTIONAL
"""Keys of Earshot's own schema."""
_COMPARED = 200
"""Characters of texts that are compared to find the nearest one, whose cost grows with their square."""


class DatasetError(InputError):
    """A dataset that cannot be used. The message is one line: the file, the line, what is wrong, how to correct it."""


def _error(path: Path, line: int | None, problem: str) -> DatasetError:
    place = repr(str(path)) if line is None else f"{str(path)!r}, line {line}"
    return DatasetError(" ".join(f"{place}: {problem}".split()))


def read_jsonl(path: str | os.PathLike[str], *, name: str | None = None, check_audio: bool = True) -> list[Question]:
    """Return all questions of a JSON-lines file, in its order; blank lines do not count.

    `name` is the name of the dataset, by default the file's stem. `check_audio` reads the header of every audio file,
    so that missing and broken files are found before a job starts.

    Raises DatasetError: the file is missing or empty, invalid JSON, a missing, unknown or mistyped key, fewer than 2
    choices, a duplicate choice, an answer that is not a choice, a duplicate id, a missing or broken audio file.
    """
    path = Path(path)
    place = partial(_under, path.absolute().parent)
    dataset = path.stem if name is None else name
    questions: list[Question] = []
    line_of_id: dict[str, int] = {}
    probed: set[str] = set()
    for line in read_lines(path):
        if isinstance(line, BadLine):
            raise _error(path, line.number, line.detail)
        question = line.question(dataset, len(questions), place)
        line.refuse_second(question.id, line_of_id)
        if check_audio and question.audio not in probed:
            try:
                probe(question.audio)
            except AudioError as error:
                raise line.error(f"audio {error}") from error
            probed.add(question.audio)
        questions.append(question)
    if not questions:
        raise _error(path, None, "holds no question; write one JSON object per line")
    return questions


def _under(base: Path, audio: str) -> str:
    return str(base / audio)


def write_jsonl(path: str | os.PathLike[str], questions: Sequence[Question]) -> None:
    """Write questions so that `read_jsonl` returns them, except for the dataset's name and index.

    Paths of audio under the file's directory are written relative to it, others absolute. The file appears whole or not
    at all. Raises DatasetError, before anything is written, for questions that `read_jsonl` would refuse; audio files
    are not checked.
    """
    path = Path(path)
    if not questions:
        raise _error(path, None, "there is no question to write; an empty dataset cannot be used")
    base = path.absolute().parent
    line_of_id: dict[str, int] = {}
    texts: list[str] = []
    for number, question in enumerate(questions, start=1):
        audio = Path(question.audio).absolute()
        record: dict[str, object] = {
            "id": question.id,
            "audio": str(audio.relative_to(base) if audio.is_relative_to(base) else audio),
            "question": question.text,
            "choices": list(question.choices),
            "answer": question.answer,
        } | {key: getattr(question, key) for key in _OPTIONAL if getattr(question, key)}
        line = ItemLine(path, number, record)
        line.refuse_second(line.question(question.dataset, question.index, str).id, line_of_id)
        texts.append(json.dumps(record, ensure_ascii=False) + "\n")
    with whole_file(path) as file:
        file.writelines(text.encode() for text in texts)


@dataclass(frozen=True, slots=True)
class ItemLine:
    """One JSON object of a dataset, and its line."""

    path: Path
    number: int
    """Line number from 1, blank lines included."""
    record: dict[str, object]

    def error(self, problem: str) -> DatasetError:
        return _error(self.path, self.number, problem)

    def question(self, dataset: str, index: int, place: Callable[[str], str], *, labelled: bool = True) -> Question:
        """Return the question, read by Earshot's own schema; `place` says where a clip is. Raises DatasetError.

        Without `labelled` the object needs no answer, an existing answer is not read, and the question's is empty.
        """
        for key in self.record:
            if key not in KEYS:
                near = nearest(key, KEYS)
                raise self.error(f"unknown key {shown(key)}; rename it (nearest valid key: {near}) or remove it")
        required = _REQUIRED if labelled else _REQUIRED[:-1]
        missing = [repr(key) for key in required if key not in self.record]
        if missing:
            raise self.error(f"missing key {', '.join(missing)}; add it")
        choices = self._choices()
        answer = choice_of(self._text("answer"), choices) if labelled else ""
        if answer is None:
            near = nearest(self._text("answer"), choices)
            raise self.error(f"answer {shown(self.record['answer'])} is not among the choices; the nearest is {near}")
        return Question(
            dataset=dataset,
            index=index,
            id=self._text("id"),
            audio=place(self._text("audio")),
            text=self._text("question"),
            choices=choices,
            answer=answer,
            task=self._text("task", default=""),
            category=self._text("category", default=""),
            difficulty=self._text("difficulty", default=""),
            sub_category=self._text("sub_category", default=""),
        )

    def refuse_second(self, question_id: str, line_of_id: dict[str, int]) -> None:
        """Raise DatasetError for a duplicate id; else record its line."""
        if question_id in line_of_id:
            line = line_of_id[question_id]
            raise self.error(f"id {shown(question_id)} is already used in line {line}; make ids unique")
        line_of_id[question_id] = self.number

    def _text(self, key: str, default: str | None = None) -> str:
        value = self.record.get(key, default)
        if value == "" and default == "":
            return ""
        return self._string(value, repr(key))

    def _choices(self) -> tuple[str, ...]:
        value = self.record["choices"]
        if not isinstance(value, list):
            raise self.error(f"'choices' is {kind_of(value)}; write a list of strings")
        choices = tuple(self._string(choice, "a choice") for choice in value)
        if len(choices) < 2:
            raise self.error(f"{len(choices)} choice(s); give at least 2")
        forms = list(map(normal_form, choices))
        twice = [choice for i, choice in enumerate(choices) if forms[i] in forms[:i]]
        if twice:
            raise self.error(f"choice {shown(twice[0])} is listed twice; remove one")
        return choices

    def _string(self, value: object, what: str) -> str:
        try:
            return checked_text(value, what)
        except ValueError as error:
            raise self.error(str(error)) from error


def checked_text(value: object, what: str) -> str:
    """Return `value` if it is text that is not blank and that a tokenizer can read. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is {kind_of(value)}; write a string")
    if not value.strip():
        raise ValueError(f"{what} is blank; write something")
    if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(
            f"{what} {shown(value)} holds half a surrogate pair, which no tokenizer reads; repair the text"
        )
    return value


def choice_of(answer: str, choices: Sequence[str]) -> str | None:
    """Return the choice that an answer is, verbatim or else in another Unicode form; None if it is none of them."""
    if answer in choices:
        return answer
    return next((choice for choice in choices if nfc(choice) == nfc(answer)), None)


def kind_of(value: object) -> str:
    """Return the type of a value of a question file in words."""
    kinds = {dict: "an object", list: "a list", bool: "a truth value", int: "a number", float: "a number"}
    kinds |= {tuple: "a list", str: "a string", bytes: "bytes"}
    if value is None or (isinstance(value, float) and math.isnan(value)):  # NaN: null, as pandas writes it
        return "null"
    return kinds.get(type(value), f"of type {type(value).__name__}")


def nearest(text: str, known: Iterable[str]) -> str:
    """Return, as a message shows it, the one of the known texts whose beginning is most like that of `text`."""
    beginnings = {other[:_COMPARED]: other for other in known}
    return shown(beginnings[get_close_matches(text[:_COMPARED], beginnings, n=1, cutoff=0.0)[0]])


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is not a JSON object."""

    number: int
    detail: str
    """Problem and correction."""


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError, also for an object with two values under one key."""
    return json.loads(text, object_pairs_hook=_object)


def _object(members: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(members)
    if len(found) < len(members):
        for key, value in members:
            if value != found[key]:
                raise ValueError(f"key {shown(key)} has two values")
    return found


def check_file(path: Path) -> None:
    """Raise DatasetError unless there is a file that may be read."""
    if is_file(path):
        # Tried, since what access rights say is not what a network's file system allows.
        try:
            path.open("rb").close()
        except OSError as error:
            raise _error(path, None, f"cannot be read ({error.strerror}); change its permissions") from error
        return
    try:
        kind = "is a folder; name a file" if path.is_dir() else "is not a file; correct the path"
        exists = path.exists()
    except OSError:  # no file can have this path: its name is too long
        exists = False
    raise _error(path, None, kind if exists else "no such file; correct the path")


def read_lines(path: Path) -> Iterator[ItemLine | BadLine]:
    """Yield the JSON object of each line of a file, or the problem with the line. Blank lines are skipped.

    Raises DatasetError if there is no such file.
    """
    check_file(path)
    with path.open("rb") as file:  # bytes: JSON strings may have characters at which text files break lines
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                record = parse_json(text) if text else None
            except UnicodeDecodeError as error:
                yield BadLine(number, f"not UTF-8 ({error.reason}); save the file as UTF-8")
                continue
            except (ValueError, RecursionError) as error:
                yield BadLine(number, f"not JSON ({error}); write one JSON object per line")
                continue
            if not text:
                continue
            if not isinstance(record, dict):
                yield BadLine(number, f"{kind_of(record)}, not an object; write {{...}} on each line")
                continue
            yield ItemLine(path, number, record)
