"""Weights & Biases: one run there for one run directory, however many drivers it took."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import wandb

from orchestrator.job.sections.tracking import WandbSettings


class WeightsAndBiases:
    """See Tracker. Steps done again are not replaced there: what came first stays."""

    name = "wandb"

    def __init__(self, run_dir: Path, settings: WandbSettings, name: str, config: Mapping[str, Any]) -> None:
        self._run = wandb.init(
            project=settings.project,
            name=name,
            id=sha256(str(run_dir.resolve()).encode()).hexdigest()[:16],
            resume=None if settings.offline else "allow",
            mode="offline" if settings.offline else "online",
            dir=str(run_dir),
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, init_timeout=60),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See Tracker."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See Tracker."""
        self._run.finish()
        # Its own process writes on behind that: this waits for it.
        wandb.teardown()
