"""The record of an evaluation in its run: figures, completions, questions that could not be asked, truncated clips."""

from orchestrator.display.progress import Progress
from orchestrator.evaluation.completions import evaluated_samples
from orchestrator.evaluation.evaluate import Evaluation
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind


def record_evaluation(run: RunDirectory, progress: Progress, step: int, result: Evaluation) -> None:
    """Write the completions and the events of an evaluation, and show it."""
    run.append_evaluated(list(evaluated_samples(result, step)))
    for failed in result.unasked():
        run.append_event(
            EventKind.FAILED_QUESTION,
            step=step,
            question=failed.question.key,
            reason=failed.reason,
            detail=failed.detail,
            evaluation=True,
            control=failed.control,
        )
    for question, seconds in result.truncated_clips():
        run.append_event(EventKind.TRUNCATED_CLIP, step=step, question=question.key, seconds=seconds, evaluation=True)
    figures = result.as_event()
    run.append_event(EventKind.EVALUATION, step=step, result=figures)
    progress.evaluation(step, figures)
    show_problem(progress, result)


def show_problem(progress: Progress, result: Evaluation) -> None:
    """Show that questions could not be asked, or clips were truncated, if so."""
    problem = result.problem()
    if problem is not None:
        progress.message(problem)
