"""Write safetensors files: whole or not at all, and readable by whoever may read an ordinary new file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from audio_qa.whole_file import whole_path


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous tensors that share no storage. Several processes may write the same file at once."""
    with whole_path(path) as temporary:
        # The library makes a file of its own there, for the owner only.
        save_file(dict(tensors), temporary, metadata=metadata)
