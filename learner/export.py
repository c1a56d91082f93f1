"""Writes a Hugging Face checkpoint that transformers and vLLM both load."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, ProcessorMixin

from learner.names import named_canonical


def canonical_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """All parameters by canonical name, detached, contiguous, on the CPU."""
    return {name: p.detach().to("cpu").contiguous() for name, p in named_canonical(model)}


def write_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    state: Mapping[str, torch.Tensor] | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write model and processor to `folder`, whole or not at all.

    `state` gives the parameters where the model at hand does not hold them whole (ZeRO-3). Tensors that share storage
    are copied: safetensors would refuse them. `extra` holds further text files by name.
    """
    tensors = canonical_state(model) if state is None else dict(state)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_file({k: v.clone() for k, v in tensors.items()}, work / "model.safetensors", metadata={"format": "pt"})
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(work)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(work)
        processor.save_pretrained(work)
        for name, text in (extra or {}).items():
            (work / name).write_text(text)
        work.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
