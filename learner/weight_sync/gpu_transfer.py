"""The learner's side of GPU-to-GPU weight transfer: vLLM's senders, fed with the trainable weights.

The pool drives the receiving side (`rollout_workers.weight_sync`); this side only sends. CUDA IPC ran on one GPU
(`benchmarks.weight_sync_gpu`). The NCCL broadcast needs two GPUs; it is written against vLLM 0.32 and was never run.
"""

import base64
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from learner.families.family import Family
from learner.model.weights import Weight, in_buckets
from learner.training.engine import TrainingEngine
from learner.weight_sync.publish import BUCKET_BYTES, changes_audio, slot_of, trainable_weights
from protocol.weights import TensorSlot


class TrainableWeightSource(WeightSource):  # type: ignore[misc]  # vLLM is untyped here
    """The trainable weights for vLLM's senders. Every rank must iterate over it: ZeRO-3 gathers each bucket."""

    def __init__(self, engine: TrainingEngine, family: Family, model: PreTrainedModel) -> None:
        self._engine, self.family, self._model = engine, family, model

    def weights(self) -> list[Weight]:
        return trainable_weights(self.family, self._model)

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(w.name, w.parameters[0].dtype, w.shape) for w in self.weights()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for bucket in in_buckets(self.weights(), BUCKET_BYTES):
            with self._engine.gathered([p for weight in bucket for p in weight.parameters]):
                for weight in bucket:
                    yield weight.name, weight.value()


class WeightSender:
    """One rank's sender for both carriers, NCCL and CUDA IPC."""

    def __init__(self, source: TrainableWeightSource, rank: int) -> None:
        self._source, self._rank = source, rank
        self._broadcaster: Any = None
        self._pieces: Iterator[Any] | None = None

    def describe(self, *, checksums: bool) -> tuple[tuple[TensorSlot, ...], bool]:
        """Describe the weights to send, and return whether they include audio tower or projector.

        Every rank must call it.
        """
        weights = self._source.weights()
        if checksums:
            slots = [slot_of(name, value, checksum=True) for name, value in self._source]
        else:
            slots = [
                TensorSlot(w.name, str(w.parameters[0].dtype).removeprefix("torch."), w.shape, w.nbytes)
                for w in weights
            ]
        return tuple(slots), changes_audio(self._source.family, weights)

    def meet(self, address: str, port: int, members: int) -> None:
        """Join the NCCL group of the first rank and all engines. Returns once all have joined."""
        from vllm.distributed.weight_transfer.nccl_engine import (  # noqa: PLC0415 - needs a GPU
            NCCLTrainerInitInfo,
            NCCLTrainerWeightTransferEngine,
        )

        if self._broadcaster is not None:
            self._broadcaster.shutdown()
        info = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=members, rank=self._rank)
        self._broadcaster = NCCLTrainerWeightTransferEngine.trainer_init(
            info, client=_NoOpClient(), source=self._source
        )

    def broadcast(self) -> None:
        """Send all weights to the group. The engines must already be receiving."""
        if self._broadcaster is None:
            raise RuntimeError("the learner cannot broadcast before it has joined a group")
        self._broadcaster.send_weights()

    def next_piece(self) -> Mapping[str, Any] | None:
        """Return the next piece, in a buffer of this rank's GPU that the next call reuses; None after the last."""
        if self._pieces is None:
            from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer  # noqa: PLC0415

            uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
            # Memory of earlier pieces is held until the engines have released it and this is called.
            torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
            largest = max(meta.dtype.itemsize * torch.Size(meta.shape).numel() for meta in self._source.metadata())
            self._pieces = packed_ipc_producer(
                iter(self._source), uuid, lambda item: item[1], max(BUCKET_BYTES, largest)
            )
        piece = next(self._pieces, None)
        if piece is None:
            self._pieces = None
            return None
        return {
            "names": piece.names,
            "dtype_names": piece.dtype_names,
            "shapes": piece.shapes,
            "tensor_sizes": piece.tensor_sizes,
            # The handle contains torch objects; as bytes it passes through processes without torch.
            "handles": [base64.b64encode(pickle.dumps(piece.ipc_handle)).decode()],
        }


class _NoOpClient:
    """The client that vLLM's sender calls to make the engines receive. The pool has already done so."""

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: Any) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...
