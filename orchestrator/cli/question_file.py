"""Options that say how a question file is read, and the `data` section of a job made from them."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.job.sections.data import DataFormat, DataSection
from orchestrator.job.spec_file import SpecError, parse_spec, resolve_paths

Format = Annotated[
    DataFormat,
    typer.Option("--format", help="Format of the question file. Default: recognised by its keys or columns."),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="KEY=COLUMN for a file in another format; repeatable. choices=A,B,C joins several columns.",
    ),
]
AudioRoot = Annotated[
    str | None, typer.Option("--audio-root", help="Folder or URL of relative clip paths. Default: the file's folder.")
]


def data_section(location: str, format: DataFormat, columns: list[str], audio_root: str | None) -> DataSection:
    """Return the `data` section of a job that has one question file, with absolute paths. Raises SpecError."""
    value = {"train": location, "format": format, "columns": column_mapping(columns), "audio_root": audio_root}
    return resolve_paths(parse_spec({"model": {"path": "."}, "data": value}, location), Path.cwd()).data


def column_mapping(columns: list[str]) -> dict[str, str | list[str]]:
    """Return the mapping of several KEY=COLUMN. Raises SpecError."""
    mapping: dict[str, str | list[str]] = {}
    for text in columns:
        key, found, column = text.partition("=")
        if not found:
            raise SpecError(f"--column {text!r}: write KEY=COLUMN, as in question=prompt")
        mapping[key] = column.split(",") if "," in column else column
    return mapping
