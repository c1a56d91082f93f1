"""`earshot evaluate`: accuracy and scores of a model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from audio_qa.errors import InputError, shown
from audio_qa.files.remote import is_url
from audio_qa.formats.question_set import QuestionSet
from audio_qa.prompt import PromptTemplate
from audio_qa.scoring.rules import rule_of
from audio_qa.scoring.submission import check_predictions, check_submission
from orchestrator.cli.foreground import at_work
from orchestrator.cli.options import LARGEST_COUNT, LARGEST_SEED, MOST_GPUS, Json, finite, part_or_whole
from orchestrator.cli.question_file import AudioRoot, Column, Format, check_questions, column_mapping
from orchestrator.cli.results import print_result, show_evaluation
from orchestrator.display.progress import make_progress, reporter
from orchestrator.driver.evaluation import evaluate_model, evaluation_result, write_predictions_of
from orchestrator.driver.run_storage import storage_checked
from orchestrator.driver.session import failing_after_start
from orchestrator.job.demand import gpus_of_engine
from orchestrator.job.sections.evaluation import AudioControl
from orchestrator.job.spec import Method
from orchestrator.job.spec_file import parse_spec, resolve_paths
from orchestrator.places import cache_directory
from orchestrator.preflight.model_folder import context_for
from orchestrator.preflight.prepare import prepare
from orchestrator.schemas.api import MOST_WORKERS
from orchestrator.storage.stored_model import fetch_model


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Checkpoint: checkpoints/step-N of a run, its URL in a storage, or a model folder."
        ),
    ],
    data: Annotated[
        str, typer.Option(help="Questions: a question file, its URL, hf:OWNER/NAME#SPLIT, or builtin:synthetic.")
    ] = "builtin:synthetic",
    format: Format = "auto",
    column: Column = None,
    audio_root: AudioRoot = None,
    prompt: Annotated[PromptTemplate, typer.Option(help="Prompt 1, 2 or 3 of the paper.")] = PromptTemplate.ANSWER,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=LARGEST_SEED,
            help="Seed of builtin:synthetic, sampling, shuffled clips and confidence intervals.",
        ),
    ] = 0,
    questions: Annotated[int, typer.Option(min=0, max=LARGEST_COUNT, help="Number of questions; 0 for all.")] = 0,
    workers: Annotated[
        int, typer.Option(min=1, max=MOST_WORKERS, help="Number of rollout workers, each with a vLLM engine.")
    ] = 1,
    gpus: Annotated[
        float,
        typer.Option(
            min=0,
            max=MOST_GPUS,
            callback=part_or_whole,
            help="GPUs for each rollout worker; several share its model.",
        ),
    ] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, max=2**20, help="Longest completion, in tokens.")] = 64,
    max_context: Annotated[
        int,
        typer.Option(
            min=0, max=2**20, help="Longest prompt plus completion, in tokens; 0 for the model's context, up to 2048."
        ),
    ] = 0,
    too_long: Annotated[
        Literal["refuse", "truncate"], typer.Option(help="Clips longer than the model can take: refuse or truncate.")
    ] = "refuse",
    samples: Annotated[
        int,
        typer.Option(min=1, max=4096, help="Completions for each question; of several, the majority answer counts."),
    ] = 1,
    temperature: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            callback=finite,
            help="Sampling temperature; 0 is greedy. Must be above 0 with several samples.",
        ),
    ] = 0,
    controls: Annotated[
        str, typer.Option(help="Controls to run in addition: silence, shuffled; '' for neither.")
    ] = "silence,shuffled",
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Write the predictions to this file, in the format of the benchmark. Required without answers."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model with the audio, and with the controls.

    The controls replace each clip with silence or with the clip of another question: they show how much of the accuracy
    does not depend on the audio.
    """
    if samples > 1 and temperature == 0:
        raise InputError("--samples above 1 needs --temperature above 0: greedy completions are all the same")
    check_questions(data)
    columns = column_mapping(column or [])
    folder = model
    if is_url(model):
        with storage_checked():
            folder = str(fetch_model(model, cache_directory() / "stored"))
    value = {
        "name": "evaluate",
        "seed": seed,
        "method": Method.EVALUATE,
        "model": {"path": folder, "max_context": max_context or context_for(folder), "too_long": too_long},
        "data": {"evaluation": data, "prompt": prompt}
        | {"evaluation_format": format, "evaluation_columns": columns, "evaluation_audio_root": audio_root},
        "evaluation": {"questions": questions, "samples": samples, "temperature": temperature}
        | {"controls": _controls(controls)},
        "rollout": {"workers": workers, "max_tokens": max_tokens} | gpus_of_engine(gpus),
    }
    spec = resolve_paths(parse_spec(value, "evaluate"), Path.cwd())
    if predictions is not None:
        check_submission(predictions)
        if predictions.is_file() and Path(data).is_file() and predictions.samefile(data):
            raise InputError(f"--predictions {shown(str(predictions))} is the question file; name another file")
    with at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = prepare(spec, reporter(progress))
        _check_predictions(predictions, data, prepared.held_out_set)
        evaluation = evaluate_model(prepared, progress)
        result = evaluation_result(prepared, evaluation)
    result["model"] = model if is_url(model) else result["model"]
    print_result(result, as_json, show_evaluation)
    # Last: whatever happens to the disk, the result has been printed.
    if predictions is not None:
        with failing_after_start():
            write_predictions_of(prepared, evaluation, predictions)


def _check_predictions(predictions: Path | None, data: str, held_out: QuestionSet | None) -> None:
    """Raise InputError before anything is started if the predictions cannot be written, or there would be no result."""
    if held_out is None:
        return
    if predictions is not None:
        check_predictions(predictions, held_out, rule_of(held_out.source.format))
    elif not held_out.labelled:
        raise InputError(
            f"--data {shown(data)} has no answers, so there is no accuracy to report; name a file for the predictions, "
            "with --predictions"
        )


def _controls(names: str) -> list[AudioControl]:
    """Return the controls of a comma-separated list. Raises InputError."""
    known = {control.value: control for control in AudioControl}
    given = [name.strip() for name in names.split(",") if name.strip()]
    for name in given:
        if name not in known:
            raise InputError(f"--controls: there is no control {shown(name)}; choose from {', '.join(known)}")
    return [known[name] for name in given]
