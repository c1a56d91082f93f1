"""Types of numbers in engines and learner: where they differ and nothing corrects for it, a job's plan says so."""

from typing import Any, get_args

from audio_qa.families import read_config
from learner.losses.settings import CorrectionLevel
from learner.settings import LearnerSettings
from orchestrator.job.sections.engine import engine_dtype
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import PLACEHOLDER_PREFIX, JobSpec, Method

_LEARNER_TYPES = get_args(LearnerSettings.model_fields["dtype"].annotation)
_DOWNCAST = "bfloat16"
"""The type in which vLLM loads float32 files on a GPU, unless it is told another."""


def precision_warnings(spec: JobSpec) -> list[str]:
    """Return a warning if engines sample in another type than the learner computes in, uncorrected."""
    if spec.method is not Method.REINFORCE or spec.learner.loss.correction.level is not CorrectionLevel.NONE:
        return []
    engine, learner = _engine_type(spec), spec.learner.dtype
    if engine == learner:
        return []
    of_learner = f"learner.dtype to {engine}, or " if engine in _LEARNER_TYPES else ""
    return [
        f"the engines compute in {engine} and the learner in {learner}, and learner.loss.correction.level none does "
        f"not correct for the difference: set the level to token or sequence, or {of_learner}rollout.engine.dtype to "
        f"{learner}"
    ]


def _engine_type(spec: JobSpec) -> str:
    chosen = engine_dtype(spec.rollout, spec.learner.dtype)
    if chosen != "auto":
        return chosen
    stored = _stored_type(spec.model.path)
    return _DOWNCAST if stored == "float32" else stored


def _stored_type(path: str) -> str:
    """Return the type that a model's configuration names, as vLLM looks for it; the published models have bfloat16."""
    if path in TINY_MODELS:
        return "float32"
    if path.startswith(PLACEHOLDER_PREFIX):
        return "bfloat16"
    config = read_config(path)
    thinker = _section(config, "thinker_config")
    for section in (config, thinker, _section(config, "text_config"), _section(thinker, "text_config")):
        for key in ("dtype", "torch_dtype"):
            if isinstance(section.get(key), str):
                return str(section[key]).removeprefix("torch.")
    return "float32"


def _section(config: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a section of a configuration; empty if there is none, or `null`."""
    found = config.get(key)
    return found if isinstance(found, dict) else {}
