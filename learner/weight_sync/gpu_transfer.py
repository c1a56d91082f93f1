"""The learner's side of GPU-to-GPU weight transfer: vLLM's senders, fed with the trainable weights.

The pool drives the receiving side (`rollout_workers.weight_sync`); this side only sends. CUDA IPC ran on one GPU
(`benchmarks.weight_sync_gpu`). The NCCL broadcast needs two GPUs; it is written against vLLM 0.32 and was never run.
"""

import base64
import pickle
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import torch
from transformers import PreTrainedModel
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from learner.errors import TransferAbortedError
from learner.families.family import Family
from learner.model.weights import Weight, in_buckets
from learner.training.engine import TrainingEngine
from learner.weight_sync.publish import BUCKET_BYTES, changes_audio, slot_of, trainable_weights
from protocol.weights import TensorSlot


class TrainableWeightSource(WeightSource):  # type: ignore[misc]  # vLLM is untyped here
    """The trainable weights for vLLM's senders. Every rank must iterate over it: ZeRO-3 gathers each bucket."""

    def __init__(self, engine: TrainingEngine, family: Family, model: PreTrainedModel) -> None:
        self._engine, self.family, self._model = engine, family, model
        self.taken = 0
        """Number of weights that were taken from iterations so far."""
        self._iteration: Iterator[tuple[str, torch.Tensor]] = iter(())

    def weights(self) -> list[Weight]:
        return trainable_weights(self.family, self._model)

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(w.name, w.parameters[0].dtype, w.shape) for w in self.weights()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        self._iteration = self._weights_in_turn()
        return self._iteration

    def take_the_rest(self) -> None:
        """Finish the last iteration: the other ranks gather with this one until its end."""
        for _ in self._iteration:
            pass

    def _weights_in_turn(self) -> Iterator[tuple[str, torch.Tensor]]:
        for bucket in in_buckets(self.weights(), BUCKET_BYTES):
            with self._engine.gathered([p for weight in bucket for p in weight.parameters]):
                for weight in bucket:
                    self.taken += 1
                    yield weight.name, weight.value()


class WeightSender:
    """One rank's sender for both carriers, NCCL and CUDA IPC.

    Invariant: after `abort`, a `meet` or `broadcast` that other members do not take part in raises, on every rank, once
    the ranks have made the same gathers; and nothing is sent until they have met again.
    """

    def __init__(self, source: TrainableWeightSource, rank: int) -> None:
        self._source, self._rank = source, rank
        self._broadcaster: Any = None
        self._pieces: Iterator[Any] | None = None
        self._aborted = threading.Event()
        self._moved = threading.Event()
        """Set when a group that is being made is complete, or aborted."""

    @property
    def transferred(self) -> int:
        """Number of weights that were sent so far."""
        return self._source.taken

    def describe(self, *, checksums: bool) -> tuple[tuple[TensorSlot, ...], bool]:
        """Describe the weights to send, and return whether they include audio tower or projector.

        Every rank must call it, before the first piece of an update.
        """
        # An update that was given up may have left pieces.
        self._pieces = None
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
        """Join the NCCL group of the first rank and all engines. Returns once all have joined.

        Raises TransferAbortedError after `abort`.
        """
        from vllm.distributed.weight_transfer.nccl_engine import (  # noqa: PLC0415 - needs a GPU
            NCCLTrainerInitInfo,
            NCCLTrainerWeightTransferEngine,
        )

        self.close()
        self._aborted.clear()
        self._moved.clear()
        info = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=members, rank=self._rank)
        joining: Future[Any] = Future()
        joining.add_done_callback(lambda _: self._moved.set())
        device = torch.cuda.current_device() if torch.cuda.is_available() else None

        def join() -> None:
            try:
                if device is not None:
                    torch.cuda.set_device(device)
                joining.set_result(
                    NCCLTrainerWeightTransferEngine.trainer_init(info, client=_NoOpClient(), source=self._source)
                )
            except BaseException as error:
                joining.set_exception(error)

        # NCCL waits for missing members forever, and cannot be told not to: then the thread is left behind.
        threading.Thread(target=join, name="weight-group", daemon=True).start()
        self._moved.wait()
        if not joining.done():
            joining.add_done_callback(_shut_down)
            raise TransferAbortedError("the group for weights was given up before all members had joined")
        self._broadcaster = joining.result()

    def broadcast(self) -> None:
        """Send all weights to the group. The engines must already be receiving.

        Raises TransferAbortedError after `abort`.
        """
        if self._broadcaster is None:
            raise RuntimeError("the learner cannot broadcast before it has joined a group")
        try:
            self._broadcaster.send_weights()
        except Exception:
            self._source.take_the_rest()
            raise
        if self._aborted.is_set():
            raise TransferAbortedError("the broadcast of weights was given up before all members had received it")

    def abort(self) -> None:
        """End a `meet` or `broadcast` that runs in another thread."""
        self._aborted.set()
        self._moved.set()
        group = None if self._broadcaster is None else self._broadcaster.model_update_group
        if group is not None and group.available and not group.disabled:
            # vLLM's calls do nothing from here on, so the rank comes to the end of its weights, as the others do.
            group.disabled = True
            with torch.accelerator.device_index(group.device.index):
                group.nccl.ncclCommAbort(group.comm)

    def close(self) -> None:
        """Leave the group."""
        if self._broadcaster is not None:
            self._broadcaster.shutdown()
            self._broadcaster = None

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
        try:
            piece = next(self._pieces, None)
        except Exception:
            # An iterator that has raised seems to be at its end.
            self._pieces = None
            raise
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


def _shut_down(joining: "Future[Any]") -> None:
    """Leave a group that was complete only after it had been given up."""
    if joining.exception() is None:
        joining.result().shutdown()


class _NoOpClient:
    """The client that vLLM's sender calls to make the engines receive. The pool has already done so."""

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: Any) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...
