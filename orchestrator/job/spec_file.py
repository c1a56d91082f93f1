"""Reads a job file and says in one line what is wrong with it."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from audio_qa.formats.remote import is_url
from orchestrator.job.spec import TO_FILL_IN, JobSpec


class SpecError(ValueError):
    """A job file that cannot be run; the message names the file, the key and how to mend it."""


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence; a job file must not hold both."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice, again in line {line}")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_spec(path: Path, overrides: dict[str, Any] | None = None) -> JobSpec:
    """The job in a YAML or JSON file, with top-level `overrides` put over it.

    Raises:
        SpecError: it cannot be read or is not a valid job.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise SpecError(f"{path}: the job file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: the job file is not text in UTF-8") from error
    try:
        value = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise SpecError(f"{path}: a job file holds keys such as 'model' and 'data'; this one holds none")
    return parse_spec({**value, **(overrides or {})}, str(path))


def parse_spec(value: dict[str, Any], source: str) -> JobSpec:
    """A JobSpec from plain data; `source` names it in errors.

    Paths in it are as they stand; `resolve_paths` makes them absolute.
    """
    try:
        return JobSpec.model_validate(value)
    except ValidationError as error:
        raise SpecError(f"{source}: {'; '.join(_explain(error))}") from error


def resolve_paths(spec: JobSpec, base: Path) -> JobSpec:
    """The same job with relative paths taken from `base`, the folder of the job file."""

    places = ("train", "evaluation", "audio_root", "evaluation_audio_root")
    named = {key: value for key in places if (value := getattr(spec.data, key)) is not None}
    data = spec.data.model_copy(update={key: resolve_path(value, base) for key, value in named.items()})
    if data.curriculum is not None and data.curriculum.measured is not None:
        curriculum = data.curriculum.model_copy(update={"measured": resolve_path(data.curriculum.measured, base)})
        data = data.model_copy(update={"curriculum": curriculum})
    model = spec.model.model_copy(update={"path": resolve_path(spec.model.path, base)})
    return spec.model_copy(update={"data": data, "model": model})


def resolve_path(value: str, base: Path) -> str:
    """A path of a job from `base`; what is built in, elsewhere or still to be filled in stays as it is."""
    if value.startswith(("builtin:", "hf:", TO_FILL_IN)) or is_url(value):
        return value
    return str((base / Path(value).expanduser()).resolve())


def dump_spec(spec: JobSpec) -> str:
    """The resolved job as YAML, every default written out."""
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
            message = item["msg"].removeprefix("Value error, ")
            yield (
                f"'{where}': {message} (got {item['input']!r})"
                if where and not isinstance(item["input"], dict)
                else f"{where + ': ' if where else ''}{message}"
            )


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The valid keys of the section at `location`."""
    model: type[BaseModel] = JobSpec
    for part in location:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        candidates = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type)]
        sections = [a for a in candidates if issubclass(a, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)
