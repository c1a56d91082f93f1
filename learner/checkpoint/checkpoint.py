"""A checkpoint of the learner: a Hugging Face model, and the training state that resumes bit for bit.

Each rank copies its share of both into memory and writes it in a thread while training continues. Nothing in the files
depends on the number of ranks or the ZeRO stage. The orchestrator renames the folder once all ranks have finished;
before that there is no checkpoint.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import distributed, nn
from transformers import PreTrainedModel

from audio_qa.errors import InputError
from audio_qa.whole_file import to_disk
from learner.checkpoint.export import write_index, write_shard
from learner.checkpoint.slices import TensorSlices
from learner.checkpoint.source import SourceFiles
from learner.families.family import Family
from learner.model.tensor_file import write_tensors
from learner.model.weights import in_buckets, numel, weights_of
from learner.training.engine import TrainingEngine
from learner.training.optimizer_state import (
    MASTER,
    MOMENTS,
    adam_steps,
    create_state,
    link_state,
    read_state,
)
from learner.training.own_state import own_range, refresh_parameters, write_own_state
from protocol.checkpoint import LEARNER_FILE, RANK_FILES, STATE_FOLDER, rank_file

_BUCKET_BYTES = 64 * 2**20


class CheckpointError(InputError):
    """The training state does not match the job; the message names the checkpoint and the difference."""


@dataclass(frozen=True, slots=True)
class LearnerState:
    """The counters of a learner."""

    schedule_step: int
    """Completed steps of the learning-rate schedule."""
    adam_steps: int
    """Completed updates of AdamW."""
    ranks: int
    """Number of ranks that wrote it; any number can read it."""


class CheckpointWriter:
    """A writer of one rank's share that runs in a thread, one checkpoint at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, write: Callable[[], None]) -> None:
        """Start to write in the background. `wait` must have been called for the previous checkpoint."""
        if self._thread is not None:
            raise RuntimeError("a checkpoint is still being written")

        def write_or_keep_error() -> None:
            try:
                write()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=write_or_keep_error, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until everything is on disk. Raises the error of the writing thread."""
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
    source: SourceFiles,
    *,
    state: bool,
) -> Callable[[], None]:
    """Copy this rank's share of a checkpoint, and return the function that writes it to `folder`, which must exist.

    All ranks must call this together. Training may continue as soon as it returns.

    Args:
        source: the files of the folder that the model was loaded from.
        state: include the training state.
    """
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    weights = weights_of(family, model)
    owners: dict[str, int] = {}
    own: dict[str, torch.Tensor] = {}
    for i, bucket in enumerate(in_buckets(weights, _BUCKET_BYTES)):
        owners |= {weight.name: i % ranks for weight in bucket}
        with engine.gathered([p for weight in bucket for p in weight.parameters]):
            if i % ranks == rank:
                own |= {weight.name: weight.value().to("cpu", copy=True) for weight in bucket}
    tensors = _training_state(engine, model) if state else {}
    counters = LearnerState(engine.step_count, adam_steps(engine), ranks)

    def write() -> None:
        write_shard(folder, own, rank=rank, ranks=ranks)
        if state:
            home = folder / STATE_FOLDER
            home.mkdir(exist_ok=True)
            write_tensors(home / rank_file(rank), tensors)
        if rank == 0:
            write_index(folder, owners, weights, ranks)
            source.write(folder, family, model)
            if state:
                (home / LEARNER_FILE).write_text(json.dumps(asdict(counters), indent=2) + "\n")
        for path in folder.rglob("*"):
            # Another rank may rename its file meanwhile; that rank syncs the file itself, after writing it.
            with contextlib.suppress(FileNotFoundError):
                to_disk(path)

    return write


def _training_state(engine: TrainingEngine, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return this rank's share of master copies and moments, and its random state."""
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    link_state(engine)
    loads = [0] * ranks
    tensors = {"random/torch": torch.get_rng_state()}
    for name, parameter in trained_parameters(model):
        owner = loads.index(min(loads))
        loads[owner] += numel(parameter)
        for kind, value in read_state(engine, parameter).items():
            if owner == rank:
                tensors[f"{kind}/{name}"] = value.detach().to("cpu", copy=True).contiguous()
    return tensors


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that train, adapters included, by the module's own names."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


class SavedState:
    """The training state in a checkpoint's folder."""

    def __init__(self, checkpoint: Path) -> None:
        """Read the counters. Raises CheckpointError if `checkpoint` has no readable training state."""
        self._home = checkpoint / STATE_FOLDER
        try:
            self.counters = LearnerState(**json.loads((self._home / LEARNER_FILE).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{checkpoint}: its training state cannot be read: {error}") from error
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in sorted(self._home.glob(RANK_FILES)):
            with TensorSlices(path) as file:
                self._shapes |= file.shapes()
                self._files |= dict.fromkeys(file.shapes(), path)

    def check(self, model: nn.Module) -> None:
        """Raise CheckpointError unless the state is that of exactly the parameters that train."""
        saved = {name.removeprefix(f"{MASTER}/") for name in self._files if name.startswith(f"{MASTER}/")}
        shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in trained_parameters(model)}
        expected = set(shapes)
        if saved != expected:
            missing, extra = sorted(expected - saved), sorted(saved - expected)
            example = (missing or extra)[0]
            raise CheckpointError(
                f"{self._home.parent}: it was saved with other trainable parameters: {len(missing)} are missing and "
                f"{len(extra)} are too many, for example {example!r}; set learner.train and learner.lora as before"
            )
        for name, shape in shapes.items():
            if self._shapes[f"{MASTER}/{name}"] != shape:
                raise CheckpointError(
                    f"{self._home.parent}: {name} has the shape {self._shapes[f'{MASTER}/{name}']} there, and {shape} "
                    "in the job: set model and learner.lora as before"
                )

    def restore(self, engine: TrainingEngine, model: nn.Module) -> None:
        """Restore parameters, master copies, moments and counters of a new engine, and this process's random state.

        All ranks must call it together, after `check`. Each reads its own share of the files.
        """
        engine.step_count = self.counters.schedule_step
        if self.counters.adam_steps:
            create_state(engine, self.counters.adam_steps)
        kinds = (MASTER, *MOMENTS) if self.counters.adam_steps else (MASTER,)
        random = self._home / rank_file(distributed.get_rank())
        with contextlib.ExitStack() as stack:
            files = {path: stack.enter_context(TensorSlices(path)) for path in set(self._files.values())}

            def read(name: str, start: int, stop: int) -> torch.Tensor:
                return files[self._files[name]].read(name, start, stop)

            for name, parameter in trained_parameters(model):
                start, stop = own_range(engine, parameter)
                write_own_state(engine, parameter, {kind: read(f"{kind}/{name}", start, stop) for kind in kinds})
            if random in files:
                torch.set_rng_state(files[random].read("random/torch"))
        refresh_parameters(engine)
