"""Messages between the driver and the rollout workers."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from protocol.engine import EngineOptions


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters. There is no nucleus or top-k sampling, since the learner scores the whole softmax."""

    group_size: int
    """Completions per question, G."""
    max_tokens: int
    """Maximum length of a completion, stop token included."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy decoding, and then a group has one completion."""


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """Request for G completions of one question."""

    question: Question
    template: PromptTemplate
    seed: int
    """Determines every sample of the group, independent of its worker and batch."""
    silent: bool = False
    """Replace the clip by silence of the same length: checks that the model uses the audio."""
    other_clip: str | None = None
    """Path of a clip that replaces the question's: checks that the model uses the content of the audio."""


class StopReason(StrEnum):
    STOP = "stop"
    """The model ended its turn."""
    LENGTH = "length"
    """The completion was truncated at `Sampling.max_tokens`."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer of C tokens."""

    token_ids: tuple[int, ...]
    """The C sampled tokens, including a stop token."""
    logprobs: tuple[float, ...]
    """C natural logarithms of the probability of each token when sampled (temperature and bans applied)."""
    text: str
    """Decoded completion, without special tokens."""
    stop_reason: StopReason
    versions: tuple[tuple[int, int], ...] = ()
    """Weight versions of the tokens, as runs of (weight version, number of tokens) that add up to C; several runs if
    weights changed during the completion. Empty if all tokens have the group's version."""


@dataclass(frozen=True, slots=True)
class Group:
    """The G completions of one question."""

    question: Question
    template: PromptTemplate
    prompt_token_ids: tuple[int, ...]
    """The P tokens of the prompt as the engine read it, audio placeholders expanded."""
    completions: tuple[Completion, ...]
    weight_version: int
    """Oldest weight version of any token of the group."""
    worker: str
    truncated_seconds: float = 0.0
    """Seconds by which the clip was truncated to fit the model's audio input; 0 for a whole clip."""


class Failure(StrEnum):
    """Reason why a drawn question has no group."""

    AUDIO = "audio"
    """The clip is missing, broken, empty or longer than the model's audio input."""
    PROMPT_TOO_LONG = "prompt_too_long"
    """Prompt and completion do not fit into the model's context."""
    RETRIES = "retries"
    """All attempts failed: each time the worker crashed, hung or returned no usable output."""
    NONFINITE = "nonfinite"
    """All attempts failed, the last because log-probabilities were not finite: NaN or infinite weights, or numbers too
    large for their type."""


@dataclass(frozen=True, slots=True)
class FailedQuestion:
    """A question without completions: recorded with its reason, never dropped silently."""

    question: Question
    reason: Failure
    detail: str
    worker: str


Answer = Group | FailedQuestion


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """A worker's answer to a request without usable output: the request can be retried."""

    cause: str
    reason: Failure = Failure.RETRIES
    """Why the question fails if no retry helps."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Settings of a rollout worker's engine."""

    model: str
    """Folder of a Hugging Face checkpoint with its processor."""
    max_context: int
    """Maximum length of prompt and completion together, in tokens."""
    max_concurrent: int = 128
    """Maximum number of sequences that the engine decodes at once."""
    dtype: str = "auto"
    cpu_kv_gib: int = 1
    """Key-value cache on the CPU, in GiB."""
    gpu_memory_fraction: float = 0.85
    shares_gpu: bool = False
    """The learner has a rank on the engine's GPU: the engine can give its memory up (`sleep`)."""
    group_size: int = 8
    """Completions per question, from which the number of different clips in the engine follows."""
    tensor_parallel: int = 1
    threads: int = 1
    """CPU threads of the engine."""
    too_long: Literal["refuse", "truncate"] = "refuse"
    """Handling of clips longer than the model's audio input: `refuse` the question or `truncate` the clip."""
    whole_batches: bool = False
    """Pass a whole batch to the engine at once, so that its batches do not depend on timing (deterministic jobs).

    Weight updates then wait for running batches to end. Otherwise they pause the requests in flight."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    """Further arguments of the engine."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Status of a rollout worker."""

    worker: str
    pid: int
    node: str
    weight_version: int
    tokens_generated: int
    requests_finished: int
    sequences: int = 0
    """Number of completions that the engine currently generates."""
