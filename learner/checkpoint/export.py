"""Write Hugging Face checkpoints that transformers and vLLM both load: canonical names, adapters merged."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, ProcessorMixin

from audio_qa.model_folder.weights import INDEX, SINGLE
from audio_qa.whole_file import whole_folder
from learner.families.family import Family
from learner.model.tensor_file import write_tensors
from learner.model.weights import Weight, weights_of


def write_checkpoint(
    folder: Path,
    family: Family,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write an unsharded model that was made here, and its processor, to `folder`, atomically.

    `extra` holds further text files by name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as work:
        family.config(model).save_pretrained(work)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(work)
        processor.save_pretrained(work)
        write_shard(work, {w.name: w.value().cpu() for w in weights_of(family, model)}, rank=0, ranks=1)
        for name, text in (extra or {}).items():
            (work / name).write_text(text)
        if folder.exists():
            shutil.rmtree(folder)


def shard_name(rank: int, ranks: int) -> str:
    """Return the file name of a rank's share of the weights."""
    return SINGLE if ranks == 1 else f"model-{rank + 1:05d}-of-{ranks:05d}.safetensors"


def write_shard(folder: Path, tensors: Mapping[str, torch.Tensor], *, rank: int, ranks: int) -> None:
    """Write one rank's weights. Tensors that share storage are copied, because safetensors refuses them."""
    copies = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    write_tensors(folder / shard_name(rank, ranks), copies, metadata={"format": "pt"})


def write_index(folder: Path, owners: Mapping[str, int], weights: Sequence[Weight], ranks: int) -> None:
    """Write the index of which file holds which weight, if there is more than one file."""
    if ranks == 1:
        return
    index = {
        "metadata": {"total_size": sum(weight.nbytes for weight in weights)},
        "weight_map": {name: shard_name(rank, ranks) for name, rank in sorted(owners.items())},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
