"""Failures of the learner that callers handle differently. This module does not import torch."""

from audio_qa.errors import EarshotError


class BatchTooLargeError(EarshotError):
    """A micro-batch does not fit into memory; the message has its sizes."""

    def __init__(self, sizes: str, tokens: int) -> None:
        super().__init__(sizes)
        self.tokens = tokens
        """Number of tokens of the largest micro-batch."""


class CheckpointTrialError(EarshotError):
    """The checkpoint that is tried before the first step cannot be written, or read again; the message says why."""


class TransferAbortedError(EarshotError):
    """A transfer of weights to the engines was given up before its end."""


class LearnerError(EarshotError):
    """A rank failed; the message names the call and the cause. A restart would fail in the same way."""


class LearnerLostError(LearnerError):
    """A rank died or hung. New ranks can resume from the last checkpoint."""


class LearnerMemoryError(LearnerError):
    """A batch does not fit into the ranks' memory. New ranks can resume with smaller micro-batches."""

    def __init__(self, message: str, tokens: int) -> None:
        super().__init__(message)
        self.tokens = tokens
        """Number of tokens of the micro-batch that did not fit."""
