"""A checkpoint of the learner: the model as Hugging Face has it, and what training needs to go on as if never stopped.

Each rank holds a share of both in memory for the time of writing, and writes it in a thread beside the training.
Nothing in the files depends on the number of ranks or the ZeRO stage. The folder becomes a checkpoint when the
orchestrator, which hears of every rank's end, renames it: until then it is not there.
"""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import distributed, nn
from transformers import PreTrainedModel, ProcessorMixin

from learner.checkpoint.export import write_description, write_index, write_shard
from learner.families.family import Family
from learner.model.weights import lots, numel, weights_of
from learner.training.engine import TrainingEngine
from learner.training.optimizer_state import (
    MASTER,
    MOMENTS,
    adam_steps,
    create_state,
    read_state,
    tie_state,
    write_state,
)

STATE_FOLDER = "training_state"
_LEARNER = "learner.json"
_LOT_BYTES = 64 * 2**20


class CheckpointError(ValueError):
    """Training state that does not fit the job; the message names the checkpoint and what differs."""


@dataclass(frozen=True, slots=True)
class LearnerState:
    """The counters of a learner."""

    schedule_step: int
    """Steps of the learning rate's schedule that have passed."""
    adam_steps: int
    """Updates AdamW has made."""
    ranks: int
    """How many ranks wrote it; any number can read it."""


class CheckpointWriter:
    """Writes one rank's share in a thread, one checkpoint at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, write: Callable[[], None]) -> None:
        """Begin to write; `wait` must have been called for what was begun before."""
        if self._thread is not None:
            raise RuntimeError("a checkpoint is still being written")

        def guarded() -> None:
            try:
                write()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=guarded, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when everything begun is on disk. Raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error


def snapshot(
    folder: Path,
    engine: TrainingEngine,
    family: Family,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    *,
    state: bool,
) -> Callable[[], None]:
    """Copy this rank's share of a checkpoint; what is returned writes it to `folder`, which must exist.

    All ranks must call it together. Training may go on as soon as it returns.

    Args:
        state: with the training state, or only the model.
    """
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    weights = weights_of(family, model)
    owners: dict[str, int] = {}
    mine: dict[str, torch.Tensor] = {}
    for i, lot in enumerate(lots(weights, _LOT_BYTES)):
        owners |= {weight.name: i % ranks for weight in lot}
        with engine.whole([p for weight in lot for p in weight.parameters]):
            if i % ranks == rank:
                mine |= {weight.name: weight.value().to("cpu", copy=True) for weight in lot}
    tensors = _training_state(engine, model) if state else {}
    counters = LearnerState(engine.step_count, adam_steps(engine), ranks)

    def write() -> None:
        write_shard(folder, mine, rank=rank, ranks=ranks)
        if state:
            home = folder / STATE_FOLDER
            home.mkdir(exist_ok=True)
            save_file(tensors, home / f"rank-{rank}.safetensors")
        if rank == 0:
            write_index(folder, owners, weights, ranks)
            write_description(folder, family, model, processor)
            if state:
                (home / _LEARNER).write_text(json.dumps(asdict(counters), indent=2) + "\n")
        for path in folder.rglob("*"):
            # What another rank is writing may have its final name by now: it sees to that itself, behind its writes.
            with contextlib.suppress(FileNotFoundError):
                _to_disk(path)

    return write


def _training_state(engine: TrainingEngine, model: nn.Module) -> dict[str, torch.Tensor]:
    """This rank's share of master copies and moments, and its random state."""
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    tie_state(engine)
    loads = [0] * ranks
    kept = {"random/torch": torch.get_rng_state()}
    for name, parameter in trained_parameters(model):
        owner = loads.index(min(loads))
        loads[owner] += numel(parameter)
        for kind, value in read_state(engine, parameter).items():
            if owner == rank:
                kept[f"{kind}/{name}"] = value.detach().to("cpu", copy=True).contiguous()
    return kept


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What training changes, by the module's own names, adapters among them."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


class SavedState:
    """The training state in a checkpoint's folder."""

    def __init__(self, checkpoint: Path) -> None:
        """Raises CheckpointError if `checkpoint` holds none."""
        self._home = checkpoint / STATE_FOLDER
        try:
            self.counters = LearnerState(**json.loads((self._home / _LEARNER).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{checkpoint}: its training state cannot be read: {error}") from error
        self._files: dict[str, Path] = {}
        for path in sorted(self._home.glob("rank-*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)

    def check(self, model: nn.Module) -> None:
        """Raise CheckpointError unless this is the state of exactly the parameters that train."""
        saved = {name.removeprefix(f"{MASTER}/") for name in self._files if name.startswith(f"{MASTER}/")}
        wanted = {name for name, _ in trained_parameters(model)}
        if saved != wanted:
            missing, extra = sorted(wanted - saved), sorted(saved - wanted)
            example = (missing or extra)[0]
            raise CheckpointError(
                f"{self._home.parent}: it was saved with other parameters training: {len(missing)} are missing and "
                f"{len(extra)} are too many, {example!r} among them; set learner.train and learner.lora as they were"
            )

    @torch.no_grad()
    def restore_parameters(self, model: nn.Module) -> None:
        """Give a freshly loaded model the values it had."""
        for name, parameter in trained_parameters(model):
            parameter.copy_(self._tensor(f"{MASTER}/{name}"))

    def restore_optimizer(self, engine: TrainingEngine, model: nn.Module) -> None:
        """Give a fresh optimizer the master copies, moments and counters it had, and this process its random state."""
        engine.step_count = self.counters.schedule_step
        if self.counters.adam_steps:
            create_state(engine, self.counters.adam_steps)
        kinds = (MASTER, *MOMENTS) if self.counters.adam_steps else (MASTER,)
        for name, parameter in trained_parameters(model):
            write_state(engine, parameter, {kind: self._tensor(f"{kind}/{name}") for kind in kinds})
        random = self._home / f"rank-{distributed.get_rank()}.safetensors"
        if random.is_file():
            with safe_open(random, framework="pt") as file:
                torch.set_rng_state(file.get_tensor("random/torch"))

    def _tensor(self, name: str) -> torch.Tensor:
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]


def _to_disk(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
