"""The command `earshot`. Exit codes: 0 success, 2 bad input with one line on stderr, 1 failure, 130 Ctrl-C."""

import json
import logging
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from audio_qa.formats.remote import is_url
from audio_qa.prompt import PromptTemplate
from audio_qa.scoring.submission import check_submission
from orchestrator import (
    backup_commands,
    cluster_commands,
    data_commands,
    evaluation_commands,
    job_commands,
    reproduce_command,
    service_commands,
    telemetry_commands,
    token_commands,
)
from orchestrator.cache import cache_directory
from orchestrator.checkpoints import checkpoints_of
from orchestrator.foreground import at_work, examples_folder, fail, failing, guarded, reporter
from orchestrator.plan import describe, plan
from orchestrator.preflight import check_model_folder, model_context, prepare
from orchestrator.progress import make_progress
from orchestrator.run_directory import RunDirectory
from orchestrator.sections.model import TINY_CONTEXT, TINY_MODELS
from orchestrator.service import serve_command
from orchestrator.spec import JobSpec, Method
from orchestrator.spec_file import dump_spec, parse_spec, read_spec, resolve_paths
from orchestrator.storage.restoration import begin_here, catch_up
from orchestrator.storage.resumption import check_beginning, is_left_to_store, look, place_of, store_rest
from orchestrator.storage.stored_model import fetch_model

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
        fail("--resume goes on with the run in --run-dir: name it", 2)
    if job is None and not resume:
        fail("name a job file, or go on with a run: --resume --run-dir DIRECTORY", 2)
    if resume and run_dir is not None:
        _resume(run_dir, job, seed, as_json, started)
        return
    file = job
    assert file is not None
    spec = guarded(lambda: _read(file, seed))
    if dry_run:
        planned = guarded(lambda: plan(spec))
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
    """Watch a tiny model learn to listen: examples/demo.yaml, six to twenty minutes on two cores the first time."""
    started = time.perf_counter()
    _execute(guarded(lambda: _read(examples_folder() / "demo.yaml", seed)), run_dir, as_json, started)


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
    as_json: JsonOption = False,
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
    from orchestrator.evaluate import evaluate_model, show_evaluation  # noqa: PLC0415

    with at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = guarded(lambda: prepare(spec, reporter(progress)))
        result = failing(lambda: evaluate_model(prepared, progress, predictions=predictions))
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
    reproduce_command,
    token_commands,
    backup_commands,
    cluster_commands,
):
    commands.register(app)


def _context(model: str) -> int:
    """The context to evaluate a model with where none is given."""
    if model in TINY_MODELS:
        return TINY_CONTEXT
    guarded(lambda: check_model_folder(model))
    return min(2048, model_context(model) or 2048)


def _execute(spec: JobSpec, run_dir: str | None, as_json: bool, started: float) -> None:
    """Prepare a new job, run it in this process and print its result."""
    # Ray takes a second to import, which --help and --dry-run need not wait for.
    from orchestrator.driver import run_job  # noqa: PLC0415

    place, storage = guarded(
        lambda: place_of(run_dir or f"runs/{spec.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}")
    )
    path = place.resolve()
    if storage is not None:
        spec = spec.model_copy(update={"storage": storage})
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        fail(
            f"{path}: the run directory exists and is not empty; name a new one with --run-dir, or --resume it",
            2,
        )
    guarded(lambda: check_beginning(spec, path))
    with at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = guarded(lambda: prepare(spec, reporter(progress)))
        made = 0.0 if prepared.base_cached else prepared.base_seconds or 0.0
        run = guarded(lambda: RunDirectory.create(path, dump_spec(spec)))
        # What was made for later runs too is reported by itself, as base_seconds.
        summary = failing(lambda: run_job(prepared, run, progress, started + made))
    _show(summary, run, as_json)


def _resume(run_dir: str, job: Path | None, seed: int | None, as_json: bool, started: float) -> None:
    """Go on with a run from its last checkpoint, here or in its storage."""
    from orchestrator.driver import run_job  # noqa: PLC0415
    from orchestrator.resume import check_resumable, check_same_job, resume  # noqa: PLC0415

    place, storage = guarded(lambda: place_of(run_dir))
    path = place.resolve()
    if job is not None:
        spec = guarded(lambda: _read(job, seed))
    if storage is not None:
        guarded(lambda: begin_here(storage, path))
    if job is None:
        spec = guarded(lambda: _read(path / "job.yaml", seed))
    if storage is not None:
        spec = spec.model_copy(update={"storage": storage})
    run = guarded(lambda: RunDirectory(path))
    old = guarded(lambda: read_spec(run.job_file))
    stored, newest = guarded(lambda: look(run, old, spec))
    if is_left_to_store(run, spec, newest):
        guarded(lambda: check_same_job(run, old, spec))
        with at_work(), guarded(run.written):
            summary = failing(lambda: store_rest(run, spec))
        _show(summary, run, as_json)
        return
    guarded(lambda: check_resumable(run, old, spec, newest))
    with at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = guarded(lambda: prepare(spec, reporter(progress)))
        with guarded(run.written):
            if stored is not None:
                guarded(lambda: catch_up(run, stored, checkpoints_of(run, spec)))
            state = resume(run, spec, dump_spec(spec))
        summary = failing(lambda: run_job(prepared, run, progress, started, state))
    _show(summary, run, as_json)


def _show(summary: dict[str, Any], run: RunDirectory, as_json: bool) -> None:
    """Print a job's result."""
    if as_json:
        print(json.dumps(summary))
        return
    console = Console()
    if run.evaluation_file.is_file():
        from orchestrator.evaluate import show_evaluation  # noqa: PLC0415

        show_evaluation(json.loads(run.evaluation_file.read_text(encoding="utf-8")), console)
    elif summary.get("final_accuracy") is not None:
        controls = [
            f"with {words} {summary[key]:.1%}, "
            for words, key in (("silence", "silence_accuracy"), ("other clips", "shuffled_accuracy"))
            if summary[key] is not None
        ]
        console.print(
            f"Accuracy on {summary['evaluation_questions']} held-out questions: "
            f"{summary['baseline_accuracy']:.1%} before, [bold]{summary['final_accuracy']:.1%}[/bold] after "
            f"{summary['steps']} steps; {''.join(controls)}by chance {summary['chance_accuracy']:.1%}."
        )
    console.print(f"Report: {run.report_file.resolve()}", highlight=False)


def _read(path: Path, seed: int | None) -> JobSpec:
    return resolve_paths(read_spec(path, {} if seed is None else {"seed": seed}), path.resolve().parent)


def main() -> None:
    """The console script. Typer's own usage errors exit with 2 as well."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # Before torch is loaded, here or in a process started from here: its threads must not spin while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
