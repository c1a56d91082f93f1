"""vLLM's side of a weight update through shared memory: tensors are viewed in place and loaded layer by layer.

Invariant: after an update every parameter that was sent has its new value and every other one the value it had.

Layerwise reload gives that for whole layers only. Where vLLM fuses several of the checkpoint's tensors into one layer
(q, k and v; gate and up; a weight and its bias) and some of them are sent, it fills the rest with uninitialised
memory. So before an update ends, the missing ones of each touched layer are loaded from the checkpoint that the engine
started from: they are the ones that are not trained.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rollout_workers.segment import mapped

_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up",
    "up_proj": "gate_up",
}


@dataclass
class SharedMemoryInitInfo(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM is untyped here
    """Nothing to agree on: worker and engine share a machine."""


@dataclass
class SharedMemoryUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """One bucket."""

    path: str
    """What to map: see `rollout_workers.segment`."""
    slots: list[tuple[str, str, list[int], int]]
    """Name (the checkpoint's), dtype, shape and first byte of each tensor."""


class SharedMemoryTransferEngine(WeightTransferEngine):  # type: ignore[misc]
    """Loads weights that a process on the same machine offers in shared memory."""

    init_info_cls = SharedMemoryInitInfo
    update_info_cls = SharedMemoryUpdateInfo

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        super().__init__(config, vllm_config, device, model)
        self._sent: set[str] = set()
        self._ever_sent: set[str] = set()

    def init_transfer_engine(self, init_info: SharedMemoryInitInfo) -> None:
        """There is no connection to make."""

    def start_weight_update(self) -> None:
        self._sent.clear()
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        # vLLM's own method synchronises an accelerator in any case; a CPU has none.
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: SharedMemoryUpdateInfo) -> None:
        """Load one bucket. Layers whose tensors are not complete yet keep the mapping alive until they are."""
        self._load(tensors(update_info))

    def finish_weight_update(self) -> None:
        self._load(self._unsent_neighbours())
        self._ever_sent |= self._sent
        with _quiet_about_unsent_layers():
            finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing is held between updates."""

    def _load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        pairs = list(weights)
        self._sent.update(name for name, _ in pairs)
        # Loaders insist on the model's precision and on finding every name; what they cannot place, they refuse.
        self.model.load_weights(pairs)

    def _unsent_neighbours(self) -> Iterator[tuple[str, torch.Tensor]]:
        touched = {layer_of(name) for name in self._sent}
        for file in sorted(Path(self.model_config.model).glob("*.safetensors")):
            with safe_open(file, framework="pt") as checkpoint:
                for name in checkpoint.keys():  # noqa: SIM118 - not a mapping
                    if name in self._sent or layer_of(name) not in touched:
                        continue
                    if name in self._ever_sent:
                        raise ValueError(f"{name} was sent in an earlier update and is missing from this one")
                    yield name, checkpoint.get_tensor(name)


def tensors(update_info: SharedMemoryUpdateInfo) -> Iterator[tuple[str, torch.Tensor]]:
    """The bucket's tensors by name, views of the mapping."""
    memory = mapped(update_info.path)
    for name, dtype, shape, offset in update_info.slots:
        count = torch.Size(shape).numel()
        yield name, torch.frombuffer(memory, dtype=getattr(torch, dtype), count=count, offset=offset).view(shape)


def layer_of(name: str) -> str:
    """The layer of vLLM's model that a tensor of the checkpoint ends up in, e.g. `….self_attn.qkv_proj`."""
    module, _, _ = name.rpartition(".")
    parent, _, leaf = module.rpartition(".")
    return f"{parent}.{_FUSED.get(leaf, leaf)}"


@contextmanager
def _quiet_about_unsent_layers() -> Iterator[None]:
    """vLLM warns of every layer that got no weights: with a frozen audio tower hundreds of lines an update."""
    log = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
