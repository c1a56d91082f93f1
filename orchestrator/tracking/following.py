"""Carries a run's metrics from its file to the trackers, beside the loop that writes them.

Invariants: a tracker never makes the job wait, nor fail: one that raises is left out from then on, and an event
says so. What a resumed or recovered run does again is logged again.
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
from orchestrator.run.lines import PlaceError, lines_after, size_of
from orchestrator.tracking.tracker import Tracker

_POLL_SECONDS = 2.0
_CLOSE_SECONDS = 60.0
_NEEDS = {"wandb": "wandb", "mlflow": "mlflow"}

Make = Callable[[], Tracker]


def check_tracking(spec: JobSpec) -> None:
    """Raise SpecError for a tracker that is asked for and not installed."""
    for section, module in _NEEDS.items():
        if getattr(spec.tracking, section) is not None and importlib.util.find_spec(module) is None:
            raise SpecError(f"tracking.{section}: {module} is not installed here; install earshot[trackers]")


def trackers_of(spec: JobSpec, run_dir: Path) -> dict[str, Make]:
    """How to make each tracker of a job, by name: TensorBoard first, since it is written from the first step."""

    def tensorboard() -> Tracker:
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


class Following:
    """One run's trackers. Its methods block: it is used from a thread, one call at a time."""

    def __init__(self, run: RunDirectory, makes: Mapping[str, Make]) -> None:
        self._run, self._path = run, run.path / "metrics.jsonl"
        # What an earlier driver logged elsewhere is not logged twice.
        self._places = {name: 0 if name == "tensorboard" else size_of(self._path) for name in makes}
        self._makes = dict(makes)
        self._trackers: dict[str, Tracker] = {}

    def look(self) -> None:
        """Log what is new."""
        for name in tuple(self._makes):
            self._guarded(name, lambda name=name: self._carry(name))  # type: ignore[misc]

    def close(self) -> None:
        """Log what is left, and close the trackers."""
        self.look()
        for name, tracker in tuple(self._trackers.items()):
            self._guarded(name, tracker.close)

    def _carry(self, name: str) -> None:
        if name not in self._trackers:
            self._trackers[name] = self._makes[name]()
        tracker, place = self._trackers[name], self._places[name]
        if size_of(self._path) < place:
            # The run went back to a checkpoint: TensorBoard gets all of it again, the others what is new.
            place = 0 if name == "tensorboard" else size_of(self._path)
        for line in self._lines(place):
            record: dict[str, Any] = json.loads(line.text)
            step = int(record.pop("step"))
            tracker.log(step, {n: v for n, v in record.items() if isinstance(v, int | float) and math.isfinite(v)})
            place = line.end
        self._places[name] = place

    def _lines(self, place: int) -> list[Any]:
        try:
            return lines_after(self._path, place, limit=100_000)
        except PlaceError:
            return []

    def _guarded(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a tool of somebody else's raises, the job is worth more
            self._makes.pop(name, None)
            self._trackers.pop(name, None)
            self._run.append_event("tracker_failed", tracker=name, cause=f"{type(error).__name__}: {error}"[:1000])


async def follow(run: RunDirectory, spec: JobSpec) -> None:
    """Carry metrics until cancelled; then carry the rest, for a minute at most."""
    following = Following(run, trackers_of(spec, run.path))
    looking: asyncio.Future[None] | None = None
    try:
        while True:
            looking = asyncio.ensure_future(asyncio.to_thread(following.look))
            await asyncio.shield(looking)
            await asyncio.sleep(_POLL_SECONDS)
    except asyncio.CancelledError:
        if looking is not None:
            await asyncio.wait([looking], timeout=_CLOSE_SECONDS)
        closing = asyncio.ensure_future(asyncio.to_thread(following.close))
        done, _ = await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
        if not done:
            run.append_event("tracker_failed", tracker="all", cause=f"did not close within {_CLOSE_SECONDS:.0f} s")
        raise
