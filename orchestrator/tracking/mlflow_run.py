"""MLflow: one MLflow run for each driver of a run directory, all with the same name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from orchestrator.job.sections.tracking import MlflowSettings

_LONGEST_PARAMETER = 6000


class MlflowRun:
    """See Tracker. Steps that are done again are logged twice, the later value last."""

    name = "mlflow"

    def __init__(self, run_dir: Path, settings: MlflowSettings, name: str, config: Mapping[str, Any]) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(run_dir / 'mlflow.db').resolve()}"
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(settings.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(settings.experiment)
        run = self._client.create_run(experiment, run_name=name, tags={"run_dir": str(run_dir.resolve())})
        self._id = run.info.run_id
        for key, value in _flat(config):
            self._client.log_param(self._id, key, str(value)[:_LONGEST_PARAMETER])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See Tracker."""
        rows = [Metric(name, value, 0, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=rows, synchronous=True)

    def close(self) -> None:
        """See Tracker."""
        self._client.set_terminated(self._id)


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return `{"a": {"b": 1}}` as pairs of `a.b` and 1."""
    pairs: list[tuple[str, Any]] = []
    for key, value in config.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs
