"""Writes docs/job-file.md from the models of the job file: `python docs/generate_job_file.py`."""

import ast
import enum
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.job.spec import JobSpec

PAGE = Path(__file__).with_name("job-file.md")

INTRODUCTION = """\
# The job file

<!-- Written by docs/generate_job_file.py from the models in orchestrator/job/spec.py, orchestrator/job/sections,
learner/settings.py and reward/settings.py. Change the docstrings there, then run
`.venv/bin/python docs/generate_job_file.py`. -->

A job file is YAML or JSON. `earshot run JOB.yaml --dry-run` checks it and prints it with every default filled in;
`job.yaml` in a run directory is that resolved form.

- `model.path` and `data.train` are required. Everything else has a default.
- An unknown key, or a key that stands twice, is an error that names the key.
- A path that begins with `yours:` is still to be filled in: `--dry-run` plans such a job from what is published of the
  model, and anything else refuses it.
- Relative paths are taken from the folder of the job file.
- A section that you write takes the defaults of its own table for the keys that you leave out.
- `data.prompt` is text and needs quotes: `prompt: "2"`.
- `top_p`, `top_k` and `min_p` are refused: the learner scores the whole softmax, so that is what is sampled.

The smallest job file:

```yaml
model:
  path: builtin:tiny-qwen2-audio
  max_context: 512
data:
  train: builtin:synthetic
```
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for path, model in _sections("", JobSpec):
        title = f"`{path}`" if path else "Top level"
        parts.append(f"\n## {title}\n\n{_sentence(inspect.getdoc(model) or '')}\n\n{_table(path, model)}")
    return "".join(parts)


def _sections(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The model and those nested in it, each with its dotted place in the job file."""
    yield path, model
    for name, field in model.model_fields.items():
        nested = _model_in(field.annotation)
        if nested is not None:
            yield from _sections(f"{path}.{name}".lstrip("."), nested)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _table(path: str, model: type[BaseModel]) -> str:
    texts = _docstrings(model)
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        nested = _model_in(field.annotation)
        where = f"{path}.{name}".lstrip(".")
        text = texts.get(name) or (inspect.getdoc(nested) if nested else None)
        if not text:
            raise ValueError(f"{where} has no docstring to describe it")
        kind = f"[section](#{where.replace('.', '')})" if nested else _type(field.annotation) + _limits(field)
        rows.append(f"| `{name}` | {kind} | {_default(field)} | {_sentence(text)} |")
    return "\n".join(rows) + "\n"


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The string that follows each field in the class body, by field; inherited fields included."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        if not issubclass(parent, BaseModel) or parent is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(parent))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[field.target.id] = text.value.value
    return found


def _sentence(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _type(annotation: Any) -> str:
    """A type in words."""
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(f"`{_plain(member)}`" for member in annotation)
    arguments = get_args(annotation)
    words = {
        Annotated: lambda: _type(arguments[0]),
        Literal: lambda: " or ".join(f"`{argument}`" for argument in arguments),
        list: lambda: f"list of {_type(arguments[0])}",
        tuple: lambda: f"list of {_type(arguments[0])}",
        dict: lambda: f"map of {_type(arguments[0])} to {_type(arguments[1])}",
    }
    words[Union] = words[UnionType] = lambda: " or ".join(map(_type, arguments))
    plain: dict[Any, str] = {
        Any: "anything",
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        NoneType: "null",
    }
    return plain[annotation] if annotation in plain else words[get_origin(annotation)]()


def _limits(field: FieldInfo) -> str:
    words = []
    for limit in field.metadata:
        for kind, attribute, sign in ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<")):
            if isinstance(limit, kind):
                words.append(f"{sign} {getattr(limit, attribute)}")
        if isinstance(limit, MinLen):
            words.append(f"at least {limit.min_length}")
    return f", {', '.join(words)}" if words else ""


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        # Where a section is left out as a whole, its default may differ from its own table's.
        own = {k: f.default for k, f in type(value).model_fields.items()}
        changed = {k: v for k, v in value if own[k] != v}
        return "its own" if not changed else ", ".join(f"`{k}: {_plain(v)}`" for k, v in changed.items())
    if isinstance(value, dict):
        return ", ".join(f"`{key}: {_plain(item)}`" for key, item in value.items()) or "none"
    if isinstance(value, str) and "\n" in value:
        return "some lines"
    return f"`[{', '.join(map(_plain, value))}]`" if isinstance(value, tuple) else f"`{_plain(value)}`"


def _plain(value: object) -> str:
    if isinstance(value, enum.Enum):
        return f'"{value.value}"' if str(value.value).isdigit() else str(value.value)
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
