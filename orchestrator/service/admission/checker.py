"""The process that reads what submitted jobs name: `python -m orchestrator.service.admission.checker FD PARENT LIMITS`.

Invariants: it decides whether a job may name a file before it opens the file, and it asks the service whose run
directory is whose. It writes no file. It ends with the service, and is ended by the kernel if a check takes more
memory, processor time or time than its limits; the service then refuses the job.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from audio_qa.errors import EarshotError, InputError, one_line
from orchestrator.job.allowed import is_built_in, load
from orchestrator.job.marked import marked_values
from orchestrator.job.memory.fit import check_memory
from orchestrator.job.memory.sizes import sizes_of
from orchestrator.job.spec import JobSpec
from orchestrator.questions.job_paths import JobPaths
from orchestrator.service.admission.limits import CheckLimits
from protocol.marks import PathTo

_GRACE_SECONDS = 5
"""The service ends a check at its deadline; so much later the process ends itself."""
_LARGEST_REST = 200 * 2**20
"""A process that took more memory than this is not used again."""
_MOST_OPEN = 256
_PR_SET_PDEATHSIG = 1
_NICE = 5
_FIRST_TO_END = "1000"
"""Score with which the kernel ends the check before anything else where memory is short."""


class _AskingError(EarshotError):
    """The service has closed the connection."""


class Checker:
    """Checks jobs for the service at the other end of a connection, one at a time."""

    def __init__(self, service: Connection, limits: CheckLimits) -> None:
        self._service, self._limits, self._key = service, limits, ""

    def serve(self) -> None:
        """Check jobs until the connection is closed."""
        while True:
            try:
                request: dict[str, Any] = json.loads(self._service.recv_bytes())
            except (EOFError, OSError):
                return
            _limit_check(self._limits)
            signal.setitimer(signal.ITIMER_REAL, self._limits.seconds + _GRACE_SECONDS)
            outcome = self._outcome(request)
            signal.setitimer(signal.ITIMER_REAL, 0)
            last = _most_memory() > _LARGEST_REST or "failed" in outcome
            self._send({**outcome, "last": last})
            if last:
                return

    def _outcome(self, request: dict[str, Any]) -> dict[str, Any]:
        self._key = "the job"
        try:
            return self._checked(request)
        except InputError as error:
            return {"refused": one_line(str(error))}
        except MemoryError:
            return {"refused": self._too_large()}
        except _AskingError:
            raise
        except Exception as error:  # a reader of files that fails in a new way must not be an error of the service
            if isinstance(error.__cause__ or error.__context__, MemoryError):
                return {"refused": self._too_large()}
            problem = f"{self._key}: cannot be read ({type(error).__name__}); check the file with earshot data check"
            return {"refused": problem, "failed": one_line(f"{type(error).__name__}: {error}")}

    def _checked(self, request: dict[str, Any]) -> dict[str, Any]:
        spec, allowed = JobSpec.model_validate(request["spec"]), load(request["allowed"], "allowed")
        readable = allowed.readable(self._owns)
        paths = JobPaths(spec, readable, allowed.writable())
        resolved = paths.resolved()
        paths.check_content(self._report)
        if resolved.rollout.gpus and not is_built_in(resolved.model.path):
            check_memory(resolved, sizes_of(Path(resolved.model.path)))
        return {"paths": dict(marked_values(resolved, tuple(PathTo))), "uses": sorted(readable.used)}

    def _report(self, key: str) -> None:
        self._key = key
        self._send({"reads": key})

    def _owns(self, run: str) -> bool:
        self._send({"owns": run})
        try:
            return self._service.recv_bytes() == b"true"
        except (EOFError, OSError) as error:
            raise _AskingError("the service has closed the connection") from error

    def _too_large(self) -> str:
        return (
            f"{self._key}: takes more than {self._limits.memory_bytes // 2**20:,} MiB of memory to check, the limit of "
            "this service; divide it into smaller files"
        )

    def _send(self, message: dict[str, Any]) -> None:
        self._service.send_bytes(json.dumps(message).encode())


def _most_memory() -> int:
    """Return the most memory that the process had, in bytes. `getrusage` says that of its parent, if it had more."""
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123  # a file of the kernel
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"VmHWM:"))


def _limit_check(limits: CheckLimits) -> None:
    """Limit the process to what it has taken so far, and what a check may take."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # a file of the kernel
        memory = int(file.read().split()[0]) * resource.getpagesize()
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = {
        resource.RLIMIT_AS: memory + limits.memory_bytes,
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime) + 1 + limits.cpu_seconds,
    }
    for kind, value in most.items():
        resource.setrlimit(kind, (_at_most(kind, value), resource.getrlimit(kind)[1]))


def _limit_process() -> None:
    """Limit what no check needs."""
    os.nice(_NICE)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123  # a file of the kernel
        file.write(_FIRST_TO_END)
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: _MOST_OPEN}
    for kind, most in limits.items():
        least = _at_most(kind, most)
        resource.setrlimit(kind, (least, least))


def _at_most(kind: int, most: int) -> int:
    """Return a limit that the process may set: not above the one that it was given."""
    hard = resource.getrlimit(kind)[1]
    return most if hard == resource.RLIM_INFINITY else min(most, hard)


def main() -> int:
    """Check jobs for the parent process; returns the exit code."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limits = CheckLimits(**json.loads(sys.argv[3]))
    _limit_process()
    with Connection(int(sys.argv[1])) as service:
        service.send_bytes(b"{}")
        Checker(service, limits).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
