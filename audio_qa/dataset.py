"""Datasets in Earshot's own schema: JSON lines, one question per line. Reading finds every error.

    {"id": "q1", "audio": "clips/1.wav", "question": "What is heard?", "choices": ["a dog", "a cat"], "answer": "a dog"}

`task`, `category`, `sub_category` and `difficulty` may be added. Audio paths are absolute, or relative to the file's
own directory.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from audio_qa.audio import AudioError, probe
from audio_qa.errors import InputError
from audio_qa.question import Question
from audio_qa.whole_file import whole_file

_REQUIRED = ("id", "audio", "question", "choices", "answer")
_OPTIONAL = ("task", "category", "sub_category", "difficulty")
_KEYS = _REQUIRED + _OPTIONAL


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
    base = path.absolute().parent
    dataset = path.stem if name is None else name
    questions: list[Question] = []
    line_of_id: dict[str, int] = {}
    probed: set[str] = set()
    for line in read_lines(path):
        if isinstance(line, BadLine):
            raise _error(path, line.number, line.detail)
        question = line.question(dataset, len(questions), base)
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
        line.refuse_second(line.question(question.dataset, question.index, base).id, line_of_id)
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

    def question(self, dataset: str, index: int, base: Path, *, labelled: bool = True) -> Question:
        """Return the question, read by Earshot's own schema; audio paths start at `base`. Raises DatasetError.

        Without `labelled` the object needs no answer, an existing answer is not read, and the question's is empty.
        """
        for key in self.record:
            if key not in _KEYS:
                near = get_close_matches(key, _KEYS, n=1, cutoff=0.0)[0]
                raise self.error(f"unknown key {key!r}; rename it (nearest valid key: {near!r}) or remove it")
        required = _REQUIRED if labelled else _REQUIRED[:-1]
        missing = [repr(key) for key in required if key not in self.record]
        if missing:
            raise self.error(f"missing key {', '.join(missing)}; add it")
        choices = self._choices()
        answer = self._text("answer") if labelled else ""
        if labelled and answer not in choices:
            near = get_close_matches(answer, choices, n=1, cutoff=0.0)[0]
            raise self.error(f"answer {answer!r} is not among the choices; the nearest is {near!r}")
        return Question(
            dataset=dataset,
            index=index,
            id=self._text("id"),
            audio=str(base / self._text("audio")),
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
            raise self.error(f"id {question_id!r} is already used in line {line_of_id[question_id]}; make ids unique")
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
        twice = [choice for i, choice in enumerate(choices) if choice in choices[:i]]
        if twice:
            raise self.error(f"choice {twice[0]!r} is listed twice; remove one")
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
        raise ValueError(f"{what} {value!r} holds half a surrogate pair, which no tokenizer reads; repair the text")
    return value


def kind_of(value: object) -> str:
    """Return the type of a JSON value in words."""
    kinds = {dict: "an object", list: "a list", bool: "a truth value", int: "a number", float: "a number"}
    return "null" if value is None else kinds.get(type(value), "a string")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is not a JSON object."""

    number: int
    detail: str
    """Problem and correction."""


def read_lines(path: Path) -> Iterator[ItemLine | BadLine]:
    """Yield the JSON object of each line of a file, or the problem with the line. Blank lines are skipped.

    Raises DatasetError if there is no such file.
    """
    if path.exists() and not path.is_file():
        kind = "a folder; name a file" if path.is_dir() else "not a file; correct the path"
        raise _error(path, None, f"is {kind}")
    if not path.is_file():
        raise _error(path, None, "no such file; correct the path")
    with path.open("rb") as file:  # bytes: JSON strings may have characters at which text files break lines
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                record = json.loads(text) if text else None
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
