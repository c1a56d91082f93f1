"""`earshot score` and `earshot compare`: what predictions are worth, without asking a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from orchestrator.data_commands import AudioRootOption, ColumnOption, FormatOption, data_section
from orchestrator.service_link import Json, fail

if TYPE_CHECKING:
    from rich.console import Console

Result = TypeVar("Result")
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap that the intervals come from.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""

    @app.command()
    def score(
        predictions: Annotated[Path, typer.Argument(help="Predictions in the benchmark's own format.")],
        data: Annotated[str, typer.Option(help="The question file that they are about.")],
        format: FormatOption = "auto",
        column: ColumnOption = None,
        audio_root: AudioRootOption = None,
        seed: Seed = 0,
        as_json: Json = False,
    ) -> None:
        """Score predictions as their benchmark does, with a stricter count beside it. No clip is needed."""
        from audio_qa.scoring.rules import rule_of  # noqa: PLC0415
        from audio_qa.scoring.submission import read_predictions  # noqa: PLC0415
        from orchestrator.questions import read_split  # noqa: PLC0415
        from orchestrator.scores import scored_predictions, show_scores  # noqa: PLC0415

        def scores() -> dict[str, Any]:
            section = data_section(data, format, column or [], audio_root)
            found = read_split(section, "train", check_audio=False)
            found.accepted()
            handed_in = read_predictions(predictions, found, rule_of(found.source.format))
            return {"model": str(predictions)} | scored_predictions(found, handed_in, seed=seed)

        _print(_guarded(scores), as_json, show_scores)

    @app.command()
    def compare(
        first: Annotated[
            Path, typer.Argument(help="What `earshot evaluate --json` or `earshot score --json` printed.")
        ],
        second: Annotated[Path, typer.Argument(help="Another such result, on the same questions.")],
        seed: Seed = 0,
        as_json: Json = False,
    ) -> None:
        """Say whether the second result is better than the first, question by question."""
        from orchestrator.compare import compare_results, read_result  # noqa: PLC0415

        found = _guarded(lambda: compare_results(read_result(first), read_result(second), seed=seed))
        _print(found, as_json, _show_comparison)


def _guarded(action: Callable[[], Result]) -> Result:
    from orchestrator.preflight import BAD_INPUT  # noqa: PLC0415

    try:
        return action()
    except BAD_INPUT as error:
        fail(str(error), 2)


def _print(result: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any], "Console"], None]) -> None:
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    from rich.console import Console  # noqa: PLC0415

    show(result, Console())


def _show_comparison(result: dict[str, Any], console: "Console") -> None:
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=f"{result['second']} against {result['first']}, {result['questions']} questions", box=None)
    table.add_column("")
    for name in ("first", "second", "difference", "only 1st", "only 2nd", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [("all", result), *result["by_task"].items()]
    for name, row in rows:
        for count, label in (("official", "official"), ("strict", "exact")):
            found = row[count]
            table.add_row(
                f"{name}, {label}",
                f"{found['first_accuracy']:.1%}",
                f"{found['second_accuracy']:.1%}",
                f"{found['difference']:+.1%} ({100 * found['interval']['low']:+.1f} to "
                f"{100 * found['interval']['high']:+.1f})",
                str(found["only_first"]),
                str(found["only_second"]),
                f"{found['p_value']:.3g}",
            )
    console.print(table)
    if result["left_out"]:
        console.print(f"{result['left_out']} answers to questions that only one of them has were left out.")
