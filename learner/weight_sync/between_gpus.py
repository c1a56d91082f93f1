"""The learner's side of carrying weights from GPU to GPU: vLLM's own senders, fed with the weights that train.

The pool drives the receiving side (`rollout_workers.weight_sync`), so the senders here only send. Carrying by CUDA IPC
ran on a GPU (`benchmarks.weight_sync_gpu`). The broadcast, which takes two, is written against vLLM 0.32 and never ran.
"""

import base64
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from learner.families.family import Family
from learner.model.weights import Weight, lots
from learner.training.engine import TrainingEngine
from learner.weight_sync.publish import BUCKET_BYTES, changes_audio, slot_of, trained
from protocol.weights import TensorSlot


class TrainedWeights(WeightSource):  # type: ignore[misc]  # vLLM is untyped here
    """The weights that train, for vLLM's senders. Every rank must go through it: under ZeRO-3 each lot is gathered."""

    def __init__(self, engine: TrainingEngine, family: Family, model: PreTrainedModel) -> None:
        self._engine, self.family, self._model = engine, family, model

    def weights(self) -> list[Weight]:
        return trained(self.family, self._model)

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(w.name, w.parameters[0].dtype, w.shape) for w in self.weights()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for lot in lots(self.weights(), BUCKET_BYTES):
            with self._engine.whole([p for weight in lot for p in weight.parameters]):
                for weight in lot:
                    yield weight.name, weight.value()


class Sender:
    """One rank's end of both carriers."""

    def __init__(self, source: TrainedWeights, rank: int) -> None:
        self._source, self._rank = source, rank
        self._broadcaster: Any = None
        self._pieces: Iterator[Any] | None = None

    def describe(self, *, checksums: bool) -> tuple[tuple[TensorSlot, ...], bool]:
        """What is about to be sent, and whether audio tower or projector are in it. Every rank must be asked."""
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
        """Join a group of the first rank and all engines; returns once all are there."""
        from vllm.distributed.weight_transfer.nccl_engine import (  # noqa: PLC0415 - needs a GPU
            NCCLTrainerInitInfo,
            NCCLTrainerWeightTransferEngine,
        )

        if self._broadcaster is not None:
            self._broadcaster.shutdown()
        info = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=members, rank=self._rank)
        self._broadcaster = NCCLTrainerWeightTransferEngine.trainer_init(
            info, client=_DrivenByThePool(), source=self._source
        )

    def broadcast(self) -> None:
        """Send everything to the group; the engines have been asked to receive it."""
        if self._broadcaster is None:
            raise RuntimeError("the learner was asked to broadcast before it met anyone")
        self._broadcaster.send_weights()

    def next_piece(self) -> Mapping[str, Any] | None:
        """The next lot, in one buffer of this rank's GPU that the following call fills again; None behind the last."""
        if self._pieces is None:
            from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer  # noqa: PLC0415

            uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
            # What the last lot went through is held until the engines have let go of it and this is called.
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
            # The handle holds torch's own objects: as bytes it passes through processes that have no torch.
            "handles": [base64.b64encode(pickle.dumps(piece.ipc_handle)).decode()],
        }


class _DrivenByThePool:
    """What vLLM's sender calls to have the engines receive: the pool has told them already."""

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: Any) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...
