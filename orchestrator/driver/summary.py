"""The result of a job as one JSON object."""

from typing import Any

from orchestrator.preflight.prepare import Prepared
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.history import history_of
from orchestrator.training.state import RunState


def summarise(prepared: Prepared, run: RunDirectory, outcome: str, state: RunState, seconds: float) -> dict[str, Any]:
    """Return the summary of a run, for `summary.json`.

    Args:
        outcome: the last state of the job.
        seconds: duration of the job.
    """
    spec = prepared.spec
    summary: dict[str, Any] = {"name": spec.name, "state": outcome, "seed": spec.seed}
    best = checkpoints_of(run, spec).best()
    evaluations = run.evaluations()
    if evaluations:
        (_, baseline), (last, final) = evaluations[0], evaluations[-1]
        summary |= {
            "baseline_accuracy": baseline["accuracy"],
            # None if the job ended before the evaluation after its last step.
            "final_accuracy": final["accuracy"] if last == spec.steps else None,
            "silence_accuracy": final["silence_accuracy"],
            # Missing in a run that an earlier version of Earshot started.
            "shuffled_accuracy": final.get("shuffled_accuracy"),
            "chance_accuracy": final["chance_accuracy"],
            "evaluation_questions": final["count"],
            "evaluation_failed": final.get("failed"),
        }
    return summary | {
        "steps": len(run.metrics()),
        "seconds": round(seconds, 1),
        "base_seconds": prepared.base_seconds,
        "base_cached": prepared.base_cached,
        "restarts": history_of(run.events()).recoveries,
        "questions": state.ledger.counts(),
        "best_checkpoint": None if best is None else str(checkpoints_of(run, spec).folder(best).resolve()),
        "run_dir": str(run.path.resolve()),
        **({} if spec.storage is None else {"stored_at": f"{spec.storage}/{run.path.name}"}),
    }
