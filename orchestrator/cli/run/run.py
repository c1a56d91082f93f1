"""`earshot run` and `earshot demo`: run a job in the foreground, or resume it."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from audio_qa.errors import InputError
from audio_qa.files.clips import ClipCheck
from orchestrator.cli.foreground import at_work
from orchestrator.cli.job_file import read_job
from orchestrator.cli.options import LARGEST_SEED, Json
from orchestrator.cli.results import print_result, show_evaluation, show_plan
from orchestrator.display.progress import make_progress, reporter, slow_reporter
from orchestrator.display.table import output_console, show
from orchestrator.driver.driver import run_job
from orchestrator.driver.resume import check_inputs, check_resumable, check_same_job
from orchestrator.driver.resume import resume as resumed
from orchestrator.driver.run_storage import (
    check_not_stored,
    find_stored,
    is_finished_but_unstored,
    parse_run_dir,
    storage_checked,
    store_finished,
)
from orchestrator.job.memory.fit import check_memory
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import dump_spec, read_spec
from orchestrator.places import examples_folder
from orchestrator.preflight.plan import model_sizes, plan
from orchestrator.preflight.prepare import prepare
from orchestrator.preflight.room import check_room
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.files import JOB
from orchestrator.run.records import RunDirectoryError
from orchestrator.storage.restoration import catch_up, create_local

RunDir = Annotated[
    str | None,
    typer.Option(
        "--run-dir",
        help="Run directory. Default: runs/NAME-TIME. With STORAGE/NAME, where STORAGE is a URL such as s3://…, the "
        "run is in runs/NAME here and is copied to the storage.",
    ),
]
_PUT_BACK = "put back what it had, accept the change with --accept-changes, or start a new run"


def run(
    job: Annotated[
        Path | None,
        typer.Argument(
            metavar="JOB", help="Job file, YAML or JSON. Default with --resume: the one in the run directory."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the job file, its model and its questions, and print the plan.")
    ] = False,
    run_dir: RunDir = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --run-dir from its last checkpoint.")
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="With --resume: continue although questions, clips, model or reward code differ from those that the "
            "run began with.",
        ),
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, max=LARGEST_SEED, help="Seed, in place of the job file's.")] = None,
    as_json: Json = False,
) -> None:
    """Run a job in the foreground until it ends."""
    started = time.perf_counter()
    if resume:
        if run_dir is None:
            raise InputError("--resume continues the run in --run-dir: name it")
        if dry_run:
            raise InputError("--dry-run plans a new job, and --resume continues a run: leave one of them out")
        _resume(run_dir, job, seed, as_json, started, accept_changes=accept_changes)
    elif accept_changes:
        raise InputError("--accept-changes is for a run that continues: name it with --resume --run-dir DIRECTORY")
    elif job is None:
        raise InputError("name a job file, or resume a run: --resume --run-dir DIRECTORY")
    elif dry_run:
        place = None if run_dir is None else parse_run_dir(run_dir)[0]
        with make_progress("plain") as progress:
            spec = read_job(job, seed)
            planned = plan(spec, place, ClipCheck(report=slow_reporter(progress)))
        print_result(planned, as_json, show_plan)
        check_memory(spec, model_sizes(spec))
    else:
        _start(read_job(job, seed), run_dir, as_json, started)


def demo(
    run_dir: RunDir = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=LARGEST_SEED, help="Seed of the tiny model, the questions and the run. Default: 0."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a tiny model until it uses the audio (examples/demo.yaml).

    Takes six to twenty minutes on two cores the first time.
    """
    started = time.perf_counter()
    _start(read_job(examples_folder() / "demo.yaml", seed), run_dir, as_json, started)


def _start(spec: JobSpec, run_dir: str | None, as_json: bool, started: float) -> None:
    """Prepare a new job, run it in this process and print its result."""
    place, storage = parse_run_dir(run_dir or f"runs/{spec.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}")
    path = place.resolve()
    if storage is not None:
        spec = spec.model_copy(update={"storage": storage})
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunDirectoryError(
            path, "exists and is not empty; name a new one with --run-dir, or continue that run with --resume"
        )
    sizes = model_sizes(spec)
    check_memory(spec, sizes)
    check_room(spec, sizes, path)
    with storage_checked():
        check_not_stored(spec, path)
    with at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = prepare(spec, reporter(progress))
        # Time to build what later runs use too is reported separately, as base_seconds.
        built = 0.0 if prepared.base_cached else prepared.base_seconds or 0.0
        run = RunDirectory.create(path, dump_spec(spec))
        summary = run_job(prepared, run, progress, started + built)
    _print_summary(summary, run, as_json)


def _resume(
    run_dir: str, job: Path | None, seed: int | None, as_json: bool, started: float, *, accept_changes: bool
) -> None:
    """Continue a run from its last checkpoint, here or in its storage."""
    place, storage = parse_run_dir(run_dir)
    path = place.resolve()
    if job is not None:
        spec = read_job(job, seed)
    if storage is not None:
        with storage_checked():
            create_local(storage, path)
    if not (path / JOB).is_file():
        raise RunDirectoryError(place, "not a run directory (it has no job.yaml); correct the path")
    if job is None:
        spec = read_job(path / JOB, seed)
    if storage is not None:
        spec = spec.model_copy(update={"storage": storage})
    run = RunDirectory(path)
    old = read_spec(run.job_file)
    with storage_checked():
        stored, newest = find_stored(run, old, spec)
    if is_finished_but_unstored(run, spec, newest):
        check_same_job(run, old, spec)
        with at_work(), run.lock():
            summary = store_finished(run, spec)
        _print_summary(summary, run, as_json)
        return
    check_resumable(run, old, spec, newest)
    check_room(spec, model_sizes(spec), path)
    with at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = prepare(spec, reporter(progress))
        with run.lock():
            if stored is not None:
                with storage_checked():
                    catch_up(run, stored, checkpoints_of(run, spec))
            noted = check_inputs(run, prepared, _PUT_BACK, accept=accept_changes)
            if "not_compared" in noted:
                names = ", ".join(noted["not_compared"])
                progress.message(f"not compared with what the run began with, as it is not known: {names}")
            state = resumed(run, spec, dump_spec(spec), noted)
        summary = run_job(prepared, run, progress, started, state)
    _print_summary(summary, run, as_json)


def _print_summary(summary: dict[str, Any], run: RunDirectory, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary))
        return
    console = output_console()
    if run.evaluation_file.is_file():
        show_evaluation(json.loads(run.evaluation_file.read_text(encoding="utf-8")), console)
    elif summary.get("final_accuracy") is not None:
        controls = [
            f"with {words} {summary[key]:.1%}, "
            for words, key in (("silence", "silence_accuracy"), ("shuffled clips", "shuffled_accuracy"))
            if summary[key] is not None
        ]
        baseline, failed = summary["baseline_accuracy"], summary.get("evaluation_failed")
        before = "unknown" if baseline is None else f"{baseline:.1%}"
        counted = f" ({failed} of them could not be asked and count as wrong)" if failed else ""
        console.print(
            f"Accuracy on {summary['evaluation_questions']} held-out questions{counted}: "
            f"{before} before, [bold]{summary['final_accuracy']:.1%}[/bold] after "
            f"{summary['steps']} steps; {''.join(controls)}by chance {summary['chance_accuracy']:.1%}."
        )
    elif summary.get("evaluation_failed"):
        console.print("The last evaluation has no accuracy: no question could be asked; events.jsonl has the reasons.")
    show(console, f"Report: {run.report_file.resolve()}")
