"""Runs custom reward functions in separate processes, with a timeout for each call.

Invariant: every call gets exactly one outcome, in order: a finite number, or the reason for its absence. A call that
raises, hangs or kills its process never changes the outcome of another call.

Calls are sent in chunks, and a chunk that fails as a whole is repeated call by call, since reward functions are pure.
This protects from accidents, not from hostile code, which runs with the permissions of its process.
"""

import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from numbers import Real
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from reward.functions import RewardFunction
from reward.outcome import Failed, Outcome
from reward.registry import RewardError, resolve

T = TypeVar("T")
_log = logging.getLogger(__name__)

_LARGEST_CHUNK = 64
# A process returns its partial results of a chunk after this time, so that a slow function does not seem to hang.
_SLICE_SECONDS = 1.0
# Importing a custom module (with a symbolic algebra library, say) takes seconds, which do not count as a call.
_START_SECONDS = 120.0
_POLL_SECONDS = 0.2
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class RewardCall:
    """One call of a reward function for one completion."""

    function: str
    """Name of the function in the registry."""
    question: Question
    text: str
    template: PromptTemplate


def evaluate(function: RewardFunction, call: RewardCall) -> Outcome:
    """Call a reward function in this process; return its finite number, or the reason for its absence."""
    try:
        value: object = function(call.question, call.text, call.template)
        if not isinstance(value, Real):
            return Failed(f"returned {type(value).__module__}.{type(value).__qualname__}, not a number")
        number = float(value)
    except Exception as error:
        return Failed(_reason(error))
    return number if math.isfinite(number) else Failed(f"returned {number}, not a finite number")


class Sandbox:
    """A pool of processes that run named reward functions. Not thread-safe."""

    def __init__(
        self, functions: Sequence[str], *, allowed_modules: Sequence[str], timeout_seconds: float, processes: int
    ) -> None:
        """Start the processes and import the functions there. Raises RewardError for an unusable function."""
        self._functions = tuple(functions)
        self._allowed_modules = tuple(allowed_modules)
        self._timeout = timeout_seconds
        self._processes = processes
        self._pool = self._new_pool()
        try:
            problems = self._wait(self._pool.schedule(_problems), _START_SECONDS)
            if problems is None or isinstance(problems, Failed):
                raise RewardError(
                    f"reward functions {', '.join(self._functions)}: their process ended or hung while it imported "
                    "their modules; make the import return"
                )
            if problems:
                raise RewardError(problems[0])
        except BaseException:
            self.close()
            raise

    def run(self, calls: Sequence[RewardCall]) -> list[Outcome]:
        """Return the outcome of each call, in order. A call may last `timeout_seconds`."""
        if not self._pool.active:  # a process was killed while idle
            self._restart()
        size = max(1, min(_LARGEST_CHUNK, math.ceil(len(calls) / self._processes)))
        chunks = [range(start, min(start + size, len(calls))) for start in range(0, len(calls), size)]
        outcomes: dict[int, Outcome] = {}
        while chunks:
            chunks = self._round(calls, chunks, outcomes)
        return [outcomes[i] for i in range(len(calls))]

    def close(self) -> None:
        """Stop the processes at once, running calls included."""
        self._pool.stop()
        self._pool.join()

    def _round(self, calls: Sequence[RewardCall], chunks: list[range], outcomes: dict[int, Outcome]) -> list[range]:
        """Send every chunk once, record the outcomes, and return the chunks to send again."""
        futures = [self._schedule([calls[i] for i in chunk]) for chunk in chunks]
        again: list[range] = []
        orphans: list[range] = []
        for chunk, future in zip(chunks, futures, strict=True):
            # The pool works in order: all earlier chunks are done, so this one is running or next.
            done = self._wait(future, _START_SECONDS + self._limit(chunk))
            if done is None:
                orphans.append(chunk)
            elif isinstance(done, Failed) and len(chunk) == 1:
                outcomes[chunk[0]] = done
            elif isinstance(done, Failed):
                again += [range(i, i + 1) for i in chunk]
            else:
                outcomes.update(zip(chunk, done, strict=False))
                again += [chunk[len(done) :]] if len(done) < len(chunk) else []
        if orphans:
            self._restart()
            outcomes.update((i, self._alone(calls[i])) for chunk in orphans for i in chunk)
        return again

    def _alone(self, call: RewardCall) -> Outcome:
        """Return the outcome of a call that has the pool to itself: if the pool breaks, this call is the cause."""
        for _ in range(2):
            done = self._wait(self._schedule([call]), _START_SECONDS + self._timeout)
            if done is not None:
                return done if isinstance(done, Failed) else done[0]
            self._restart()
        return Failed("its process ended at once, twice")

    def _limit(self, chunk: Sequence[object]) -> float:
        """Return the maximum seconds of a chunk without a call that times out."""
        return self._timeout if len(chunk) == 1 else min(_SLICE_SECONDS, self._timeout) + self._timeout

    def _schedule(self, calls: Sequence[RewardCall]) -> "Future[list[Outcome]]":
        try:
            future: Future[list[Outcome]] = self._pool.schedule(
                _evaluate_chunk, args=(tuple(calls), self._timeout), timeout=self._limit(calls)
            )
        except RuntimeError as error:  # the pool broke since the last call
            future = Future()
            future.set_exception(BrokenProcessPool(str(error)))
        return future

    def _wait(self, future: "Future[T]", seconds: float) -> T | Failed | None:
        """Return the future's result or failure, or None if the pool broke or makes no progress."""
        end = time.monotonic() + seconds
        # A breaking pool drops its queue without resolving the futures: watch the pool, too.
        while not future.done() and self._pool.active and time.monotonic() < end:
            wait([future], timeout=_POLL_SECONDS)
        if not future.done():
            return None
        try:
            return future.result()
        except TimeoutError:
            return _late(self._timeout)
        except ProcessExpired as error:
            return Failed(f"its process ended with {_exit_text(error.exitcode)}")
        except BrokenProcessPool:
            return None
        except Exception as error:  # the call or its result could not be pickled
            return Failed(_reason(error))

    def _new_pool(self) -> ProcessPool:
        # Spawn: a forked process would inherit locks of threads, and sockets of Ray and torch.
        return ProcessPool(
            max_workers=self._processes,
            initializer=_start_process,
            initargs=(self._functions, self._allowed_modules),
            context=multiprocessing.get_context("spawn"),
        )

    def _restart(self) -> None:
        _log.warning("the reward processes broke down and are being restarted")
        self.close()
        self._pool = self._new_pool()


_loaded: dict[str, RewardFunction | RewardError] = {}
"""In a reward process: its functions by name, or the error of each unusable one."""


def _start_process(functions: Sequence[str], allowed_modules: Sequence[str]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in functions:
        try:
            _loaded[name] = resolve(name, allowed_modules)
        except RewardError as error:
            _loaded[name] = error


def _end_with_parent() -> None:
    """Exit when the parent ends: a parent that is killed cannot stop its processes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _problems() -> list[str]:
    return [str(loaded) for loaded in _loaded.values() if isinstance(loaded, RewardError)]


def _evaluate_chunk(calls: Sequence[RewardCall], timeout_seconds: float) -> list[Outcome]:
    """Return the outcomes of the first calls, at least one, and as many as fit into a time slice."""
    outcomes: list[Outcome] = []
    slice_start = time.monotonic()
    for call in calls:
        start = time.monotonic()
        function = _loaded[call.function]
        try:
            outcome = Failed(str(function)) if isinstance(function, RewardError) else evaluate(function, call)
        except BaseException as error:  # sys.exit() in a function would end the process, and with it the chunk
            outcome = Failed(_reason(error))
        now = time.monotonic()
        outcomes.append(_late(timeout_seconds) if now - start > timeout_seconds else outcome)
        if now - slice_start > _SLICE_SECONDS:
            break
    return outcomes


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _late(timeout_seconds: float) -> Failed:
    return Failed(f"no result within {timeout_seconds:g} s")


def _reason(error: BaseException) -> str:
    # format_exception_only handles exceptions whose str() fails.
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "…"
