"""Options that say how a question file is read, and the `data` section of a job made from them."""

from pathlib import Path
from typing import Annotated

import typer

from audio_qa.errors import shown
from orchestrator.cli.job_file import is_job_file
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
        help="KEY=COLUMN for a file in another format; repeatable. choices=A,B,C joins several columns; answer_text, "
        "answer_index, answer_number or answer_letter in place of answer says how answers are written.",
    ),
]
AudioRoot = Annotated[
    str | None, typer.Option("--audio-root", help="Folder or URL of relative clip paths. Default: the file's folder.")
]


def check_questions(location: str) -> None:
    """Raise SpecError if a job file is named where questions are."""
    if is_job_file(location):
        raise SpecError(f"{shown(location)} is a job file; name a question file, or start it with earshot run")


def data_section(location: str, format: DataFormat, columns: list[str], audio_root: str | None) -> DataSection:
    """Return the `data` section of a job that has one question file, with absolute paths. Raises SpecError."""
    check_questions(location)
    value = {"train": location, "format": format, "columns": column_mapping(columns), "audio_root": audio_root}
    return resolve_paths(parse_spec({"model": {"path": "."}, "data": value}, location), Path.cwd()).data


def column_mapping(columns: list[str]) -> dict[str, str | list[str]]:
    """Return the mapping of several KEY=COLUMN. Raises SpecError."""
    mapping: dict[str, str | list[str]] = {}
    for text in columns:
        key, found, column = text.partition("=")
        if not found:
            raise SpecError(f"--column {shown(text)}: write KEY=COLUMN, as in question=prompt")
        mapping[key] = column.split(",") if "," in column else column
    return mapping
