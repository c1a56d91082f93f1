"""Read a checkpoint that was just written as others will, and compare it with the model that it was written from."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedModel, ProcessorMixin

from audio_qa.chat import stop_token_ids
from audio_qa.errors import cause_of
from audio_qa.model_folder.weights import INDEX
from learner.checkpoint.checkpoint import SavedState
from learner.checkpoint.export import shard_name
from learner.errors import CheckpointTrialError
from learner.families.family import Family
from learner.families.registry import family_of
from learner.model.loading import load_processor
from learner.model.weights import weights_of
from protocol.checkpoint import GENERATION_CONFIG

_Tensors = dict[str, tuple[tuple[int, ...], str]]
"""Shape of each tensor, and its type in the notation of safetensors."""
_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


def check_checkpoint(
    folder: Path, family: Family, model: PreTrainedModel, processor: ProcessorMixin, stops: tuple[int, ...], ranks: int
) -> None:
    """Raise CheckpointTrialError unless a checkpoint with training state is that of the model.

    Only headers of the weights are read.

    Args:
        processor, stops: of the folder that the model was loaded from.
        ranks: number of files that the weights are in.
    """
    try:
        _check_weights(folder, family, model, ranks)
        SavedState(folder).check(model)
        AutoConfig.from_pretrained(folder)
        again = load_processor(str(folder))
        ends = stop_token_ids(str(folder), again.tokenizer)
    # Each file has a reader of its own, and each reader its own errors.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointTrialError(f"what was written cannot be read: {cause_of(error)}") from error
    if family_of(str(folder)) is not family:
        raise CheckpointTrialError("config.json is that of another model family")
    if ends != stops:
        raise CheckpointTrialError(f"{GENERATION_CONFIG}: generation would end at tokens {ends} instead of {stops}")
    one, other = processor.tokenizer, again.tokenizer
    if one.get_vocab() != other.get_vocab() or one.added_tokens_decoder != other.added_tokens_decoder:
        raise CheckpointTrialError("the tokenizer differs from that of the model folder")
    if processor.chat_template != again.chat_template:
        raise CheckpointTrialError("the chat template differs from that of the model folder")


def _check_weights(folder: Path, family: Family, model: PreTrainedModel, ranks: int) -> None:
    files = {name: dict(_tensors(folder / name)) for name in (shard_name(rank, ranks) for rank in range(ranks))}
    found: _Tensors = {name: entry for tensors in files.values() for name, entry in tensors.items()}
    expected: _Tensors = {w.name: (w.shape, _TYPES[w.parameters[0].dtype]) for w in weights_of(family, model)}
    if sum(map(len, files.values())) != len(expected) or found != expected:
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise CheckpointTrialError(
            f"{len(differing)} of {len(expected)} weights differ in name, shape or type, or are written twice, for "
            f"example {differing[:1]}"
        )
    if ranks > 1:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        if index != {name: file for file, tensors in files.items() for name in tensors}:
            raise CheckpointTrialError(f"{INDEX} does not name the files of all weights")


def _tensors(file: Path) -> Iterator[tuple[str, tuple[tuple[int, ...], str]]]:
    """Yield the tensors of a file by its header. Raises SafetensorError if the file ends too early."""
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - it is not a mapping
            part = opened.get_slice(name)
            yield name, (tuple(part.get_shape()), part.get_dtype())
