"""Low-rank adapters by peft (Hu et al., 2021, "LoRA", arXiv:2106.09685).

They are merged into published weights and checkpoints, because vLLM's audio models do not support adapters.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from learner.families.family import Family, Part
from learner.settings import LoraSettings, TrainSettings

ADAPTER = "default"


def is_trainable(settings: TrainSettings, part: Part) -> bool:
    """Return whether a part of the model trains."""
    return part is not Part.FIXED and bool(getattr(settings, part.value))


def freeze(family: Family, model: PreTrainedModel, settings: TrainSettings) -> None:
    """Freeze the parameters of the parts that do not train."""
    for name, parameter in family.named_parameters(model):
        if not is_trainable(settings, family.part(name)):
            parameter.requires_grad_(False)


def add_adapters(family: Family, model: PreTrainedModel, settings: LoraSettings, train: TrainSettings) -> None:
    """Add an adapter to every linear layer of the parts that train, except the head, and freeze everything else."""
    head = family.head(model)
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and is_trainable(train, family.part(family.canonical_name(f"{name}.weight")))
    ]
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=targets)
    inject_adapter_in_model(config, model, ADAPTER)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Disable the model's adapters within the context: this is the reference, without memory of its own."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    # Not peft's enable_adapters, which would also disable the adapters' gradients.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
