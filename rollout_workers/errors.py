"""Errors of rollout workers and their pool."""

from audio_qa.errors import EarshotError, InputError


class PromptTooLongError(InputError):
    """Prompt and completion do not fit into the model's context."""


class ClipTooShortError(InputError):
    """The clip is shorter than one audio token."""


class UnusableOutputError(EarshotError):
    """The engine's output does not fit the request; a retry may help."""


class NonFiniteOutputError(UnusableOutputError):
    """The engine's log-probabilities are not finite: its weights are NaN or infinite, or its numbers overflow."""


class WeightsUnavailableError(EarshotError):
    """An update's bytes are no longer available. The worker keeps the weights that it has."""


class ElsewhereError(WeightsUnavailableError):
    """An update is out of the worker's reach: in another machine's memory, or in GPUs of a group it is not in."""


class MemoryNotFreedError(EarshotError):
    """An engine that was put to sleep has not freed its GPU memory, which the learner needs."""


class WorkerLostError(EarshotError):
    """A worker is dead or does not answer: it is replaced, and its requests are sent again."""


class UpdateInterruptedError(WorkerLostError):
    """A worker does not have its weight update because another one failed: it is replaced, and not to blame."""


class WorkerFailedError(EarshotError):
    """A call to a worker raised an error; the worker still runs."""


class RolloutError(EarshotError):
    """The pool cannot continue. `worker` is the name of the worker that failed last."""

    def __init__(self, worker: str, problem: str) -> None:
        super().__init__(f"rollout worker {worker}: {problem}")
        self.worker = worker
