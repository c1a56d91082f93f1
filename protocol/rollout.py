"""Messages between the controller and the rollout workers."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. Nucleus and top-k sampling are not offered: the learner scores the full softmax."""

    group_size: int
    """Completions per question, G."""
    max_tokens: int
    """Longest completion, stop token included."""
    temperature: float = 1.0
    """0 means greedy, and then a group has one completion."""


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """Ask one question G times."""

    question: Question
    template: PromptTemplate
    seed: int
    """Decides every sample of the group, whatever worker or batch it lands in."""
    silent: bool = False
    """Replace the clip by silence of the same length: the control that the model listens."""
    other_clip: str | None = None
    """Path of a clip that is heard in place of the question's own: the control that it listens to what is asked."""


class StopReason(StrEnum):
    STOP = "stop"
    """The model ended its turn."""
    LENGTH = "length"
    """Cut at `Sampling.max_tokens`: a truncated completion."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer of C tokens."""

    token_ids: tuple[int, ...]
    """The C sampled tokens, the stop token included where there is one."""
    logprobs: tuple[float, ...]
    """C natural logarithms of the probability each token was sampled with (temperature and bans applied)."""
    text: str
    """The decoded answer, without special tokens."""
    stop_reason: StopReason
    versions: tuple[tuple[int, int], ...] = ()
    """The weights behind the tokens, in runs of (weight version, tokens) that add up to C; more than one run where
    weights changed in the middle of it. Empty where all are of the group's version."""


@dataclass(frozen=True, slots=True)
class Group:
    """The G completions of one question."""

    question: Question
    template: PromptTemplate
    prompt_token_ids: tuple[int, ...]
    """The P tokens the engine read, audio placeholders expanded."""
    completions: tuple[Completion, ...]
    weight_version: int
    """The oldest version of any of their tokens."""
    worker: str
    truncated_seconds: float = 0.0
    """What was cut off the clip because the model hears no more of it; 0 where it was heard whole."""


class Failure(StrEnum):
    """Why a question that was drawn has no group."""

    AUDIO = "audio"
    """Its clip is missing, broken, empty or longer than the model hears."""
    PROMPT_TOO_LONG = "prompt_too_long"
    """Prompt and completion do not fit into the model's context."""
    RETRIES = "retries"
    """It was asked as often as the job allows, and each time its worker died, hung or gave no usable answer."""


@dataclass(frozen=True, slots=True)
class FailedQuestion:
    """A question that could not be asked: recorded with its reason, never dropped in silence."""

    question: Question
    reason: Failure
    detail: str
    worker: str


Answer = Group | FailedQuestion


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """What a worker says of a request that it has nothing usable for: it can be asked again."""

    cause: str


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a rollout worker needs to start its engine."""

    model: str
    """A directory with a Hugging Face checkpoint and its processor."""
    max_context: int
    """Longest prompt plus completion, in tokens."""
    max_concurrent: int = 128
    """Sequences an engine decodes at once."""
    dtype: str = "auto"
    cpu_kv_gib: int = 1
    """Key-value cache on CPU, GiB."""
    gpu_memory_fraction: float = 0.85
    tensor_parallel: int = 1
    threads: int = 1
    """CPU threads of the engine."""
    too_long: Literal["refuse", "truncate"] = "refuse"
    """A clip longer than the model hears: `refuse` the question or `truncate` the clip (reported either way)."""
    whole_batches: bool = False
    """Hand a whole batch to the engine at once, so that its batches do not depend on timing (deterministic jobs).

    Weight updates then wait for running batches to end. Without it they freeze the requests in flight instead."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What a rollout worker says of itself."""

    worker: str
    pid: int
    node: str
    weight_version: int
    tokens_generated: int
    requests_finished: int
    sequences: int = 0
    """What its engine is asked for at present, in completions."""
