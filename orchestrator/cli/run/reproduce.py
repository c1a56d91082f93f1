"""`earshot reproduce`: run the rows of the paper's table and write the table."""

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from audio_qa.errors import InputError, cause_of, shown
from orchestrator.cli.foreground import at_work
from orchestrator.cli.options import Json
from orchestrator.cli.outcome import UnsuccessfulError, shows_tracebacks
from orchestrator.cli.results import print_result
from orchestrator.display.notation import duration
from orchestrator.display.progress import make_progress
from orchestrator.display.table import Table, key, text
from orchestrator.display.table import show as print_parts
from orchestrator.places import examples_folder
from orchestrator.reproduce import words
from orchestrator.reproduce.figures import table as results_table
from orchestrator.reproduce.page import render
from orchestrator.reproduce.rows import NAMES, ROWS, TableRow
from orchestrator.reproduce.runs import RowRun, row_runs, run_row
from orchestrator.reproduce.runs import check as check_runs
from orchestrator.run.records import RunDirectoryError, json_text, replace_file

TABLE = "table.json"
TINY_SEEDS = 2


def reproduce(
    tiny: Annotated[
        bool,
        typer.Option("--tiny", help="Use the tiny model and the synthetic benchmark, on this machine."),
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Number of seeds. Default: 2 with --tiny, else 1.")
    ] = None,
    rows: Annotated[str, typer.Option(help="Names of the rows to run, separated by commas. Default: all.")] = "",
    recipes: Annotated[
        Path | None, typer.Option(help="Folder with the job files of the rows. Default: those that come with Earshot.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model folder, in place of the one in the job files.")] = None,
    train: Annotated[str | None, typer.Option(help="Training questions, in place of those in the job files.")] = None,
    evaluation: Annotated[
        str | None, typer.Option(help="Held-out questions, in place of those in the job files.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", help="Folder for the runs and the table; an existing one is continued."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Reproduce the results table of the paper.

    Runs each row and writes table.md, table.html and table.json. Rows that are complete are not run again.
    """
    chosen = _chosen(rows)
    home = (run_dir or Path("runs") / f"reproduce-{datetime.now().astimezone():%Y%m%d-%H%M%S}").resolve()
    folder = recipes or examples_folder() / ("tiny" if tiny else "paper")
    given = {"model.path": model, "data.train": train, "data.evaluation": evaluation}
    runs = row_runs(chosen, seeds or (TINY_SEEDS if tiny else 1), folder, home, {k: v for k, v in given.items() if v})
    _check_home(home)
    check_runs(runs)
    with at_work():
        table = _run_all(runs, home, tiny, as_json)

    def show(found: dict[str, Any], console: Console) -> None:
        _show(found, home, console)

    print_result(table, as_json, show)
    if not table["complete"]:
        raise UnsuccessfulError("some rows failed: the table names the causes; the same command runs them again")


def _chosen(names: str) -> list[TableRow]:
    requested = [name.strip() for name in names.split(",") if name.strip()]
    for name in requested:
        if name not in NAMES:
            raise InputError(f"--rows: there is no row {shown(name)}; choose from {', '.join(NAMES)}")
    return [row for row in ROWS if not requested or row.name in requested]


def _check_home(home: Path) -> None:
    if home.exists() and (not home.is_dir() or (any(home.iterdir()) and not (home / TABLE).is_file())):
        raise RunDirectoryError(home, "holds something else; name a new folder, or one of `earshot reproduce`")


def _run_all(runs: Sequence[RowRun], home: Path, tiny: bool, as_json: bool) -> dict[str, Any]:
    """Run the incomplete rows, and write the table at the start and after each row, also after an interrupt."""
    started = time.perf_counter()
    problems: dict[str, str] = {}

    def write() -> dict[str, Any]:
        found = results_table(runs, tiny=tiny, seconds=time.perf_counter() - started, problems=problems)
        _write(found, home)
        return found

    home.mkdir(parents=True, exist_ok=True)
    found = write()
    for i, run in enumerate(runs, start=1):
        what = f"{run.row.title}, seed {run.spec.seed} ({i} of {len(runs)})"
        if run.done:
            print(f"{what}: already complete", file=sys.stderr)
            continue
        print(f"{what}, after {duration(time.perf_counter() - started)}", file=sys.stderr)
        try:
            with make_progress("plain" if as_json else "auto") as progress:
                run_row(run, progress)
        except Exception as error:
            # The other rows do not depend on this one; the table says which failed and why.
            if shows_tracebacks():
                raise
            problems[str(run.path)] = cause_of(error)
            print(f"{what} failed: {problems[str(run.path)]}", file=sys.stderr)
        finally:
            found = write()
    return found


def _write(found: Mapping[str, Any], home: Path) -> None:
    replace_file(home / "table.md", words.markdown(found))
    replace_file(home / "table.html", render(found))
    replace_file(home / TABLE, json_text(found, indent=2) + "\n")


def _show(found: Mapping[str, Any], home: Path, console: Console) -> None:
    names = words.header(found)
    columns = (key(name) if name == "row" else text(name) for name in names)
    table = Table(*columns, title=words.title(found))
    for cells in words.cells(found):
        table.add(*cells)
    print_parts(console, table, *words.differences(found), f"Table: {home / 'table.html'}")
