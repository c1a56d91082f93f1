"""`earshot data`: what is wrong with questions and clips, and which are answered without them, before a job is made."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.service.link import Json, fail

if TYPE_CHECKING:  # rich takes a moment to import, which --help need not wait for
    from orchestrator.job.spec import JobSpec
    from orchestrator.preflight.data_check import CheckedSplit, DataCheck

Spec = Annotated[str, typer.Argument(help="A job file, or a question file: a path, a URL, or hf:OWNER/NAME#SPLIT.")]
FormatOption = Annotated[str, typer.Option("--format", help="How a question file is written; by default by its keys.")]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option("--column", help="KEY=COLUMN of any other file, several times; choices=A,B,C for several columns."),
]
AudioRootOption = Annotated[
    str | None, typer.Option("--audio-root", help="Where relative clip paths start; by default the file's folder.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    data = typer.Typer(no_args_is_help=True, help="Questions and their clips.")
    app.add_typer(data, name="data")

    @data.command()
    def check(
        spec: Spec,
        format: FormatOption = "auto",
        column: ColumnOption = None,
        audio_root: AudioRootOption = None,
        max_seconds: Annotated[
            float, typer.Option(min=0, help="Longest clip in a question file; by default what the models hear.")
        ] = 0,
        as_json: Json = False,
    ) -> None:
        """List every problem of a job's questions or of a question file, and count what is in them.

        Exit code 2 where there are problems for which a job refuses the data.
        """
        from orchestrator.job.spec_file import read_spec, resolve_paths  # noqa: PLC0415
        from orchestrator.preflight.data_check import LONGEST_SECONDS, check_file, check_job  # noqa: PLC0415
        from orchestrator.preflight.prepare import BAD_INPUT  # noqa: PLC0415

        try:
            if is_job_file(spec):
                job = resolve_paths(read_spec(Path(spec)), Path(spec).resolve().parent)
                found = check_job(job)
            else:
                section = data_section(spec, format, column or [], audio_root)
                found = check_file(section, max_seconds or LONGEST_SECONDS)
        except BAD_INPUT as error:
            fail(str(error), 2)
        if as_json:
            typer.echo(json.dumps(found.as_json(), ensure_ascii=False))
        else:
            _show(found)
        if found.refused:
            raise typer.Exit(2)

    @data.command()
    def filter(
        spec: Spec,
        output: Annotated[Path, typer.Option(help="The question file to write, in Earshot's own schema.")],
        model: Annotated[
            str | None, typer.Option(help="Who is asked, where SPEC is a question file: a checkpoint's folder.")
        ] = None,
        format: FormatOption = "auto",
        column: ColumnOption = None,
        audio_root: AudioRootOption = None,
        samples: Annotated[int, typer.Option(min=1, help="Answers a question.")] = 8,
        threshold: Annotated[
            float, typer.Option(min=0.01, max=1, help="Leave out what so great a share of answers gets right.")
        ] = 0.75,
        temperature: Annotated[float, typer.Option(min=0.01, help="Of the answers.")] = 1,
        max_tokens: Annotated[
            int, typer.Option(min=1, help="Longest answer, where SPEC is a question file; a job has its own.")
        ] = 64,
        as_json: Json = False,
    ) -> None:
        """Leave out the questions that a model answers without hearing: silence is played in each clip's place.

        Of a job file these are its training questions and its model. What is left out is listed beside the new file.
        """
        from orchestrator.cli.foreground import at_work, failing, guarded  # noqa: PLC0415
        from orchestrator.cli.results import show_filtered  # noqa: PLC0415
        from orchestrator.display.progress import make_progress, reporter  # noqa: PLC0415
        from orchestrator.driver.silence_filter import check_output, filter_by_silence  # noqa: PLC0415
        from orchestrator.preflight.prepare import prepare  # noqa: PLC0415

        job = guarded(lambda: _asked(spec, model, format, column or [], audio_root, max_tokens))
        with at_work(), make_progress("plain" if as_json else "auto") as progress:
            prepared = guarded(lambda: prepare(job, reporter(progress)))
            guarded(lambda: check_output(job, output, prepared.train))
            result = failing(
                lambda: filter_by_silence(
                    prepared, progress, output, samples=samples, threshold=threshold, temperature=temperature
                )
            )
        if as_json:
            typer.echo(json.dumps(result, ensure_ascii=False))
        else:
            from rich.console import Console  # noqa: PLC0415

            show_filtered(result, Console())
        if result["output"] is None:
            fail("every question is answered without its clip: nothing was written", 1)


def _asked(
    location: str, model: str | None, format: str, columns: list[str], audio_root: str | None, max_tokens: int
) -> "JobSpec":
    """The job whose training questions are asked. Raises SpecError."""
    from orchestrator.job.sections.model import TINY_CONTEXT, TINY_MODEL  # noqa: PLC0415
    from orchestrator.job.spec_file import SpecError, parse_spec, read_spec, resolve_paths  # noqa: PLC0415
    from orchestrator.preflight.model_folder import check_model_folder, model_context  # noqa: PLC0415

    if is_job_file(location):
        if model is not None:
            raise SpecError("--model: the job file names the model; leave one of them out")
        return resolve_paths(read_spec(Path(location)), Path(location).resolve().parent)
    if model is None:
        raise SpecError("--model: name the model to ask, a checkpoint's folder, or give a job file instead")
    if model != TINY_MODEL:
        check_model_folder(model)
    context = TINY_CONTEXT if model == TINY_MODEL else min(2048, model_context(model) or 2048)
    value = {
        "name": "filter",
        "model": {"path": model, "max_context": context},
        "data": {"train": location, "format": format, "columns": column_mapping(columns), "audio_root": audio_root},
        "rollout": {"max_tokens": max_tokens},
    }
    return resolve_paths(parse_spec(value, "filter"), Path.cwd())


def is_job_file(location: str) -> bool:
    """Whether a file is a job: YAML, or a JSON object that has `model` or `data`."""
    path = Path(location)
    if path.suffix in (".yaml", ".yml"):
        return True
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool({"model", "data"} & value.keys())


def data_section(location: str, format: str, columns: list[str], audio_root: str | None) -> Any:
    """The `data` section of a job that has one question file, paths absolute. Raises SpecError."""
    from orchestrator.job.spec_file import parse_spec, resolve_paths  # noqa: PLC0415

    value = {"train": location, "format": format, "columns": column_mapping(columns), "audio_root": audio_root}
    return resolve_paths(parse_spec({"model": {"path": "."}, "data": value}, "earshot"), Path.cwd()).data


def column_mapping(columns: list[str]) -> dict[str, str | list[str]]:
    """The mapping in some KEY=COLUMN. Raises SpecError."""
    from orchestrator.job.spec_file import SpecError  # noqa: PLC0415

    mapping: dict[str, str | list[str]] = {}
    for text in columns:
        key, found, column = text.partition("=")
        if not found:
            raise SpecError(f"--column {text!r}: write KEY=COLUMN, as in question=prompt")
        mapping[key] = column.split(",") if "," in column else column
    return mapping


def _show(found: "DataCheck") -> None:
    from rich.console import Console  # noqa: PLC0415

    console = Console()
    for name, split in found.splits.items():
        console.print(_table(name, split))
    problems = [*(p for split in found.splits.values() for p in split.problems), *found.overlap]
    for problem in problems:
        note = "" if problem.refused else " (not refused)"
        console.print(f"{problem.kind.value}{note}: {problem}", markup=False, highlight=False, soft_wrap=True)
    left = len(problems) - found.refused
    counts = f"{found.refused} problem(s) for which a job refuses the data, {left} that it takes"
    console.print(counts if problems else "No problem was found.", highlight=False)


def _table(name: str, split: "CheckedSplit") -> Any:
    from rich.table import Table  # noqa: PLC0415

    source, told = split.found.source, split.statistics
    table = Table(title=name, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("format", f"{source.format} {source.version}".strip())
    table.add_row("sha256", source.sha256)
    table.add_row("questions", f"{told.questions:,} about {told.clips:,} clips")
    table.add_row(
        "seconds",
        f"{told.seconds_total:,.0f} in all; {told.seconds_shortest:.2f} to {told.seconds_longest:.2f}, "
        f"on average {told.seconds_mean:.2f}",
    )
    table.add_row("by chance", f"{told.chance_accuracy:.1%}")
    if told.repeated_choices:
        table.add_row("a choice stands twice in", f"{told.repeated_choices:,}")
    for label in ("task", "category", "sub_category", "difficulty", "choices"):
        counts: dict[str, int] = getattr(told, f"by_{label}")
        if counts:
            table.add_row(f"by {label.replace('_', '-')}", "; ".join(f"{key} {n:,}" for key, n in counts.items()))
    return table
