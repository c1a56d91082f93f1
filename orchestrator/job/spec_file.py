"""Reads and writes job files. Each error is one line that names the file, the key and the correction."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from audio_qa.errors import InputError
from audio_qa.files.remote import is_url
from orchestrator.job.documents import DocumentError, load_json, load_yaml
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


class SpecError(InputError):
    """A job file that cannot be run; the message names the file, the key and how to correct it."""


def read_spec(path: Path, overrides: dict[str, Any] | None = None) -> JobSpec:
    """Return the job of a YAML or JSON file; `overrides` replace its top-level keys.

    Raises:
        SpecError: the file cannot be read or is not a valid job.
    """
    try:
        text = path.read_text()
        value = load_json(text) if path.suffix == ".json" else load_yaml(text)
    except OSError as error:
        raise SpecError(f"{path}: the job file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: the job file is not text in UTF-8") from error
    except DocumentError as error:
        raise SpecError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise SpecError(f"{path}: a job file has keys such as 'model' and 'data'; this one has none")
    return parse_spec({**value, **(overrides or {})}, str(path))


def parse_spec(value: dict[str, Any], source: str) -> JobSpec:
    """Return the job that plain data describes; errors begin with `source`.

    Paths stay as they are; `resolve_paths` makes them absolute.
    """
    try:
        return JobSpec.model_validate(value)
    except ValidationError as error:
        raise SpecError(f"{source}: {'; '.join(_explain(error))}") from error


def resolve_paths(spec: JobSpec, base: Path) -> JobSpec:
    """Return the job with its relative paths made absolute, from `base`, the folder of the job file."""
    return replace_marked(spec, tuple(PathTo), lambda _, path: resolve_path(path, base))


def resolve_path(value: str, base: Path) -> str:
    """Return a path of a job made absolute; built-in data, URLs, datasets of Hugging Face and placeholders stay."""
    if value.startswith(("builtin:", "hf:", PLACEHOLDER_PREFIX)) or is_url(value):
        return value
    return str((base / Path(value).expanduser()).resolve())


def dump_spec(spec: JobSpec) -> str:
    """Return the job as YAML, with every default written out."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            key, valid = str(item["loc"][-1]), _keys_at(item["loc"][:-1])
            near = difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(valid)}"
            yield f"unknown key '{where}': {hint}"
        elif item["type"] == "missing":
            yield f"'{where}' is missing"
        else:
            pattern = item.get("ctx", {}).get("pattern", "")
            message = _PATTERNS.get(pattern) or item["msg"].removeprefix("Value error, ")
            yield (
                f"'{where}': {message} (got {item['input']!r})"
                if where and not isinstance(item["input"], dict)
                else f"{where + ': ' if where else ''}{message}"
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
