"""`earshot data check` and `earshot data filter`: questions and their clips, before a job uses them."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from audio_qa.files.clips import ClipCheck
from orchestrator.cli.data.tables import show_check, show_filtered
from orchestrator.cli.foreground import at_work
from orchestrator.cli.job_file import is_job_file, read_job
from orchestrator.cli.options import LARGEST_COUNT, MOST_GPUS, Json, finite, part_or_whole
from orchestrator.cli.outcome import UnsuccessfulError, interrupted
from orchestrator.cli.question_file import AudioRoot, Column, Format, column_mapping, data_section
from orchestrator.cli.results import print_result
from orchestrator.display.progress import make_progress, reporter, slow_reporter
from orchestrator.driver.silence_filter import check_output, check_writable, filter_by_silence
from orchestrator.job.demand import gpus_of_engine, shares_gpus
from orchestrator.job.sections.data import DataFormat
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, parse_spec, resolve_paths
from orchestrator.preflight.clip_lengths import PUBLISHED_LENGTHS, clip_lengths
from orchestrator.preflight.data_check import check_file, check_job
from orchestrator.preflight.model_folder import context_for
from orchestrator.preflight.prepare import prepare
from orchestrator.run.exit_codes import BAD_INPUT
from protocol.weights import Carrier

Source = Annotated[
    str,
    typer.Argument(metavar="SPEC", help="Job file, or question file: a path, a URL, or hf:OWNER/NAME#SPLIT."),
]

data = typer.Typer(add_completion=False, help="Check and filter questions and their clips.")


@data.command()
def check(
    spec: Source,
    format: Format = "auto",
    column: Column = None,
    audio_root: AudioRoot = None,
    max_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            max=LARGEST_COUNT,
            callback=finite,
            help="Longest clip allowed in a question file, in seconds; 0 for the models' limit.",
        ),
    ] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint folder of the model that will hear the clips of a question file: sets the least and the "
            "greatest length. Default: those of the published models."
        ),
    ] = None,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode",
            help="Decode every clip to its end, on all cores, to find damage within the sound. Otherwise only clips "
            "whose header cannot be trusted are decoded. Clips that have not changed are not decoded again.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List every problem of the questions and their clips, and their statistics.

    Exits with 2 if a job would refuse the questions. What a check found out about clips is remembered in the cache
    folder, also for jobs.
    """
    with interrupted("clips that were checked are remembered"), make_progress("plain") as progress:
        how = ClipCheck(decode, reporter(progress) if decode else slow_reporter(progress))
        if is_job_file(spec):
            if model is not None:
                raise SpecError("--model: the job file names the model; leave one of them out")
            found = check_job(read_job(Path(spec)), how)
        else:
            section = data_section(spec, format, column or [], audio_root)
            lengths = PUBLISHED_LENGTHS if model is None else clip_lengths(model)
            if max_seconds:
                lengths = replace(lengths, longest_seconds=max_seconds)
            found = check_file(section, lengths, how)

    def show(_: dict[str, Any], console: Console) -> None:
        show_check(found, console)

    print_result(found.as_json(), as_json, show)
    if found.refused:
        raise typer.Exit(BAD_INPUT)


@data.command()
def filter(
    spec: Source,
    output: Annotated[Path, typer.Option(help="Question file to write, in Earshot's own schema.")],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint folder of the model to ask; required if SPEC is a question file.")
    ] = None,
    format: Format = "auto",
    column: Column = None,
    audio_root: AudioRoot = None,
    samples: Annotated[int, typer.Option(min=1, max=4096, help="Completions for each question.")] = 8,
    threshold: Annotated[
        float,
        typer.Option(
            min=0.01, max=1, callback=finite, help="Remove questions with at least this share of correct answers."
        ),
    ] = 0.75,
    temperature: Annotated[float, typer.Option(min=0.01, max=100, callback=finite, help="Sampling temperature.")] = 1,
    max_tokens: Annotated[
        int,
        typer.Option(min=1, max=2**20, help="Longest completion, if SPEC is a question file; a job file has its own."),
    ] = 64,
    gpus: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MOST_GPUS,
            callback=part_or_whole,
            help="GPUs for each rollout worker. Default: the job file's, or 0 for the CPU.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove the questions that a model answers correctly without the audio.

    Each question is asked with silence in place of its clip. A job file provides its training questions and its model.
    The removed questions are listed in a second file, OUTPUT with the suffix .dropped.jsonl.
    """
    job = filter_job(spec, model, format, column or [], audio_root, max_tokens, gpus)
    check_output(job, output)
    with at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = prepare(job, reporter(progress))
        check_writable(output, prepared.train)
        result = filter_by_silence(
            prepared, progress, output, samples=samples, threshold=threshold, temperature=temperature
        )
    print_result(result, as_json, show_filtered)
    if result["output"] is None:
        raise UnsuccessfulError("every question is answered without its clip: nothing was written")


def filter_job(
    location: str,
    model: str | None,
    format: DataFormat,
    columns: list[str],
    audio_root: str | None,
    max_tokens: int,
    gpus: float | None,
) -> JobSpec:
    """Return the job whose training questions are asked. Raises SpecError."""
    if is_job_file(location):
        if model is not None:
            raise SpecError("--model: the job file names the model; leave one of them out")
        job = read_job(Path(location))
        if gpus is None and not shares_gpus(job):
            return job
        # Here no learner has the rest of each worker's GPU.
        own = {**gpus_of_engine(1 if gpus is None else gpus), "weight_sync": Carrier.SHARED_MEMORY}
        return job.model_copy(update={"rollout": job.rollout.model_copy(update=own)})
    if model is None:
        raise SpecError("--model: name the model to ask, a checkpoint's folder, or give a job file instead")
    value = {
        "name": "filter",
        "model": {"path": model, "max_context": context_for(model)},
        "data": {"train": location, "format": format, "columns": column_mapping(columns), "audio_root": audio_root},
        "rollout": {"max_tokens": max_tokens} | gpus_of_engine(gpus or 0),
    }
    return resolve_paths(parse_spec(value, "filter"), Path.cwd())
