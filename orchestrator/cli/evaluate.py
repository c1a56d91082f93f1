"""`earshot evaluate`, `score` and `compare`: accuracy of a model, or of predictions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from audio_qa.formats.remote import is_url
from audio_qa.prompt import PromptTemplate
from audio_qa.scoring.submission import check_submission
from orchestrator.cli import data as data_commands
from orchestrator.cli.data import AudioRootOption, ColumnOption, FormatOption, data_section
from orchestrator.cli.foreground import at_work, failing, guarded
from orchestrator.cli.service.link import Json, fail
from orchestrator.display.progress import make_progress, reporter
from orchestrator.job.sections.model import TINY_CONTEXT, TINY_MODELS
from orchestrator.job.spec import Method
from orchestrator.job.spec_file import parse_spec, resolve_paths
from orchestrator.places import cache_directory
from orchestrator.preflight.model_folder import check_model_folder, model_context
from orchestrator.preflight.prepare import prepare
from orchestrator.storage.stored_model import fetch_model

if TYPE_CHECKING:
    from rich.console import Console


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A checkpoint: a run's checkpoints/step-N, its URL where it is stored, or a model's folder."
        ),
    ],
    data: Annotated[
        str, typer.Option(help="Questions: a question file or its URL, hf:OWNER/NAME#SPLIT, or builtin:synthetic.")
    ] = "builtin:synthetic",
    format: data_commands.FormatOption = "auto",
    column: data_commands.ColumnOption = None,
    audio_root: data_commands.AudioRootOption = None,
    prompt: Annotated[PromptTemplate, typer.Option(help="The paper's prompt 1, 2 or 3.")] = PromptTemplate.ANSWER,
    seed: Annotated[int, typer.Option(help="Of builtin:synthetic, samples, shuffled clips and intervals.")] = 0,
    questions: Annotated[int, typer.Option(help="How many of the questions; 0 asks all.")] = 0,
    workers: Annotated[int, typer.Option(help="vLLM engines.")] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs of an engine.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    max_context: Annotated[
        int, typer.Option(help="Longest prompt plus answer, in tokens; 0: what the model holds, up to 2048.")
    ] = 0,
    too_long: Annotated[str, typer.Option(help="Clips longer than the model hears: refuse or truncate.")] = "refuse",
    samples: Annotated[int, typer.Option(min=1, help="Answers a question; of several, the majority's counts.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="Of several answers; one is greedy by default.")] = 0,
    controls: Annotated[
        str, typer.Option(help="What is heard in the clips' place, once more each: silence, shuffled; or neither, ''.")
    ] = "silence,shuffled",
    predictions: Annotated[
        Path | None, typer.Option(help="Write the predictions here, in the benchmark's own format.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a model questions, with their clips, with silence and with other clips, and report accuracies and scores."""
    if samples > 1 and temperature == 0:
        fail("--samples above 1 needs --temperature above 0: greedy answers are all the same", 2)
    columns = guarded(lambda: data_commands.column_mapping(column or []))
    named = model
    if is_url(model):
        model = str(guarded(lambda: fetch_model(named, cache_directory() / "stored")))
    value = {
        "name": "evaluate",
        "seed": seed,
        "method": Method.EVALUATE,
        "model": {"path": model, "max_context": max_context or _context(model), "too_long": too_long},
        "data": {"evaluation": data, "prompt": prompt}
        | {"evaluation_format": format, "evaluation_columns": columns, "evaluation_audio_root": audio_root},
        "evaluation": {"questions": questions, "samples": samples, "temperature": temperature}
        | {"controls": [name.strip() for name in controls.split(",") if name.strip()]},
        "rollout": {"workers": workers, "gpus": gpus, "max_tokens": max_tokens},
    }
    spec = guarded(lambda: resolve_paths(parse_spec(value, "evaluate"), Path.cwd()))
    if predictions is not None:
        guarded(lambda: check_submission(predictions))
    from orchestrator.cli.results import show_evaluation  # noqa: PLC0415
    from orchestrator.driver.evaluation import evaluate_model  # noqa: PLC0415

    with at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = guarded(lambda: prepare(spec, reporter(progress)))
        result = failing(lambda: evaluate_model(prepared, progress, predictions=predictions))
    result["model"] = named if is_url(named) else result["model"]
    if as_json:
        print(json.dumps(result))
    else:
        show_evaluation(result, Console())


def _context(model: str) -> int:
    """The context to evaluate a model with where none is given."""
    if model in TINY_MODELS:
        return TINY_CONTEXT
    guarded(lambda: check_model_folder(model))
    return min(2048, model_context(model) or 2048)


Result = TypeVar("Result")
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap that the intervals come from.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(evaluate)

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
        from orchestrator.cli.results import show_scores  # noqa: PLC0415
        from orchestrator.evaluation.scores import scored_predictions  # noqa: PLC0415
        from orchestrator.questions.splits import read_split  # noqa: PLC0415

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
        from orchestrator.evaluation.compare import compare_results, read_result  # noqa: PLC0415

        found = _guarded(lambda: compare_results(read_result(first), read_result(second), seed=seed))
        _print(found, as_json, _show_comparison)


def _guarded(action: Callable[[], Result]) -> Result:
    from orchestrator.preflight.prepare import BAD_INPUT  # noqa: PLC0415

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
