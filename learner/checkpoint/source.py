"""The files of a checkpoint that training does not change: taken over from the folder that the model was loaded from.

transformers would write them anew in its own form, which it refuses for values that it reads without complaint, such as
a temperature beside `do_sample: false`. They are read when the model is loaded: the folder may be gone when the job
ends, or hold another model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from audio_qa.families import read_config
from learner.families.family import Family
from protocol.checkpoint import CONFIG, kept_files

_DTYPE_KEYS = ("dtype", "torch_dtype")
"""Keys of the weights' type: transformers writes the first since version 5, and reads both."""


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The configuration of a model folder, and its unchanged files."""

    config: Mapping[str, Any]
    """Content of config.json."""
    kept: Mapping[str, bytes]
    """Content of every other file by name: generation configuration, tokenizer, chat templates, processor."""

    @classmethod
    def read(cls, folder: str) -> "SourceFiles":
        """Read the files of a model folder, links included. Raises OSError."""
        return cls(read_config(folder), {name: path.read_bytes() for name, path in kept_files(Path(folder))})

    def write(self, folder: Path, family: Family, model: PreTrainedModel) -> None:
        """Write everything of a model's checkpoint but its weights to a folder."""
        for name, content in self.kept.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        config = _with_dtype(dict(self.config), str(model.dtype).removeprefix("torch."))
        family.update_config(config, model)
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the configuration of a model and its parts with the type of the weights as they are written."""

    def replaced(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: dtype if k in _DTYPE_KEYS and isinstance(v, str) else replaced(v) for k, v in value.items()}

    result: dict[str, Any] = replaced(config)
    if not any(isinstance(result.get(key), str) for key in _DTYPE_KEYS):
        result[_DTYPE_KEYS[0]] = dtype
    return result
