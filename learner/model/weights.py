"""The model's weights as others know them: by canonical name, adapters merged, wherever their parts lie."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from learner.families.family import Family
from learner.model.lora import ADAPTER


def numel(parameter: nn.Parameter) -> int:
    """Elements of a whole parameter: under ZeRO-3 its own storage is empty and its full size is noted beside it."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of a checkpoint."""

    name: str
    """Canonical: transformers and vLLM both load it."""
    parameters: tuple[nn.Parameter, ...]
    """What must be whole to work it out: the parameter itself, or a base layer's, lora_A and lora_B."""
    scaling: float = 0.0
    """Of the adapter's product."""

    @property
    def trains(self) -> bool:
        return any(p.requires_grad for p in self.parameters)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor, also where its parts are elsewhere."""
        base = self.parameters[0]
        return tuple(getattr(base, "ds_shape", base.shape))

    @property
    def nbytes(self) -> int:
        return numel(self.parameters[0]) * self.parameters[0].element_size()

    def value(self) -> torch.Tensor:
        """The tensor, detached, on the device it lies on. Its parameters must be whole."""
        base, *adapter = (p.detach() for p in self.parameters)
        if not adapter:
            return base
        down, up = adapter
        return (base.float() + self.scaling * (up.float() @ down.float())).to(base.dtype)


def weights_of(family: Family, model: PreTrainedModel) -> list[Weight]:
    """Every weight of a model, in the module's order."""
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
            found.append(Weight(canonical, (parameter,)))
        else:
            factors = (layer.get_parameter(f"lora_{side}.{ADAPTER}.weight") for side in "AB")
            scaling: Any = layer.scaling
            found.append(Weight(canonical, (parameter, *factors), scaling[ADAPTER]))
    return found


def lots(weights: Sequence[Weight], limit_bytes: int) -> Iterator[list[Weight]]:
    """Weights in order, in lots of at most `limit_bytes` (at least one each)."""
    lot: list[Weight] = []
    size = 0
    for weight in weights:
        if lot and size + weight.nbytes > limit_bytes:
            yield lot
            lot, size = [], 0
        lot.append(weight)
        size += weight.nbytes
    if lot:
        yield lot
