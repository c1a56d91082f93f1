"""Weights & Biases: one W&B run for one run directory, with any number of drivers."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import wandb

from orchestrator.job.sections.tracking import WandbSettings


class WeightsAndBiases:
    """See Tracker. Steps that are done again are not replaced: the first values stay."""

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
        # Its service process continues to write after that: wait for it.
        wandb.teardown()
