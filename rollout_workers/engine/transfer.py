"""vLLM's side of a weight update, in the engine's processes: layers are loaded in the same way for every carrier.

Invariant: after an update, every parameter that was sent has its new value and every other parameter its old one. If
the update has a digest of a parameter, no other bytes are loaded for it.

Layerwise reload guarantees that for whole layers only. Where vLLM fuses several of the checkpoint's tensors into one
layer (q, k and v; gate and up; a weight and its bias) and only some of them are sent, it leaves the rest uninitialised.
So before an update ends, the missing tensors of each touched layer are loaded from the checkpoint that the engine
started with: they are the ones that are not trained. The statistics of a batch normalisation, which are buffers, are
lost in any case: they are put back.
"""

import base64
import logging
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.modules.batchnorm import _BatchNorm
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from protocol.weights import Carrier
from rollout_workers.engine.bucket import digest_of, tensors
from rollout_workers.engine.segment import Mapper

_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up",
    "up_proj": "gate_up",
}
_EXPERT = re.compile(r"(.*\.mlp\.experts)\.\d+\.")

Statistics = list[tuple[torch.nn.Module, dict[str, torch.Tensor]]]


@dataclass
class InitInfo(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM is untyped here
    """Instructions for joining the learner's group, for carriers that need one."""

    carrier: str
    info: dict[str, Any]
    """Fields of vLLM's own backend for the carrier."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """A piece of an update."""

    carrier: str
    info: dict[str, Any]
    """Fields of vLLM's own backend for the carrier; for CUDA IPC, `handles` by rank instead of `ipc_handles`. For
    shared memory and the object store: `path`, which is mapped, and `slots`, the name, dtype, shape and first byte of
    each tensor."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digests of the parameters' bytes, by name."""


class TransferEngine(WeightTransferEngine):  # type: ignore[misc]
    """Loads weights that come by any `protocol.weights.Carrier`."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        super().__init__(config, vllm_config, device, model)
        self._made_with = (config, vllm_config, device)
        self._backends: dict[Carrier, WeightTransferEngine] = {}
        self._mapper = Mapper()
        self._digests: Mapping[str, str] = {}
        self._sent: set[str] = set()
        self._ever_sent: set[str] = set()
        self._statistics: Statistics = []

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Join the learner's group, also a new one after the members changed."""
        carrier = Carrier(init_info.carrier)
        if carrier in self._backends:
            self._backends.pop(carrier).shutdown()
        backend = self._backend(carrier)
        backend.init_transfer_engine(backend.parse_init_info(init_info.info))

    def start_weight_update(self) -> None:
        self._sent.clear()
        self._statistics = statistics_of(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        # vLLM's own method always synchronises an accelerator; a CPU has none.
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Load one piece. Layers with missing tensors keep the mapping alive until they are complete."""
        self._digests = update_info.digests
        carrier = Carrier(update_info.carrier)
        if carrier in (Carrier.OBJECT_STORE, Carrier.SHARED_MEMORY):
            self.load_weights(tensors(self._mapper, update_info.info["path"], update_info.info["slots"]))
        else:
            info = dict(update_info.info)
            if carrier is Carrier.CUDA_IPC:
                info["ipc_handles"] = merged_handles(info.pop("handles"))
            backend = self._backend(carrier)
            backend.receive_weights(backend.parse_update_info(info))

    def finish_weight_update(self) -> None:
        self._digests = {}
        if Carrier.CUDA_IPC in self._backends:
            # Releases the learner's buffer, which would otherwise occupy the GPU during the next steps.
            self._backends[Carrier.CUDA_IPC].shutdown()
        sent = frozenset(self._sent)
        self.load_weights(self._unsent_neighbours())
        self._ever_sent |= sent
        with _quiet_about_unsent_layers():
            finalize_layerwise_reload(self.model, self.model_config)
        for layer, values in self._statistics:
            for name, value in values.items():
                layer.get_buffer(name).copy_(value)
        pack_tied_heads(self.model)

    def shutdown(self) -> None:
        for backend in self._backends.values():
            backend.shutdown()
        self._backends.clear()

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Check and load some tensors. vLLM's own backends call this instead of the model's `load_weights`."""
        pairs = list(weights)
        for name, tensor in pairs:
            expected = self._digests.get(name)
            if expected is not None and expected != digest_of(tensor):
                raise ValueError(f"the bytes of {name} that arrived are not those that the learner sent")
        self._sent.update(name for name, _ in pairs)
        # Loaders check the model's precision and every name, and refuse tensors that they cannot place.
        self.model.load_weights(pairs)

    def _backend(self, carrier: Carrier) -> WeightTransferEngine:
        """Return vLLM's receiving side of a carrier, which loads through this object."""
        if carrier not in self._backends:
            # Imported here: each needs a machine with a GPU.
            if carrier is Carrier.NCCL:
                from vllm.distributed.weight_transfer.nccl_engine import (  # noqa: PLC0415
                    NCCLWeightTransferEngine as Backend,
                )
            else:
                from vllm.distributed.weight_transfer.ipc_engine import (  # noqa: PLC0415
                    IPCWeightTransferEngine as Backend,
                )
            backend = self._backends[carrier] = Backend(*self._made_with, self)
            if carrier is Carrier.CUDA_IPC:
                backend.init_transfer_engine(backend.parse_init_info({"packed": True}))
        return self._backends[carrier]

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


def merged_handles(pickled: Iterable[str]) -> dict[str, Any]:
    """Return the learner ranks' handles of one piece, by GPU. Unpickles: they come from this job's own learner."""
    handles: dict[str, Any] = {}
    for handle in pickled:
        handles |= pickle.loads(base64.b64decode(handle))
    return handles


def layer_of(name: str) -> str:
    """Return the layer of vLLM's model that holds a tensor of the checkpoint, e.g. `….self_attn.qkv_proj`.

    All experts of a decoder layer are one layer of vLLM.
    """
    module, _, _ = name.rpartition(".")
    if expert := _EXPERT.match(module):
        return expert[1]
    parent, _, leaf = module.rpartition(".")
    return f"{parent}.{_FUSED.get(leaf, leaf)}"


def statistics_of(model: torch.nn.Module) -> Statistics:
    """Return the batch normalisations of a model with copies of their statistics, by name."""
    return [
        (layer, {name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)})
        for layer in model.modules()
        if isinstance(layer, _BatchNorm)
    ]


def pack_tied_heads(model: torch.nn.Module) -> None:
    """Update heads that share the embeddings' weight.

    Nothing is sent for such a head, so layerwise reload does not touch it; but on CPU it computes with a packed copy of
    the weight.
    """
    tables = [layer for layer in model.modules() if isinstance(layer, VocabParallelEmbedding)]
    embeddings = {id(layer.weight) for layer in tables if not isinstance(layer, ParallelLMHead)}
    for layer in tables:
        if isinstance(layer, ParallelLMHead) and id(layer.weight) in embeddings:
            layer.quant_method.process_weights_after_loading(layer)


@contextmanager
def _quiet_about_unsent_layers() -> Iterator[None]:
    """Suppress vLLM's warning for each layer without new weights: hundreds of lines with a frozen audio tower."""
    log = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
