"""Write Hugging Face checkpoints that transformers and vLLM both load: canonical names, adapters merged."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, ProcessorMixin

from learner.families.family import Family
from learner.model.weights import Weight, weights_of

_INDEX = "model.safetensors.index.json"


def write_checkpoint(
    folder: Path,
    family: Family,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write an unsharded model and its processor to `folder`, atomically.

    `extra` holds further text files by name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_description(work, family, model, processor)
        write_shard(work, {w.name: w.value().cpu() for w in weights_of(family, model)}, rank=0, ranks=1)
        for name, text in (extra or {}).items():
            (work / name).write_text(text)
        work.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_description(folder: Path, family: Family, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Write the configuration and the processor: everything in a checkpoint but its weights."""
    family.config(model).save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)


def shard_name(rank: int, ranks: int) -> str:
    """Return the file name of a rank's share of the weights."""
    return "model.safetensors" if ranks == 1 else f"model-{rank + 1:05d}-of-{ranks:05d}.safetensors"


def write_shard(folder: Path, tensors: Mapping[str, torch.Tensor], *, rank: int, ranks: int) -> None:
    """Write one rank's weights. Tensors that share storage are copied, because safetensors refuses them."""
    copies = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    save_file(copies, folder / shard_name(rank, ranks), metadata={"format": "pt"})


def write_index(folder: Path, owners: Mapping[str, int], weights: Sequence[Weight], ranks: int) -> None:
    """Write the index of which file holds which weight, if there is more than one file."""
    if ranks == 1:
        return
    index = {
        "metadata": {"total_size": sum(weight.nbytes for weight in weights)},
        "weight_map": {name: shard_name(rank, ranks) for name, rank in sorted(owners.items())},
    }
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")
