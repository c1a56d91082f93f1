"""Failures of the learner that its callers tell apart. Nothing here needs torch."""


class BatchTooLargeError(RuntimeError):
    """A micro-batch does not fit into the memory. The message has its sizes."""

    def __init__(self, sizes: str, tokens: int) -> None:
        super().__init__(sizes, tokens)
        self.tokens = tokens
        """Of the largest micro-batch."""

    def __str__(self) -> str:
        return str(self.args[0])


class LearnerError(RuntimeError):
    """A rank failed; the message says in which call and why. To start it again would only repeat it."""


class LearnerLostError(LearnerError):
    """A rank died or hung: new ranks can go on from the last checkpoint."""


class LearnerMemoryError(LearnerError):
    """A batch does not fit into the ranks' memory: new ranks can go on with smaller micro-batches."""

    def __init__(self, message: str, tokens: int) -> None:
        super().__init__(message)
        self.tokens = tokens
        """Of the micro-batch that did not fit."""
