"""Follows the metrics file of a run while the training loop writes it, and logs its lines to the trackers.

Invariants: a tracker never delays the job or makes it fail: one that raises is not used any more, which is an event.
Steps that a resumed or recovered run does again are logged again.
"""

import asyncio
import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.files import METRICS
from orchestrator.run.lines import LineReader
from orchestrator.tracking.tracker import Tracker

_POLL_SECONDS = 2.0
_CLOSE_SECONDS = 60.0
_NEEDS = {"wandb": "wandb", "mlflow": "mlflow"}

Make = Callable[[], Tracker]


def check_tracking(spec: JobSpec) -> None:
    """Raise SpecError if a tracker in the job file is not installed."""
    for section, module in _NEEDS.items():
        if getattr(spec.tracking, section) is not None and importlib.util.find_spec(module) is None:
            raise SpecError(f"tracking.{section}: {module} is not installed here; install earshot[trackers]")


def trackers_of(spec: JobSpec, run_dir: Path) -> dict[str, Make]:
    """Return constructors of a job's trackers by name. TensorBoard is first, as it is written from the first step."""

    def tensorboard() -> Tracker:
        # tensorboardX imports torch if it is installed, which a check of the job must not wait for.
        from orchestrator.tracking.tensorboard import TensorBoard  # noqa: PLC0415

        return TensorBoard(run_dir)

    makes: dict[str, Make] = {"tensorboard": tensorboard}
    config, tracking = spec.model_dump(mode="json"), spec.tracking
    if (wandb := tracking.wandb) is not None:

        def weights_and_biases() -> Tracker:
            from orchestrator.tracking.weights_and_biases import WeightsAndBiases  # noqa: PLC0415

            return WeightsAndBiases(run_dir, wandb, spec.name, config)

        makes["wandb"] = weights_and_biases
    if (mlflow := tracking.mlflow) is not None:

        def mlflow_run() -> Tracker:
            from orchestrator.tracking.mlflow_run import MlflowRun  # noqa: PLC0415

            return MlflowRun(run_dir, mlflow, spec.name, config)

        makes["mlflow"] = mlflow_run
    return makes


class RunTrackers:
    """The trackers of one run. The methods block: call them from a thread, one at a time."""

    def __init__(self, run: RunDirectory, makes: Mapping[str, Make]) -> None:
        self._run, self._path = run, run.path / METRICS
        # Metrics that an earlier driver logged to other trackers are not logged twice.
        self._readers = {name: self._reader(name) for name in makes}
        self._makes = dict(makes)
        self._trackers: dict[str, Tracker] = {}

    def log_new(self) -> None:
        """Log the new metrics."""
        for name in tuple(self._makes):
            self._attempt(name, lambda name=name: self._log_to(name))  # type: ignore[misc]

    def close(self) -> None:
        """Log the remaining metrics, and close the trackers."""
        self.log_new()
        for name, tracker in tuple(self._trackers.items()):
            self._attempt(name, tracker.close)

    def _log_to(self, name: str) -> None:
        if name not in self._trackers:
            self._trackers[name] = self._makes[name]()
        tracker = self._trackers[name]
        for line in self._readers[name].lines():
            record: dict[str, Any] = json.loads(line)
            step = int(record.pop("step"))
            tracker.log(step, {n: v for n, v in record.items() if isinstance(v, int | float) and math.isfinite(v)})

    def _reader(self, name: str) -> LineReader:
        """Return a reader of all metrics for TensorBoard, which is written from the first step; of new ones for others.

        The same holds after the run rolled back to a checkpoint.
        """
        return LineReader(self._path, from_end=name != "tensorboard")

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # no error of a third-party tool may end the job
            self._makes.pop(name, None)
            self._trackers.pop(name, None)
            self._run.append_event(
                EventKind.TRACKER_FAILED, tracker=name, cause=f"{type(error).__name__}: {error}"[:1000]
            )


async def follow(run: RunDirectory, spec: JobSpec) -> None:
    """Log metrics until cancelled; then the remaining ones, for a minute at most."""
    trackers = RunTrackers(run, trackers_of(spec, run.path))
    log_task: asyncio.Future[None] | None = None
    try:
        while True:
            log_task = asyncio.ensure_future(asyncio.to_thread(trackers.log_new))
            await asyncio.shield(log_task)
            await asyncio.sleep(_POLL_SECONDS)
    except asyncio.CancelledError:
        if log_task is not None:
            await asyncio.wait([log_task], timeout=_CLOSE_SECONDS)
        closing = asyncio.ensure_future(asyncio.to_thread(trackers.close))
        done, _ = await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
        if not done:
            run.append_event(
                EventKind.TRACKER_FAILED, tracker="all", cause=f"did not close within {_CLOSE_SECONDS:.0f} s"
            )
        raise
