"""The plan of a check: its parts, and the sizes of the model and the work."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from protocol.engine import EngineOptions
from protocol.rollout import WorkerSettings

if TYPE_CHECKING:
    from benchmarks.support.learner_workload import Shape

Device = Literal["cuda", "cpu"]

ALL_LAYERS = 32
MOST_LAYERS_TRAINED_WHOLE = 4
"""Above it the learner trains adapters: the state of all parameters would not fit beside the engine."""
_FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the check."""

    name: str
    shows: str
    seconds: float
    """Deadline, if more time is left in all."""
    needs_gpu: bool = False
    needs_ray: bool = False
    needs_model: bool = True


PARTS = (
    Part("model", "random weights and clips are written", 120, needs_model=False),
    Part("engine", "the engine starts with a job's arguments, and answers", 180),
    Part("sleep", "a sleeping engine frees its memory for a learner step, and wakes", 180, needs_gpu=True),
    Part("gaps", "engine and learner agree on log-probabilities", 180),
    Part("shared_memory", "weights reach requests in flight through shared memory", 180),
    Part("cuda_ipc", "weights reach requests in flight through the GPU's memory", 180, needs_gpu=True),
    Part("job", "a whole job trains", 300, needs_ray=True),
    Part("rates", "decoding rates, with and without seeds", 180),
)
"""In the order in which they run: what later ones build on comes first."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the work."""

    questions: int
    """Questions of a batch, each about its own clip."""
    clip_seconds: float
    group_size: int
    max_tokens: int
    in_flight_tokens: int
    """Length of the completions that an update meets."""
    max_context: int
    max_concurrent: int
    batches: tuple[int, ...]
    """Numbers of sequences whose decoding rate is measured."""


_TRUE = Sizes(
    questions=8,
    clip_seconds=20.0,
    group_size=8,
    max_tokens=64,
    in_flight_tokens=512,
    max_context=1536,
    max_concurrent=256,
    batches=(1, 16, 64, 256),
)
_SMALL = Sizes(
    questions=4,
    clip_seconds=1.5,
    group_size=4,
    max_tokens=12,
    in_flight_tokens=200,
    max_context=384,
    max_concurrent=16,
    batches=(1, 8),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The choices of one run."""

    small: bool
    """A tiny model in place of Qwen2-Audio-7B's widths."""
    device: Device
    layers: int = 2
    """Layers of the audio tower and of the language model."""
    steps: int = 10
    """Steps of the whole job."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """The section `rollout.engine` of the job file, for all parts."""

    @property
    def sizes(self) -> Sizes:
        return _SMALL if self.small else _TRUE

    @property
    def shape(self) -> "Shape":
        """Sizes of the model with true widths."""
        # It imports transformers and DeepSpeed, which only the parts need.
        from benchmarks.support.learner_workload import SEVEN_BILLION  # noqa: PLC0415

        return replace(SEVEN_BILLION, audio_layers=self.layers, layers=self.layers)

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """Type of the weights, of the engine and of the learner."""
        return "bfloat16" if self.device == "cuda" else "float32"

    @property
    def adapters(self) -> bool:
        """True if the learner trains adapters instead of all parameters."""
        return not self.small and self.layers > MOST_LAYERS_TRAINED_WHOLE

    @property
    def engine_fraction(self) -> float:
        """Fraction of the GPU's memory that an engine has beside a learner."""
        return 0.3

    def write(self, folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Self:
        return cls(**json.loads((folder / _FILE).read_text()))


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of a run, as a part sees it."""

    folder: Path
    plan: Plan
    part: str

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def questions(self) -> Path:
        return self.folder / "questions.jsonl"

    def report(self, message: str) -> None:
        """Show a line of progress."""
        with progress_file(self.folder, self.part).open("a") as file:
            file.write(message + "\n")

    def worker_settings(self) -> WorkerSettings:
        """Return a job's settings for its rollout workers, as `orchestrator.driver.session` makes them."""
        plan = self.plan
        options = EngineOptions.model_validate(plan.engine)
        on_cpu = options.dtype == "auto" and plan.device == "cpu"
        return WorkerSettings(
            model=str(self.model),
            max_context=plan.sizes.max_context,
            max_concurrent=plan.sizes.max_concurrent,
            dtype=plan.dtype if on_cpu else options.dtype,
            gpu_memory_fraction=plan.engine_fraction,
            shares_gpu=plan.device == "cuda",
            group_size=plan.sizes.group_size,
            threads=1,
            engine=options,
        )


def progress_file(folder: Path, part: str) -> Path:
    """Return the file to which a part writes its progress, a line each."""
    return folder / f"{part}.progress"


def findings_file(folder: Path, part: str) -> Path:
    """Return the file with what a part found."""
    return folder / f"{part}.json"


def log_file(folder: Path, part: str) -> Path:
    """Return the file with a part's output and that of its engine."""
    return folder / f"{part}.log"
