"""What can go wrong with a rollout."""


class PromptTooLongError(ValueError):
    """Prompt and completion do not fit into the model's context."""


class ClipTooShortError(ValueError):
    """The clip is shorter than one audio token."""


class RolloutError(RuntimeError):
    """A worker died, hung or failed. `worker` is its name."""

    def __init__(self, worker: str, problem: str) -> None:
        super().__init__(f"rollout worker {worker}: {problem}")
        self.worker = worker
