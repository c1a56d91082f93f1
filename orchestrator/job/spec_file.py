"""Reads and writes job files. Each error is one line that names the file, the key and the correction."""

import difflib
from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from audio_qa.errors import InputError, one_line, shown
from audio_qa.files.hugging_face import folder_of
from audio_qa.files.remote import is_url
from orchestrator.job.content import MAX_BYTES, is_questions
from orchestrator.job.documents import DocumentError, dump_yaml, load_json, load_yaml
from orchestrator.job.marked import replace_marked, section_of
from orchestrator.job.sections.tracking import RUN_NAME_PATTERN
from orchestrator.job.spec import NAME_PATTERN, PLACEHOLDER_PREFIX, JobSpec
from protocol.marks import PathTo
from protocol.settings import Settings

_PATTERNS = {
    NAME_PATTERN: "use letters, digits, dot, dash and underscore, at most 63 characters, starting with a letter or "
    "digit",
    RUN_NAME_PATTERN: "use letters, digits, space, slash, dot, dash and underscore, at most 128 characters, starting "
    "with a letter or digit",
}
"""The patterns of names, in words."""
_NO_SECTION = "model_type"
_HINTS = {
    "string_type": "text is needed; put it in quotes",
    "int_parsing": "a whole number is needed, such as 1000",
    "int_parsing_size": "the number is too large",
    "int_from_float": "a whole number is needed, such as 1000",
    "float_parsing": "a number is needed, such as 0.001",
    _NO_SECTION: "a section with keys is needed; remove it if it has none",
}
"""The errors of pydantic that are clearer in other words, by type."""
_NAME_IT = "name it as data.train in a job file, or check it with `earshot data check`"
_MOST_PROBLEMS = 5
_LONGEST_PLACE = 200
_HUB = "hf:"
"""Begins the name of a dataset of the Hub, or of a folder that is a copy of one."""


class SpecError(InputError):
    """A job file that cannot be run; the message names the file, the key and how to correct it."""


def read_spec(path: Path, overrides: dict[str, Any] | None = None) -> JobSpec:
    """Return the job of a YAML or JSON file; `overrides` replace its top-level keys.

    Raises:
        SpecError: the file cannot be read or is not a valid job.
    """
    source, data = one_line(str(path), _LONGEST_PLACE), _read(path)
    if is_questions(data):
        raise SpecError(f"{source}: a question file, not a job file; {_NAME_IT}")
    if len(data) > MAX_BYTES:
        raise SpecError(f"{source}: more than {MAX_BYTES:,} bytes, so it is not a job file; correct the path")
    try:
        text = data.decode("utf-8-sig")
        value = load_json(text) if path.suffix.lower() == ".json" else load_yaml(text)
    except UnicodeDecodeError as error:
        raise SpecError(f"{source}: the job file is not text in UTF-8") from error
    except DocumentError as error:
        raise SpecError(f"{source}: {error}") from error
    if not isinstance(value, dict):
        raise SpecError(
            f"{source}: a job file has keys such as 'model' and 'data', and this one has none; if it is a question "
            f"file, {_NAME_IT}"
        )
    return parse_spec({**value, **(overrides or {})}, source)


def _read(path: Path) -> bytes:
    """Return the content of a file, of a long one the beginning. Raises SpecError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError(
            f"{one_line(str(path), _LONGEST_PLACE)}: the job file cannot be read: {reason}; correct the path"
        ) from error


def parse_spec(value: dict[str, Any], source: str) -> JobSpec:
    """Return the job that plain data describes; errors begin with `source`.

    Paths stay as they are; `resolve_paths` makes them absolute.
    """
    try:
        return JobSpec.model_validate(value)
    except ValidationError as error:
        more = error.error_count() - _MOST_PROBLEMS
        problems = [*islice(_explain(error), _MOST_PROBLEMS), *([f"and {more} more"] if more > 0 else [])]
        raise SpecError(one_line(f"{source}: {'; '.join(problems)}")) from error


def resolve_paths(spec: JobSpec, base: Path) -> JobSpec:
    """Return the job with its relative paths made absolute, from `base`, the folder of the job file."""
    return replace_marked(spec, tuple(PathTo), lambda _, path: resolve_path(path, base))


def resolve_path(value: str, base: Path) -> str:
    """Return a path of a job made absolute; built-in data, URLs, datasets of the Hub and placeholders stay."""
    if value.startswith(("builtin:", PLACEHOLDER_PREFIX)) or is_url(value):
        return value
    if value.startswith(_HUB):
        name, split, rest = value.removeprefix(_HUB).partition("#")
        folder = absolute(base / Path(name).expanduser())
        return value if folder_of(str(folder)) is None else f"{_HUB}{folder}{split}{rest}"
    return str(absolute(base / Path(value).expanduser()))


def absolute(path: Path) -> Path:
    """Return an absolute path without `..`. Links stay: in a cache of the Hub, clips lie next to the link to a file.

    Only a link to a folder before `..` is followed, as the system does.
    """
    path = path.absolute()
    found = Path(path.anchor)
    for part in path.parts[1:]:
        found = _parent(found) if part == ".." else found / part
    return found


def _parent(path: Path) -> Path:
    try:
        return (path.resolve() if path.is_symlink() else path).parent
    except (OSError, ValueError):  # no file can have this path: its name is too long, or has a zero byte
        return path.parent


def dump_spec(spec: JobSpec) -> str:
    """Return the job as YAML, with every default written out."""
    return dump_yaml(spec.model_dump(mode="json"))


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        where = _place(item["loc"])
        if item["type"] == "extra_forbidden":
            key, valid = str(item["loc"][-1])[:_LONGEST_PLACE], _keys_at(item["loc"][:-1])
            near = difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(valid)}"
            yield f"unknown key {where}: {hint}"
        elif item["type"] == "missing":
            yield f"{where} is missing"
        else:
            given, pattern = item["input"], item.get("ctx", {}).get("pattern", "")
            explained = item["type"] == _NO_SECTION or isinstance(given, str | int | float | date)
            words = _HINTS.get(item["type"]) if explained else None
            message = _PATTERNS.get(pattern) or words or item["msg"].removeprefix("Value error, ")
            if given is None and where and item["type"] != _NO_SECTION:
                yield f"{where} has no value; write one, or remove the key"
                continue
            read = str(given) if isinstance(given, date) else shown(given)
            got = f" (got {read})" if where and not isinstance(given, dict | None) else ""
            yield f"{where + ': ' if where else ''}{message}{got}"


def _place(location: tuple[int | str, ...]) -> str:
    """Return the place of an error as a message shows it; empty for the whole file."""
    return (
        f"'{one_line('.'.join(str(part)[:_LONGEST_PLACE] for part in location), _LONGEST_PLACE)}'" if location else ""
    )


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the valid keys of the section at `location`."""
    model: type[Settings] = JobSpec
    for part in location:
        field = model.model_fields.get(str(part))
        section = None if field is None else section_of(field.annotation)
        if section is None:
            return []
        model = section
    return list(model.model_fields)
