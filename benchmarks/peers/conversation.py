"""JSON objects, one a line, between a benchmark and a peer that runs in a process and an environment of its own.

Invariant: every question gets exactly one answer, or an error that says what became of the peer; a peer outlives
neither the benchmark's `with` block nor the benchmark. This module imports the standard library only: peers use it too.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_GOODBYE_SECONDS = 10.0


class PeerError(RuntimeError):
    """A peer that ended, or did not answer in time."""


class Peer:
    """The benchmark's end: starts the peer, asks it, and ends it."""

    def __init__(
        self, name: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], timeout: float
    ) -> None:
        """Start `command` in `folder` with `environment` and no other; it has `timeout` seconds for an answer."""
        self._name, self._timeout = name, timeout
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The peer's answer.

        Raises:
            PeerError: there is none.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # It has ended; how is told below.
        try:
            line = self._lines.get(timeout=self._timeout)
        except queue.Empty:
            raise PeerError(f"{self._name} did not answer within {self._timeout:g} s") from None
        if line is None:
            code = self._process.wait(timeout=_GOODBYE_SECONDS)
            raise PeerError(f"{self._name} ended with exit code {code} instead of answering; see stderr")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        try:
            if kind is None:
                self._process.stdin.close()
                self._process.wait(timeout=_GOODBYE_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()


class Questions:
    """The peer's end. Whatever else the peer prints goes to stderr from then on."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def next(self) -> dict[str, Any]:
        """The next question; ends the process when there will be none."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        question: dict[str, Any] = json.loads(line)
        return question

    def answer(self, answer: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()
