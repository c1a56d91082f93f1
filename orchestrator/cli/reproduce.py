"""`earshot reproduce`: runs the rows of the paper's table and writes the table."""

import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.foreground import at_work
from orchestrator.cli.service.link import Json, fail
from orchestrator.places import examples_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.reproduce.rows import TableRow
    from orchestrator.reproduce.runs import RowRun

TABLE = "table.json"
TINY_SEEDS = 2


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command()
    def reproduce(
        tiny: Annotated[
            bool,
            typer.Option("--tiny", help="The rows on the tiny model and the synthetic benchmark, on this machine."),
        ] = False,
        seeds: Annotated[int, typer.Option(min=0, help="How many; by default 2 with --tiny, else 1.")] = 0,
        rows: Annotated[str, typer.Option(help="Some of the rows, by name, with commas between; by default all.")] = "",
        recipes: Annotated[
            Path | None, typer.Option(help="Folder of the rows' job files; by default those that come with Earshot.")
        ] = None,
        model: Annotated[str | None, typer.Option(help="The model's folder, in the place of the recipes' own.")] = None,
        train: Annotated[str | None, typer.Option(help="The training questions, likewise.")] = None,
        evaluation: Annotated[str | None, typer.Option(help="The held-out questions, likewise.")] = None,
        run_dir: Annotated[
            Path | None,
            typer.Option("--run-dir", help="Where runs and table are kept; one that is there goes on."),
        ] = None,
        as_json: Json = False,
    ) -> None:
        """Run the rows of the paper's table, and write it as table.md, table.html and table.json.

        Rows that are done are not run again.
        """
        from orchestrator.preflight.prepare import BAD_INPUT  # noqa: PLC0415
        from orchestrator.reproduce.runs import check, row_runs  # noqa: PLC0415
        from orchestrator.run.records import RunDirectoryError  # noqa: PLC0415

        chosen = _chosen(rows)
        home = (run_dir or Path("runs") / f"reproduce-{datetime.now().astimezone():%Y%m%d-%H%M%S}").resolve()
        folder = recipes or examples_folder() / ("tiny" if tiny else "paper")
        given = {"model.path": model, "data.train": train, "data.evaluation": evaluation}
        try:
            runs = row_runs(
                chosen, seeds or (TINY_SEEDS if tiny else 1), folder, home, {k: v for k, v in given.items() if v}
            )
            _check_home(home)
            check(runs)
        except (*BAD_INPUT, RunDirectoryError) as error:
            fail(str(error), 2)
        with at_work():
            table = _run_all(runs, home, tiny, as_json)
        if as_json:
            typer.echo(json.dumps(table))
        else:
            _show(table, home)
        if not table["complete"]:
            fail("some rows failed: see What failed in the table; the same command tries them again", 1)


def _chosen(names: str) -> "list[TableRow]":
    from orchestrator.reproduce.rows import NAMES, ROWS  # noqa: PLC0415

    asked = [name.strip() for name in names.split(",") if name.strip()]
    for name in asked:
        if name not in NAMES:
            fail(f"--rows: there is no row {name!r}; choose from {', '.join(NAMES)}", 2)
    return [row for row in ROWS if not asked or row.name in asked]


def _check_home(home: Path) -> None:
    from orchestrator.run.records import RunDirectoryError  # noqa: PLC0415

    if home.exists() and (not home.is_dir() or (any(home.iterdir()) and not (home / TABLE).is_file())):
        raise RunDirectoryError(home, "holds something else; name a new folder, or one of `earshot reproduce`")


def _run_all(runs: "Sequence[RowRun]", home: Path, tiny: bool, as_json: bool) -> dict[str, Any]:
    """Run what is not done, and write the table before, after every row, and however it ends."""
    from orchestrator.display.notation import duration  # noqa: PLC0415
    from orchestrator.display.progress import make_progress  # noqa: PLC0415
    from orchestrator.reproduce.figures import table  # noqa: PLC0415
    from orchestrator.reproduce.runs import carry_out  # noqa: PLC0415

    started = time.perf_counter()
    problems: dict[str, str] = {}

    def write() -> dict[str, Any]:
        found = table(runs, tiny=tiny, seconds=time.perf_counter() - started, problems=problems)
        _write(found, home)
        return found

    home.mkdir(parents=True, exist_ok=True)
    found = write()
    for i, run in enumerate(runs, start=1):
        what = f"{run.row.title}, seed {run.spec.seed} ({i} of {len(runs)})"
        if run.done:
            print(f"{what}: done before", file=sys.stderr)
            continue
        print(f"{what}, after {duration(time.perf_counter() - started)}", file=sys.stderr)
        try:
            with make_progress("plain" if as_json else "auto") as progress:
                carry_out(run, progress)
        except Exception as error:
            # The other rows do not depend on it; the table says which failed and why.
            if os.environ.get("EARSHOT_TRACEBACK"):
                raise
            problems[str(run.path)] = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"{what} failed: {problems[str(run.path)]}", file=sys.stderr)
        finally:
            found = write()
    return found


def _write(found: "Mapping[str, Any]", home: Path) -> None:
    from orchestrator.reproduce.page import render  # noqa: PLC0415
    from orchestrator.reproduce.words import markdown  # noqa: PLC0415
    from orchestrator.run.records import json_text, replace_file  # noqa: PLC0415

    replace_file(home / "table.md", markdown(found))
    replace_file(home / "table.html", render(found))
    replace_file(home / TABLE, json_text(found, indent=2) + "\n")


def _show(found: "Mapping[str, Any]", home: Path) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from orchestrator.reproduce import words  # noqa: PLC0415

    console = Console()
    shown = Table(title=words.title(found), box=None)
    for name in words.header(found):
        shown.add_column(Text(name), no_wrap=name == "row")
    for cells in words.cells(found):
        shown.add_row(*map(Text, cells))
    console.print(shown)
    for sentence in words.answers(found):
        console.print(Text(sentence))
    console.print(f"Table: {home / 'table.html'}", highlight=False)
