"""The processes that check jobs: started when they are needed, kept warm, ended when they take too much.

Invariant: a check ends within its deadline, whatever the files are that the job names, and nothing that it reads is in
the memory of the service.
"""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from audio_qa.errors import EarshotError
from orchestrator.job.spec_file import SpecError
from orchestrator.service.admission.limits import CheckLimits
from orchestrator.service.admission.turns import AdmissionBusyError

_MODULE = "orchestrator.service.admission.checker"
_START_SECONDS = 30.0
_ASKED_SECONDS = 30.0
"""Time for the database to say whose a run is; it gives up earlier."""
_ATTEMPTS = 3
_MOST_STUCK = 8
"""Processes that were killed and have not ended."""
_LARGEST_REPLY = 2**22
_RETRY_SECONDS = 5
_KEPT_VARIABLES = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
    *("PYTHONPATH", "PYTHONHOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "EARSHOT_CACHE", "EARSHOT_DATA"),
)
"""Variables that a check needs; others may be secrets of the service."""
_SMALL = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""Fewer threads and arenas: each takes address space."""

_log = logging.getLogger(__name__)

Owns = Callable[[str], bool]
"""Returns whether the submitter may read the run directory of a job."""


class _TooLateError(EarshotError):
    """The process has not answered in time."""


class CheckerProcess:
    """One process. Its methods block; call `check` from one thread at a time, `kill` from any."""

    def __init__(self, limits: CheckLimits) -> None:
        ours, theirs = socket.socketpair()
        self._limits = limits
        with theirs:
            fd = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(fd), str(os.getpid()), json.dumps(asdict(limits))],
                pass_fds=(fd,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | _SMALL,
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        self._started = self.checked = False
        self.usable = True
        """False if it has ended, or is about to."""

    def start(self) -> None:
        """Wait until its modules are loaded. Raises OSError or EOFError if they cannot be."""
        if not self._started:
            try:
                self._receive(_START_SECONDS)
            except BaseException:
                self.kill()
                raise
            self._started = True

    def check(self, request: bytes, owns: Owns) -> dict[str, Any]:
        """Return the outcome of a check. Raises SpecError if it took too much, EOFError if nothing was checked.

        An error of `owns` is raised as it is.
        """
        self.start()
        until, key, done = time.monotonic() + self._limits.seconds, "", False
        try:
            self._connection.send_bytes(request)
            while True:
                message = self._receive(until - time.monotonic())
                if "owns" in message:
                    key = key or "the job"
                    self._connection.send_bytes(b"true" if owns(message["owns"]) else b"false")
                elif "reads" in message:
                    key = message["reads"]
                else:
                    done = not message["last"]
                    return message
        except _TooLateError:
            raise SpecError(
                f"{key or 'the job'}: takes more than {self._limits.seconds:.0f} s to check, the limit of this "
                "service; divide it into smaller files"
            ) from None
        except (EOFError, ConnectionError) as error:
            if not key and self.checked:  # it ended between two jobs
                raise EOFError from error
            raise SpecError(
                f"{key or 'the job'}: takes more memory or processor time to check than this service allows; divide "
                "it into smaller files"
            ) from error
        finally:
            self.checked = True
            if not done:
                self.kill()

    def kill(self) -> None:
        """End the process, without waiting for it: one that waits for a disk ends when the disk answers."""
        self.usable = False
        self.process.kill()

    def _receive(self, seconds: float) -> dict[str, Any]:
        if not self._connection.poll(max(0.0, seconds)):
            raise _TooLateError
        message: dict[str, Any] = json.loads(self._connection.recv_bytes(_LARGEST_REPLY))
        return message


class _GivenUpError(EarshotError):
    """Nobody waits for the check any more."""


class _Check:
    """One check, which whoever asked for it may give up at any moment."""

    def __init__(self, request: bytes, owns: Owns) -> None:
        self.request, self.owns = request, owns
        self._lock = threading.Lock()
        self._checker: CheckerProcess | None = None
        self._given_up = False

    @contextmanager
    def by(self, checker: CheckerProcess) -> Iterator[None]:
        """Let a process work for this check alone. Raises _GivenUpError if nobody waits for it any more."""
        with self._lock:
            self._refuse_given_up()
            self._checker = checker
        try:
            yield
        finally:
            with self._lock:  # from here on, the process may work for another check
                self._checker = None

    def refuse_given_up(self) -> None:
        """Raise _GivenUpError if nobody waits for the check any more."""
        with self._lock:
            self._refuse_given_up()

    def give_up(self) -> None:
        """End the process that works for the check; none works for it later."""
        with self._lock:
            self._given_up = True
            if self._checker is not None:
                self._checker.kill()

    def _refuse_given_up(self) -> None:
        if self._given_up:
            raise _GivenUpError("nobody waits for the check")


class Checkers:
    """The processes of one service, and the threads that wait for them."""

    def __init__(self, limits: CheckLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._idle: list[CheckerProcess] = []
        self._all: list[CheckerProcess] = []
        self._threads: ThreadPoolExecutor | None = None
        # For services that are not closed, as those of tests.
        self._finalizer = weakref.finalize(self, _kill_all, self._all)

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that have not ended."""
        return [checker.process.pid for checker in tuple(self._all) if checker.process.poll() is None]

    async def check(self, request: bytes, owns: Callable[[str], Awaitable[bool]]) -> dict[str, Any]:
        """Return the outcome of a check.

        Raises:
            SpecError: it took too much.
            AdmissionBusyError: no process can be started.
        """
        loop = asyncio.get_running_loop()

        async def answered(run: str) -> bool:
            return await owns(run)

        def ask(run: str) -> bool:
            return asyncio.run_coroutine_threadsafe(answered(run), loop).result(_ASKED_SECONDS)

        check = _Check(request, ask)
        work = loop.run_in_executor(self._executor(), self._carry_out, check)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            check.give_up()
            work.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody waits for it
            raise

    def warm(self) -> None:
        """Start a process in the background, so that the first check does not wait for it."""
        self._executor().submit(self._warm)

    def close(self) -> None:
        """End all processes."""
        _kill_all(self._all)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def _executor(self) -> ThreadPoolExecutor:
        if self._threads is None:
            # The kernel ends a process with the thread that started it: these threads stay.
            self._threads = ThreadPoolExecutor(self._limits.at_once, thread_name_prefix="admission")
        return self._threads

    def _warm(self) -> None:
        try:
            checker = self._take()
            checker.start()
            self._put_back(checker)
        except Exception as error:
            _log.warning("the process that checks jobs does not start: %r", error)

    def _carry_out(self, check: _Check) -> dict[str, Any]:
        for _ in range(_ATTEMPTS):
            check.refuse_given_up()
            try:
                checker = self._take()
                try:
                    with check.by(checker):
                        outcome = checker.check(check.request, check.owns)
                finally:
                    self._put_back(checker)
            except (EOFError, _TooLateError):
                check.refuse_given_up()
                if not checker.checked:
                    _log.error("the process that checks jobs ended at its start: run `python -m %s`", _MODULE)
                continue
            except OSError as error:
                _log.error("the process that checks jobs does not start: %s", error)
                break
            return outcome
        raise AdmissionBusyError("no process can be started that checks the job; send it again", _RETRY_SECONDS)

    def _put_back(self, checker: CheckerProcess) -> None:
        """Keep a process for the next check, unless it has ended or is about to."""
        if checker.usable:
            self._idle.append(checker)

    def _take(self) -> CheckerProcess:
        """Return an idle process, else a new one. Raises OSError, AdmissionBusyError."""
        with self._lock:
            self._all[:] = [checker for checker in self._all if checker.process.poll() is None]
            while self._idle:
                checker = self._idle.pop()
                if checker in self._all:
                    return checker
            stuck = sum(not checker.usable for checker in self._all)
            if stuck >= _MOST_STUCK:
                raise AdmissionBusyError("earlier jobs wait for a disk that does not answer", _RETRY_SECONDS)
            checker = CheckerProcess(self._limits)
            self._all.append(checker)
            return checker


def _kill_all(checkers: list[CheckerProcess]) -> None:
    for checker in checkers:
        checker.kill()
