"""Read the small files of a model's folder; one that cannot be used gives an error of one line."""

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from audio_qa.errors import InputError, shown

AGAIN = "download the folder again"
_POINTER = b"version https://git-lfs"
_POINTER_BYTES = 1024
"""Git LFS defines that a pointer is shorter than this."""
_LARGEST_BYTES = 200_000_000
_READ_SUFFIXES = {".json", ".jinja", ".model", ".safetensors", ".tiktoken", ".txt"}
"""Suffixes of all files that transformers and vLLM may read."""
TOKENIZER_FILES = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "normalizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
)
"""Patterns of the files of a tokenizer and its chat template."""
_NEEDED = ("*config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES)
"""Patterns of the files that they read for the models of our families. Others, such as results, may be damaged."""


class ModelError(InputError):
    """A model folder cannot be used; the message names the folder, what is wrong with it and how to correct it."""


def files_read(folder: Path) -> list[Path]:
    """Return the files of a model's folder that may be read, links followed, sorted. Raises ModelError."""
    try:
        return [path for path in sorted(folder.iterdir()) if path.suffix in _READ_SUFFIXES and path.is_file()]
    except OSError as error:
        raise _unreadable(folder, error) from error


def check_files(folder: Path) -> None:
    """Raise ModelError if a file to read is a broken link, unreadable, or a pointer of Git LFS in place of the file."""
    pointers = []
    try:
        for path in sorted(folder.iterdir()):
            if not any(fnmatchcase(path.name, pattern) for pattern in _NEEDED):
                continue
            if path.is_symlink() and not path.exists():
                raise ModelError(f"{str(folder)!r}: {path.name} is a link to a file that does not exist; {AGAIN}")
            if not path.is_file():
                continue
            with path.open("rb") as file:
                pointer = file.read(len(_POINTER)) == _POINTER
            if pointer and path.stat().st_size < _POINTER_BYTES:
                pointers.append(path.name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    if pointers:
        others = f" and {len(pointers) - 1} more files are" if pointers[1:] else " is"
        ending = "s" if pointers[1:] else ""
        raise ModelError(
            f"{str(folder)!r}: {pointers[0]}{others} the pointer{ending} of Git LFS in place of the content; "
            "run git lfs pull in the folder"
        )


def read_bytes(path: Path) -> bytes:
    """Return the content of a file in a model's folder. Raises ModelError."""
    try:
        if not path.is_file():
            raise ModelError(f"{str(path.parent)!r} lacks {path.name}; {AGAIN}")
        if path.stat().st_size > _LARGEST_BYTES:
            raise ModelError(f"{str(path.parent)!r}: {path.name} is too long for such a file; {AGAIN}")
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a model's folder. Raises ModelError for any other content."""
    content = read_bytes(path)
    where = f"{str(path.parent)!r}: {path.name}"
    if content.startswith(_POINTER):
        raise ModelError(f"{where} is the pointer of Git LFS in place of the content; run git lfs pull in the folder")
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        problem = "it is empty" if not content.strip() else shown(str(error))
        raise ModelError(f"{where} is not valid JSON ({problem}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{where} holds {shown(value)} in place of a JSON object; {AGAIN}")
    return value


@dataclass(frozen=True, slots=True)
class Section:
    """A JSON object in a file of a model's folder, or one within it."""

    where: str
    """Folder, file and keys, for messages."""
    values: dict[str, Any]

    def section(self, *keys: str) -> "Section":
        """Return the object at `keys`, empty if it is absent. Raises ModelError for any other value."""
        found = self
        for key in keys:
            value = found.values.get(key)
            if value is not None and not isinstance(value, dict):
                raise ModelError(f"{found.where}: {key} is {shown(value)} in place of a JSON object; {AGAIN}")
            found = Section(f"{found.where}: {key}", value or {})
        return found

    def number(self, *keys: str) -> int | None:
        """Return the positive integer at the first of `keys` that is set, else None. Raises ModelError."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelError(f"{self.where}: {key} is {shown(value)} in place of a positive whole number; {AGAIN}")
            return value
        return None


def document(path: Path) -> Section:
    """Return the whole of a JSON file. Raises ModelError."""
    return Section(f"{str(path.parent)!r}: {path.name}", read_object(path))


def end_token_ids(folder: Path) -> tuple[int, ...]:
    """Return the end tokens of generation_config.json; none if the folder has no such file. Raises ModelError."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return ()
    ends = read_object(path).get("eos_token_id")
    ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
        raise ModelError(
            f"{str(folder)!r}: eos_token_id in generation_config.json is {shown(ends)}; set it to the tokenizer's "
            "number for the end of a turn"
        )
    return tuple(ids)


def _unreadable(path: Path, error: OSError) -> ModelError:
    name = str(error.filename or path)
    return ModelError(f"{name!r} cannot be read ({error.strerror or error}); grant the right to read it, or {AGAIN}")
