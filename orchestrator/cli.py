"""The command `earshot`. Exit codes: 0 success, 2 bad input with one line on stderr, 1 failure, 130 Ctrl-C."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console

from audio_qa.formats.remote import is_url
from audio_qa.prompt import PromptTemplate
from orchestrator import (
    backup_commands,
    cluster_commands,
    data_commands,
    evaluation_commands,
    job_commands,
    service_commands,
    telemetry_commands,
    token_commands,
)
from orchestrator.cache import cache_directory
from orchestrator.checkpoints import checkpoints_of
from orchestrator.plan import describe, plan
from orchestrator.preflight import BAD_INPUT, Report, check_model_folder, model_context, prepare
from orchestrator.progress import Progress, make_progress
from orchestrator.run_directory import RunDirectory, RunDirectoryError
from orchestrator.service import serve_command
from orchestrator.spec import TINY_CONTEXT, TINY_MODEL, JobSpec
from orchestrator.spec_file import dump_spec, parse_spec, read_spec, resolve_paths
from orchestrator.storage.location import StorageError
from orchestrator.storage.restoration import begin_here, catch_up
from orchestrator.storage.resumption import check_beginning, is_left_to_store, look, place_of, store_rest
from orchestrator.storage.stored_model import fetch_model

Result = TypeVar("Result")

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
RunDirOption = Annotated[
    str | None,
    typer.Option(
        "--run-dir",
        help="Where the run is kept; by default runs/NAME-TIME here. STORAGE/NAME, where STORAGE is s3://… or another "
        "URL, keeps it in runs/NAME here and stores it there.",
    ),
]


def examples_folder() -> Path:
    """The examples that come with Earshot: beside the packages in a checkout, inside one when installed."""
    inside = Path(__file__).parent / "examples"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "examples"


@app.callback()
def earshot() -> None:
    """Post-train audio language models with reinforcement learning on a Ray cluster."""


@app.command()
def run(
    job: Annotated[
        Path | None, typer.Argument(help="The job file, YAML or JSON; with --resume, by default the run's own.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the job file, its model and questions, and print the plan.")
    ] = False,
    run_dir: RunDirOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --run-dir from its last checkpoint.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Instead of the job file's seed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a job in the foreground, to its end."""
    started = time.perf_counter()
    if resume and run_dir is None:
        _fail("--resume goes on with the run in --run-dir: name it", 2)
    if job is None and not resume:
        _fail("name a job file, or go on with a run: --resume --run-dir DIRECTORY", 2)
    if resume and run_dir is not None:
        _resume(run_dir, job, seed, as_json, started)
        return
    file = job
    assert file is not None
    spec = _guarded(lambda: _read(file, seed))
    if dry_run:
        planned = _guarded(lambda: plan(spec))
        if as_json:
            print(json.dumps(planned))
        else:
            describe(planned, Console())
        return
    _execute(spec, run_dir, as_json, started)


@app.command()
def demo(
    run_dir: RunDirOption = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the tiny model, the questions and the run; by default 0.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a tiny model learn to listen: examples/demo.yaml, about twenty minutes on two cores the first time."""
    started = time.perf_counter()
    _execute(_guarded(lambda: _read(examples_folder() / "demo.yaml", seed)), run_dir, as_json, started)


@app.command()
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
    seed: Annotated[int, typer.Option(help="Of builtin:synthetic.")] = 0,
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
    predictions: Annotated[
        Path | None, typer.Option(help="Write the predictions here, in the benchmark's own format.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a model questions, with their clips and with silence, and report both accuracies and the official score."""
    if samples > 1 and temperature == 0:
        _fail("--samples above 1 needs --temperature above 0: greedy answers are all the same", 2)
    columns = _guarded(lambda: data_commands.column_mapping(column or []))
    named = model
    if is_url(model):
        model = str(_guarded(lambda: fetch_model(named, cache_directory() / "stored")))
    value = {
        "name": "evaluate",
        "seed": seed,
        "steps": 0,
        "model": {"path": model, "max_context": max_context or _context(model), "too_long": too_long},
        "data": {"train": data, "evaluation": data, "prompt": prompt}
        | {"format": format, "columns": columns, "audio_root": audio_root}
        | {"evaluation_format": format, "evaluation_columns": columns, "evaluation_audio_root": audio_root},
        "evaluation": {"questions": questions},
        "rollout": {"workers": workers, "gpus": gpus, "max_tokens": max_tokens},
    }
    spec = _guarded(lambda: resolve_paths(parse_spec(value, "evaluate"), Path.cwd()))
    from orchestrator.evaluate import evaluate_model, show_evaluation  # noqa: PLC0415

    with _at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = _guarded(lambda: prepare(spec, _reporter(progress)))
        result = _failing(
            lambda: evaluate_model(
                prepared, progress, samples=samples, temperature=temperature, predictions=predictions
            )
        )
    result["model"] = named if is_url(named) else result["model"]
    if as_json:
        print(json.dumps(result))
    else:
        show_evaluation(result, Console())


for commands in (
    serve_command,
    service_commands,
    telemetry_commands,
    job_commands,
    data_commands,
    evaluation_commands,
    token_commands,
    backup_commands,
    cluster_commands,
):
    commands.register(app)


def _context(model: str) -> int:
    """The context to evaluate a model with where none is given."""
    if model == TINY_MODEL:
        return TINY_CONTEXT
    _guarded(lambda: check_model_folder(model))
    return min(2048, model_context(model) or 2048)


def _execute(spec: JobSpec, run_dir: str | None, as_json: bool, started: float) -> None:
    """Prepare a new job, run it in this process and print its result."""
    # Ray takes a second to import, which --help and --dry-run need not wait for.
    from orchestrator.driver import run_job  # noqa: PLC0415

    place, storage = _guarded(
        lambda: place_of(run_dir or f"runs/{spec.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}")
    )
    path = place.resolve()
    if storage is not None:
        spec = spec.model_copy(update={"storage": storage})
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        _fail(
            f"{path}: the run directory exists and is not empty; name a new one with --run-dir, or --resume it",
            2,
        )
    _guarded(lambda: check_beginning(spec, path))
    with _at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = _guarded(lambda: prepare(spec, _reporter(progress)))
        made = 0.0 if prepared.base_cached else prepared.base_seconds or 0.0
        run = _guarded(lambda: RunDirectory.create(path, dump_spec(spec)))
        # What was made for later runs too is reported by itself, as base_seconds.
        summary = _failing(lambda: run_job(prepared, run, progress, started + made))
    _show(summary, run, as_json)


def _resume(run_dir: str, job: Path | None, seed: int | None, as_json: bool, started: float) -> None:
    """Go on with a run from its last checkpoint, here or in its storage."""
    from orchestrator.driver import run_job  # noqa: PLC0415
    from orchestrator.resume import check_resumable, check_same_job, resume  # noqa: PLC0415

    place, storage = _guarded(lambda: place_of(run_dir))
    path = place.resolve()
    if job is not None:
        spec = _guarded(lambda: _read(job, seed))
    if storage is not None:
        _guarded(lambda: begin_here(storage, path))
    if job is None:
        spec = _guarded(lambda: _read(path / "job.yaml", seed))
    if storage is not None:
        spec = spec.model_copy(update={"storage": storage})
    run = _guarded(lambda: RunDirectory(path))
    old = _guarded(lambda: read_spec(run.job_file))
    stored, newest = _guarded(lambda: look(run, old, spec))
    if is_left_to_store(run, spec, newest):
        _guarded(lambda: check_same_job(run, old, spec))
        with _at_work(), _guarded(run.written):
            summary = _failing(lambda: store_rest(run, spec))
        _show(summary, run, as_json)
        return
    _guarded(lambda: check_resumable(run, old, spec, newest))
    with _at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = _guarded(lambda: prepare(spec, _reporter(progress)))
        with _guarded(run.written):
            if stored is not None:
                _guarded(lambda: catch_up(run, stored, checkpoints_of(run, spec)))
            state = resume(run, spec, dump_spec(spec))
        summary = _failing(lambda: run_job(prepared, run, progress, started, state))
    _show(summary, run, as_json)


def _show(summary: dict[str, Any], run: RunDirectory, as_json: bool) -> None:
    """Print a job's result."""
    if as_json:
        print(json.dumps(summary))
        return
    console = Console()
    if summary.get("final_accuracy") is not None:
        console.print(
            f"Accuracy on {summary['evaluation_questions']} held-out questions: "
            f"{summary['baseline_accuracy']:.1%} before, [bold]{summary['final_accuracy']:.1%}[/bold] after "
            f"{summary['steps']} steps; with silence {summary['silence_accuracy']:.1%}, by chance "
            f"{summary['chance_accuracy']:.1%}."
        )
    console.print(f"Report: {run.report_file.resolve()}", highlight=False)


def _read(path: Path, seed: int | None) -> JobSpec:
    return resolve_paths(read_spec(path, {} if seed is None else {"seed": seed}), path.resolve().parent)


def _reporter(progress: Progress) -> Report:
    """Show preparation as phases, with how far it is: at the start, every tenth and the end."""
    shown: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        tenth = done * 10 // max(1, total)
        if shown.get(what) != tenth:
            shown[what] = tenth
            progress.phase(f"{what} {done}/{total}" if total > 1 else what)

    return report


def _guarded(action: Callable[[], Result]) -> Result:
    """What `action` returns; bad input ends the command with one line and exit code 2."""
    try:
        return action()
    except (*BAD_INPUT, RunDirectoryError, StorageError) as error:
        _fail(str(error), 2)


def _failing(action: Callable[[], Result]) -> Result:
    """What `action` returns; Ctrl-C ends the command with exit code 130, anything else with one line and 1."""
    try:
        return action()
    except KeyboardInterrupt:
        _fail("interrupted; every process it started has ended", 130)
    except Exception as error:
        if os.environ.get("EARSHOT_TRACEBACK"):
            raise
        _fail(f"{type(error).__name__}: {error} (EARSHOT_TRACEBACK=1 shows where)", 1)


@contextmanager
def _at_work() -> Iterator[None]:
    """A polite kill ends a job as Ctrl-C does, and stdout is kept for the result: Ray reports deaths there."""

    def interrupt(*_: object) -> None:
        # Through SIGINT's own handler, so that asyncio cancels the job instead of dying in the middle of it.
        signal.raise_signal(signal.SIGINT)

    # A shell starts background commands with SIGINT ignored: it is heard again, or SIGTERM could not pass it on.
    before_int = signal.signal(signal.SIGINT, signal.default_int_handler)
    before_term = signal.signal(signal.SIGTERM, interrupt)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    finally:
        signal.signal(signal.SIGTERM, before_term)
        signal.signal(signal.SIGINT, before_int)


def _fail(message: str, code: int) -> NoReturn:
    print(f"earshot: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def main() -> None:
    """The console script. Typer's own usage errors exit with 2 as well."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # Before torch is loaded, here or in a process started from here: its threads must not spin while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
