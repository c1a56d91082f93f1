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
│   ├── RefusedError          a request that the service refused (also an ApiError)
│   ├── JobNotFoundError      a job id
│   ├── IdempotencyError      an idempotency key
│   ├── CursorError           a cursor of a listing
│   ├── OutsideRootsError     a path outside the folders that jobs may name
│   ├── DatabaseUrlError      the URL of the service's database
│   ├── BackupError           a backup, or where it is to go
│   ├── ServeError            an option of the service
│   ├── TracingError          tracing without its packages or endpoint
│   └── NodeError             an option of a cluster's node
├── LearnerError
│   ├── LearnerLostError
│   └── LearnerMemoryError
├── BatchTooLargeError
├── PromptMismatchError
├── NonFiniteError
├── RolloutError
├── WorkerLostError
├── WorkerFailedError
├── UnusableOutputError
├── WeightsUnavailableError
│   └── ElsewhereError
├── RewardLostError
├── UnscoredError
├── LedgerError
├── StorageError
│   └── DamagedError
├── ClientError
│   ├── AddressError
│   ├── ApiError
│   │   └── RefusedError
│   ├── UnreachableError
│   └── WaitTimeoutError (also a TimeoutError)
├── ProblemError
├── TransitionError
├── StaleStateError
├── StoreUnavailableError
├── ClusterUnavailableError
├── StartError
├── JobFailedError
├── UnsuccessfulError
└── _NoReplyError
"""

import reprlib
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120
_SHORT.maxlevel = 2
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 4


def shown(value: object) -> str:
    """Return a value as a message shows it: its repr, with the middle of long texts and the rest of lists left out."""
    return _SHORT.repr(value)


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
