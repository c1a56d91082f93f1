"""Write docs/reference/job-file.md from the models of the job file: `python docs/generate_job_file.py`."""

import enum
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import JsonValue
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.job.marked import section_of
from orchestrator.job.spec import JobSpec
from protocol.settings import Settings

PAGE = Path(__file__).parent / "reference" / "job-file.md"

INTRODUCTION = """\
# The job file

<!-- Written by docs/generate_job_file.py from the models in orchestrator/job/spec.py, orchestrator/job/sections,
learner/settings.py and reward/settings.py. Change the docstrings there, then run
`.venv/bin/python docs/generate_job_file.py`. -->

A job file is YAML or JSON. `earshot run JOB.yaml --dry-run` checks it and prints it with every default filled in;
`job.yaml` in a run directory is that resolved form.

- `model.path` and `data.train` are required. Everything else has a default.
- An unknown key, or a duplicate key, is an error that names the key.
- A path that begins with `yours:` is a placeholder: `--dry-run` plans such a job from the published size of the model,
  and every other command refuses it.
- Relative paths are taken from the folder of the job file: of the link, if it is one; of a pipe such as /dev/stdin,
  from the current folder.
- `1e-6`, `1e3` and `1_000` are numbers; `steps: 1e3` is 1000. Every number is finite and at most 4,294,967,296. `0100`
  and `1:30`, which YAML reads as 64 and 90, are errors.
- A number is written without quotes, and `true` or `false` where one of them is asked for: `"10"`, `"1_0"` or `yes` in
  place of a number are errors, and so are `0`, `1` and `"yes"` in place of true or false. `5.0` is the whole number 5.
- Text that looks like a number or a date needs quotes: `name: "2026"`.
- Keys that you leave out of a section take the defaults of that section's table.
- `top_p`, `top_k` and `min_p` are refused: the learner computes log-probabilities over the whole softmax, so sampling
  has to use it, too.
- `rollout.gpus` decides for the learner as well: with 0 everything runs on CPUs; above 0 each rollout worker has that
  many GPUs, and each learner rank one more, or with `weight_sync: cuda_ipc` the rest of a worker's GPU: then there is
  one worker for each rank at most. With more than 1, `rollout.tensor_parallel` is the same number.

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
    """Return the page as Markdown."""
    parts = [INTRODUCTION]
    for path, model in _sections("", JobSpec):
        title = f"`{path}`" if path else "Top level"
        parts.append(f"\n## {title}\n\n{_sentence(inspect.getdoc(model) or '')}\n\n{_table(path, model)}")
    return "".join(parts)


def _sections(path: str, model: type[Settings]) -> Iterator[tuple[str, type[Settings]]]:
    """Yield a model and the models nested in it, each with its dotted key in the job file."""
    yield path, model
    for name, field in model.model_fields.items():
        nested = section_of(field.annotation)
        if nested is not None:
            yield from _sections(f"{path}.{name}".lstrip("."), nested)


def _table(path: str, model: type[Settings]) -> str:
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        nested = section_of(field.annotation)
        where = f"{path}.{name}".lstrip(".")
        text = field.description or (inspect.getdoc(nested) if nested else None)
        if not text:
            raise ValueError(f"{where} has no docstring to describe it")
        kind = f"[section](#{where.replace('.', '')})" if nested else _type(field.annotation) + _limits(field)
        rows.append(f"| `{name}` | {kind} | {_default(field)} | {_sentence(text)} |")
    return "\n".join(rows) + "\n"


def _sentence(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _type(annotation: Any) -> str:
    """Return a type in words."""
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(f"`{_plain(member)}`" for member in annotation)
    arguments = get_args(annotation)
    words = {
        Annotated: lambda: _type(arguments[0]),
        Literal: lambda: " or ".join(f"`{argument}`" for argument in arguments),
        tuple: lambda: f"list of {_type(arguments[0])}",
        Mapping: lambda: f"map of {_type(arguments[0])} to {_type(arguments[1])}",
    }
    words[Union] = words[UnionType] = lambda: " or ".join(map(_type, arguments))
    plain: dict[Any, str] = {
        JsonValue: "anything",
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
    if isinstance(value, Settings):
        # The default of a whole section may differ from the defaults in its own table.
        own = {k: f.default for k, f in type(value).model_fields.items()}
        changed = {k: v for k, v in value if own[k] != v}
        return "its own" if not changed else ", ".join(f"`{k}: {_plain(v)}`" for k, v in changed.items())
    if isinstance(value, Mapping):
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
