"""The model's weights in their published form: canonical names, adapters merged, sharded or not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from learner.families.family import Family, Slice
from learner.model.lora import ADAPTER


def numel(parameter: nn.Parameter) -> int:
    """Return the size of a full parameter. Under ZeRO-3 its storage is empty; DeepSpeed records the full size."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of a checkpoint."""

    name: str
    """Canonical name, which transformers and vLLM both load."""
    parameters: tuple[nn.Parameter, ...]
    """Parameters to gather in order to compute it: the parameter, or those of base layer, lora_A and lora_B."""
    scaling: float = 0.0
    """Factor of the adapter's product."""
    part: Slice = ()
    """The part of the first parameter that this tensor is."""

    @property
    def trainable(self) -> bool:
        return any(p.requires_grad for p in self.parameters)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the full tensor, also if it is sharded."""
        base = self.parameters[0]
        full: Sequence[int] = getattr(base, "ds_shape", base.shape)
        kept = [len(range(*at.indices(n))) for n, at in zip(full, self.part, strict=False) if isinstance(at, slice)]
        return (*kept, *full[len(self.part) :])

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.parameters[0].element_size()

    def value(self) -> torch.Tensor:
        """Return the tensor, detached, on its device. Its parameters must be gathered."""
        base, *adapter = (p.detach() for p in self.parameters)
        if not adapter:
            return base[self.part] if self.part else base
        down, up = adapter
        return (base.float() + self.scaling * (up.float() @ down.float())).to(base.dtype)


def weights_of(family: Family, model: PreTrainedModel) -> list[Weight]:
    """Return every weight of a model: its parameters in the module's order, then its buffers."""
    adapted: dict[str, nn.Module] = {
        f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    found = []
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        layer = adapted.get(plain)
        canonical = family.canonical_name(plain)
        if layer is None:
            stored = family.stored(canonical, getattr(parameter, "ds_shape", parameter.shape))
            found += [Weight(name, (parameter,), part=part) for name, part in stored]
        else:
            factors = (layer.get_parameter(f"lora_{side}.{ADAPTER}.weight") for side in "AB")
            scaling: Any = layer.scaling
            found.append(Weight(canonical, (parameter, *factors), scaling[ADAPTER]))
    # Statistics of batch normalisations, which a checkpoint has and training does not change.
    return [*found, *(Weight(family.canonical_name(name), (cast(nn.Parameter, b),)) for name, b in _buffers(model))]


def _buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the buffers that belong to the model's state."""
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}", buffer


def in_buckets(weights: Sequence[Weight], limit_bytes: int) -> Iterator[list[Weight]]:
    """Yield the weights in order, in buckets of at most `limit_bytes`, or of one parameter if that is larger.

    Weights that are parts of one parameter stay together, since any of them needs the whole parameter to be gathered.
    """
    bucket: list[Weight] = []
    size = 0
    for weight in weights:
        together = bucket and bucket[-1].parameters[0] is weight.parameters[0]
        if bucket and not together and size + weight.nbytes > limit_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append(weight)
        size += weight.nbytes
    if bucket:
        yield bucket
