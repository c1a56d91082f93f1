"""What a stored checkpoint consists of. Written behind all its files: a checkpoint without a manifest is none."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from orchestrator.run.copies import Files
from orchestrator.run.records import json_text

NAME = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """Of one step's checkpoint."""

    step: int
    accuracy: float | None
    """On held-out questions, where the step was evaluated: which checkpoint is the best."""
    files: Files
    """By name in the checkpoint's folder."""
    logs: Files
    """By name in the run directory: the beginning of a growing file that the checkpoint counts on."""

    @property
    def bytes(self) -> int:
        """Of the checkpoint's files together."""
        return sum(size for size, _ in self.files.values())

    def text(self) -> str:
        """As JSON."""
        value = {"format": _FORMAT, "step": self.step, "accuracy": self.accuracy}
        return json_text(value | {"files": self.files, "logs": self.logs}, indent=1) + "\n"


def parse(text: bytes) -> Manifest:
    """What `text` wrote. Raises ValueError for anything else, names that lead out of the folder included."""
    try:
        value = json.loads(text)
        if value["format"] != _FORMAT:
            raise ValueError(f"it is of format {value['format']!r}, and {_FORMAT} is known here")
        accuracy = value["accuracy"]
        return Manifest(
            int(value["step"]),
            None if accuracy is None else float(accuracy),
            _files(value["files"]),
            _files(value["logs"]),
        )
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no manifest ({type(error).__name__}: {error})") from error


def _files(value: Mapping[str, tuple[int, str]]) -> Files:
    for name in value:
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or not place.parts:
            raise ValueError(f"it names {name!r}, which is no file in its folder")
    return {name: (int(size), str(digest)) for name, (size, digest) in value.items()}
