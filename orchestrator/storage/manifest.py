"""The manifest of a stored checkpoint, written after all its files: checkpoints without a manifest are ignored."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from audio_qa.errors import shown
from orchestrator.run.copies import Files
from orchestrator.run.records import json_text

NAME = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of one step's checkpoint."""

    step: int
    accuracy: float | None
    """On held-out questions, if the step was evaluated. It decides which checkpoint is the best."""
    files: Files
    """By name in the checkpoint's folder."""
    logs: Files
    """By name in the run directory: the beginning of a growing file that belongs to the checkpoint."""

    @property
    def bytes(self) -> int:
        """Total size of the checkpoint's files."""
        return sum(size for size, _ in self.files.values())

    def text(self) -> str:
        """Return the manifest as JSON."""
        value = {"format": _FORMAT, "step": self.step, "accuracy": self.accuracy}
        return json_text(value | {"files": self.files, "logs": self.logs}, indent=1) + "\n"


def parse(text: bytes) -> Manifest:
    """Parse the text of a manifest. Raises ValueError if it is malformed, or names a file outside the folder."""
    try:
        value = json.loads(text)
        if value["format"] != _FORMAT:
            raise ValueError(f"its format is {shown(value['format'])}, but only {_FORMAT} is supported")
        accuracy = value["accuracy"]
        return Manifest(
            int(value["step"]),
            None if accuracy is None else float(accuracy),
            _files(value["files"]),
            _files(value["logs"]),
        )
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"it is not a manifest ({type(error).__name__}: {error})") from error


def _files(value: Mapping[str, tuple[int, str]]) -> Files:
    for name in value:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"it names {shown(name)}, which is not a file in its folder")
    return {name: (int(size), str(digest)) for name, (size, digest) in value.items()}
