"""The names in a checkpoint: the learner's ranks write its files, and the orchestrator finds and stores checkpoints.

The checkpoint of learner step N is the folder `checkpoints/step-N` of a run. It holds the model in the format of
Hugging Face, and in `training_state` what training needs to continue: the ranks' files, and the job's own state.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from audio_qa.model_folder.documents import TOKENIZER_FILES

CHECKPOINTS_FOLDER = "checkpoints"
"""In a run directory, and in the storage of a run."""
STATE_FOLDER = "training_state"
JOB_FILE = "job.json"
"""State of the job, in the state folder. Written by the orchestrator, last of all files."""
LEARNER_FILE = "learner.json"
"""Counters of the learner, in the state folder. Written by rank 0."""
RANK_FILES = "rank-*.safetensors"
"""Pattern of the ranks' files in the state folder."""
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
KEPT_FILES = (
    GENERATION_CONFIG,
    *TOKENIZER_FILES,
    "additional_chat_templates/*",
    "*preprocessor_config.json",
    "processor_config.json",
)
"""Patterns of the files of a model folder that training does not change: a checkpoint has the same bytes."""
_STEP = re.compile(r"step-(\d+)")


def step_folder(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step-{step}"


def step_of(name: str) -> int | None:
    """Return the step whose checkpoint a folder of this name is; None for any other name."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def rank_file(rank: int) -> str:
    """Return the name of a rank's file in the state folder."""
    return RANK_FILES.replace("*", str(rank))


def kept_files(model_folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and path of the files of a model folder that its checkpoints take over unchanged, sorted."""
    found = {path for pattern in KEPT_FILES for path in model_folder.glob(pattern) if path.is_file()}
    for path in sorted(found):
        yield path.relative_to(model_folder).as_posix(), path
