"""What can go wrong with a rollout."""


class PromptTooLongError(ValueError):
    """Prompt and completion do not fit into the model's context."""


class ClipTooShortError(ValueError):
    """The clip is shorter than one audio token."""


class UnusableOutputError(RuntimeError):
    """The engine's answer to a request is not what was asked for; another attempt may be."""


class WeightsUnavailableError(RuntimeError):
    """An update's bytes cannot be had any more. The worker still has the weights it had."""


class ElsewhereError(WeightsUnavailableError):
    """An update is out of the worker's reach: in another machine's memory, or in GPUs of a group it is not in."""


class WorkerLostError(RuntimeError):
    """A worker is dead or does not answer: it has to be replaced, and what it was asked has to be asked again."""


class WorkerFailedError(RuntimeError):
    """A call to a worker raised an error; the worker goes on."""


class RolloutError(RuntimeError):
    """The rollout workers cannot go on. `worker` is the name of the one that failed last."""

    def __init__(self, worker: str, problem: str) -> None:
        super().__init__(f"rollout worker {worker}: {problem}")
        self.worker = worker
