"""The errors that Earshot raises on purpose, as one tree.

EarshotError
├── InputError (also a ValueError)
│   ├── AudioError            a file that is not a usable clip
│   ├── DatasetError          a question file
│   ├── ItemError             one record of a question file
│   ├── FetchError            a file at a URL
│   ├── ChatError             a question that the model's chat template cannot render
│   ├── DocumentError         a YAML or JSON document
│   ├── SpecError             a job file
│   │   └── NeverFitsError    a job that needs more than the cluster has
│   ├── ModelError            a model folder
│   ├── CheckpointError       training state that does not fit the job
│   ├── RewardError           a reward function
│   ├── PromptTooLongError    a question that does not fit the model's context
│   ├── ClipTooShortError     a clip shorter than one audio token
│   ├── RunDirectoryError     a run directory
│   ├── PlaceError            an offset into a run's file
│   ├── CommandError          a command to a running job
│   ├── AddressError          the URL or token that a client was given (also a ClientError)
│   ├── UnsendableError       a job that a client cannot express as JSON (also a ClientError)
│   ├── RefusedError          a request that the service refused (also an ApiError)
│   ├── JobNotFoundError      a job id
│   ├── IdempotencyError      an idempotency key
│   ├── CursorError           a cursor of a listing
│   ├── OutsideRootsError     a path outside the folders that jobs may name
│   ├── DatabaseUrlError      the URL of the service's database
│   ├── DatabaseUnusableError  a database to mend or to replace (also a StoreUnavailableError)
│   ├── UsedJobGoneError      a job whose files another one names
│   ├── BackupError           a backup, or where it is to go
│   ├── ServeError            an option of the service
│   ├── TracingError          tracing without its packages or endpoint
│   └── NodeError             an option of a cluster's node
├── CheckpointTrialError
├── LearnerError
│   ├── LearnerLostError
│   └── LearnerMemoryError
├── BatchTooLargeError
├── PromptMismatchError
├── NonFiniteError
├── NothingAskedError
├── RolloutError
├── WorkerLostError
│   └── UpdateInterruptedError
├── WorkerFailedError
├── UnusableOutputError
│   └── NonFiniteOutputError
├── MemoryNotFreedError
├── TransferAbortedError
├── WeightsUnavailableError
│   └── ElsewhereError
├── RewardLostError
├── UnscoredError
├── LedgerError
├── StorageError
│   └── DamagedError
├── ClientError
│   ├── AddressError
│   ├── AnswerError (also a ValueError)
│   ├── ApiError
│   │   └── RefusedError
│   ├── UnreachableError
│   ├── UnsendableError
│   └── WaitTimeoutError (also a TimeoutError)
├── ProblemError
├── TransitionError
├── StaleStateError
├── AdmissionBusyError
├── QueueFullError
├── JobInUseError
├── RemovalError
├── LimitReachedError
├── RequestInProgressError
├── _RepeatedError
├── StoreUnavailableError
│   └── DatabaseUnusableError
├── TooManyGuessesError
├── FilesUnavailableError
├── UnsatisfiableRangeError
├── CommandRefusedError
├── ClusterUnavailableError
├── ClusterUnreachableError
├── StartError
├── JobFailedError
├── UnsuccessfulError
├── _TooLateError
├── _AskingError
├── _GivenUpError
└── _NoReplyError
"""

import reprlib
from typing import Any

_LONGEST_VALUE = 160
_LONGEST_MESSAGE = 1000
_LONGEST_CAUSE = 300


class _Short(reprlib.Repr):
    """The repr of a value without what is in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 120
        self.maxlevel = 2
        self.maxdict = self.maxlist = self.maxtuple = 4

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to write a number of more than 4,300 digits.
        return super().repr_int(value, level) if value.bit_length() < 1000 else f"<{value.bit_length()} bits>"


_SHORT = _Short()


def shown(value: object) -> str:
    """Return a value as a message shows it: its repr, with the middle of long texts and the rest of lists left out.

    It has at most 160 characters, all of them printable.
    """
    return one_line(_SHORT.repr(value), _LONGEST_VALUE)


def one_line(text: str, limit: int = _LONGEST_MESSAGE) -> str:
    """Return a message as one line of at most `limit` printable characters: its beginning and its end.

    Messages quote files and other programs: line breaks become spaces, control characters are escaped.
    """
    # Cut first, because a text may have millions of characters, and again because escapes are longer.
    flat = " ".join(_cut(text, 2 * limit).split())
    return _cut("".join(one if one.isprintable() else repr(one)[1:-1] for one in flat), limit)


def cause_of(error: BaseException) -> str:
    """Return class and message of an error of another program, for a message that names it as the cause."""
    return one_line(f"{type(error).__name__}: {error}", _LONGEST_CAUSE)


def _cut(text: str, limit: int) -> str:
    end = limit // 3
    return text if len(text) <= limit else f"{text[: limit - end - 3]} … {text[-end:]}"


class EarshotError(Exception):
    """The root of the tree. The message is for people, and names what failed.

    Errors travel between processes: a subclass may take any arguments and still be pickled.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own calls the class with `args`, which are the message alone where a constructor formats it.
        return _restored, (type(self), self.args, self.__dict__)


class InputError(EarshotError, ValueError):
    """Input that the user can correct: the command line exits with 2, and REST answers 4xx.

    The message is one line: what was given, what is wrong with it, and how to correct it.
    """


def _restored(kind: type[EarshotError], args: tuple[object, ...], state: dict[str, object]) -> EarshotError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
