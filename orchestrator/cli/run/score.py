"""`earshot score` and `earshot compare`: figures from predictions, without a model."""

from pathlib import Path
from typing import Annotated

import typer

from audio_qa.dataset import DatasetError
from audio_qa.formats.item import Answers
from audio_qa.scoring.rules import rule_of
from audio_qa.scoring.submission import read_predictions
from orchestrator.cli.options import LARGEST_SEED, Json
from orchestrator.cli.question_file import AudioRoot, Column, Format, data_section
from orchestrator.cli.results import print_result, show_comparison, show_scores
from orchestrator.evaluation.compare import compare_results, read_result
from orchestrator.evaluation.scores import scored_predictions
from orchestrator.questions.splits import read_split

Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the bootstrap for the confidence intervals.")]


def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="Predictions, in the format of the benchmark.")
    ],
    data: Annotated[str, typer.Option(help="Question file that the predictions are for.")],
    format: Format = "auto",
    column: Column = None,
    audio_root: AudioRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Score a file of predictions by the rule of its benchmark.

    A stricter count is shown as well. The clips are not needed. Predictions for items that are not asked, such as those
    with open answers, are counted and do not matter.
    """
    section = data_section(data, format, column or [], audio_root)
    found = read_split(section, "train", check_audio=False, answers=Answers.OPTIONAL)
    found.accepted()
    if not found.labelled:
        raise DatasetError(
            f"{found.source.location!r}: has no answers to score predictions by; name the file with the answers, or "
            "submit the predictions to the benchmark"
        )
    predicted = read_predictions(predictions, found, rule_of(found.source.format))
    result = {"model": str(predictions)} | scored_predictions(found, predicted.by_question, seed=seed)
    print_result(result | {"predictions_left_out": dict(predicted.left_out)}, as_json, show_scores)


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="FIRST", help="Output of `earshot evaluate --json` or `earshot score --json`.")
    ],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Another such result, on the same questions.")],
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compare two results, question by question.

    Shows the difference in accuracy with its confidence interval and p-value.
    """
    result = compare_results(read_result(first), read_result(second), seed=seed)
    print_result(result, as_json, show_comparison)
