"""Requests and replies, JSON objects on one line each, between a benchmark and a peer process.

Invariant: every request gets exactly one reply, or an error that describes the peer's end. A peer outlives neither the
benchmark's `with` block nor the benchmark. This module uses the standard library only, because peers import it too.
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

_EXIT_SECONDS = 10.0


class PeerError(RuntimeError):
    """The peer ended, or did not reply in time."""


class Peer:
    """The benchmark's end: starts the peer, sends requests, and stops it."""

    def __init__(
        self, name: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], timeout: float
    ) -> None:
        """Start `command` in `folder` with exactly `environment`. It has `timeout` seconds for each reply."""
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

    def request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return the peer's reply.

        Raises:
            PeerError: there is no reply.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # The peer has ended; its exit code is reported below.
        try:
            line = self._lines.get(timeout=self._timeout)
        except queue.Empty:
            raise PeerError(f"{self._name} did not reply within {self._timeout:g} s") from None
        if line is None:
            code = self._process.wait(timeout=_EXIT_SECONDS)
            raise PeerError(f"{self._name} ended with exit code {code} instead of replying; see stderr")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        try:
            if kind is None:
                self._process.stdin.close()
                self._process.wait(timeout=_EXIT_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()


class Requests:
    """The peer's end. Everything else that the peer prints goes to stderr from then on."""

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def next(self) -> dict[str, Any]:
        """Return the next request. Ends the process when there are no more."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        request: dict[str, Any] = json.loads(line)
        return request

    def reply(self, reply: Mapping[str, Any]) -> None:
        self._replies.write(json.dumps(reply) + "\n")
        self._replies.flush()
