"""Streams of growing files: each file is polled and read once for all its streams.

Invariant: a stream gets every line from its start on once, in order. The id of a line is the offset after it, so a
client that reconnects with the last id it got continues without a gap or a repetition. A file that cannot be read for a
while, or was replaced by another one, ends its streams in order: the client reconnects, and learns why.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.run.lines import PlaceError, check_before, lines_after
from orchestrator.service.telemetry.file_threads import FilesUnavailableError, FileThreads
from orchestrator.service.telemetry.sweep import Sweep

Encode = Callable[[bytes], bytes]
"""Turns a line of the file into one line of the stream."""

HEARTBEAT = b": still here\n\n"
_PIECE = 64 * 1024
_PIECES_KEPT = 8
_LINES = 1000
_MARK = 64
"""Bytes before a place by which a replaced file is recognised."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Lines from one place on."""

    end: int
    """Place after them."""
    events: bytes
    """The lines as server-sent events."""
    mark: bytes
    """Last bytes before `end`; empty if they are not known."""
    complete: bool
    """No complete line came after them at that time."""


class Tail:
    """One file with at least one stream."""

    def __init__(
        self, path: Path, encode: Encode, is_over: Callable[[], Awaitable[bool]], threads: FileThreads
    ) -> None:
        self.path = path
        self.streams = 0
        self.over = False
        """No more lines will be written."""
        self.checked = 0.0
        self.changed = asyncio.Event()
        """Set at the next change; take it before reading, and wait for it afterwards."""
        self._encode, self._is_over, self._threads = encode, is_over, threads
        self._seen: tuple[int, int] | None = None
        # Streams that are up to date are all at the same place: the first one reads for the others.
        self._pieces: OrderedDict[int, asyncio.Future[_Piece]] = OrderedDict()
        self._waking: asyncio.Task[None] | None = None

    async def read(self, place: int, mark: bytes) -> _Piece:
        """Return the lines from `place` on.

        Raises:
            PlaceError: no line begins at `place`, or `mark` is not before it.
            FilesUnavailableError: the file cannot be read now.
        """
        reading = self._pieces.get(place) or self._begin(place, mark)
        # A stream that is closed must not cancel the read of the others.
        return reading.result() if reading.done() else await asyncio.shield(reading)

    def saw(self, stamp: tuple[int, int] | None) -> None:
        """Take inode and size of the file; wake the streams if they have changed.

        None: the file does not answer. The streams that read it learn whether they can.
        """
        if stamp == self._seen:
            return
        before, self._seen = self._seen, stamp
        grown = before is not None and stamp is not None and before[0] == stamp[0] and before[1] < stamp[1]
        # A piece without lines may have a continuation now, and so may one that is being read.
        pieces = {place: _found(piece) for place, piece in self._pieces.items()}
        kept = {place: self._pieces[place] for place, piece in pieces.items() if grown and piece and piece.events}
        self._pieces = OrderedDict(kept)
        # Read where streams wait, and wake them afterwards: thousands that await one read cost more than the read.
        waited = {place: piece for place, piece in pieces.items() if piece and not piece.events}
        reads = [self._begin(place, piece.mark) for place, piece in waited.items()]
        if reads:
            self._waking = asyncio.create_task(self._wake_after(reads))
        else:
            self._wake()

    async def check_over(self) -> None:
        """Check whether the file is final; wake the streams if so."""
        self.checked = time.monotonic()
        if not self.over and await self._is_over():
            # What is being read now may have begun before the last line was written.
            self._pieces.clear()
            self.over = True
            self._wake()

    def _lines(self, place: int, mark: bytes) -> _Piece:
        check_before(self.path, place, mark)
        lines = lines_after(self.path, place, limit=_LINES, most_bytes=_PIECE)
        complete = len(lines) < _LINES and sum(len(line.text) for line in lines) < _PIECE - _LINES
        events = b"".join(b"id: %d\ndata: %s\n\n" % (line.end, self._encode(line.text)) for line in lines)
        end, last = (lines[-1].end, lines[-1].text[-_MARK:] + b"\n") if lines else (place, mark)
        return _Piece(end, events, last, complete)

    def _begin(self, place: int, mark: bytes) -> "asyncio.Future[_Piece]":
        reading = asyncio.create_task(self._threads.run(self.path.parent, self._lines, place, mark))
        reading.add_done_callback(lambda done: self._keep(place, done))
        self._pieces[place] = reading
        while len(self._pieces) > _PIECES_KEPT:
            self._pieces.popitem(last=False)
        return reading

    async def _wake_after(self, reads: "Sequence[asyncio.Future[_Piece]]") -> None:
        await asyncio.wait(reads)
        self._wake()

    def _keep(self, place: int, done: "asyncio.Future[_Piece]") -> None:
        if self._pieces.get(place) is not done:
            return
        piece = _found(done)
        if piece is None:
            del self._pieces[place]
        elif piece.events and piece.complete and piece.end not in self._pieces:
            # The streams go on there: nothing is left to read until the file changes.
            after = asyncio.get_running_loop().create_future()
            after.set_result(_Piece(piece.end, b"", piece.mark, complete=True))
            self._pieces[piece.end] = after

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


def _found(reading: "asyncio.Future[_Piece]") -> _Piece | None:
    """Return what was read; None if that has not ended, or failed."""
    ended = reading.done() and not reading.cancelled() and reading.exception() is None
    return reading.result() if ended else None


class Tails:
    """All files with streams. For use on one event loop."""

    def __init__(
        self,
        poll_seconds: float = 0.2,
        heartbeat_seconds: float = 15,
        longest_seconds: float = 3600,
        *,
        threads: FileThreads | None = None,
        failing_seconds: float = 30,
        patience: float = 1.0,
    ) -> None:
        """
        Args:
            longest_seconds: longest duration of one stream; its client reconnects where it ended.
            failing_seconds: how long to go on trying to read a file that cannot be read.
            patience: seconds for asking a file for its size; one that takes longer delays no other file.
        """
        self._poll_seconds, self._heartbeat, self._longest = poll_seconds, heartbeat_seconds, longest_seconds
        self._failing, self._retry = failing_seconds, min(1.0, heartbeat_seconds)
        self._threads = threads or FileThreads()
        self._stamps: Sweep[Path, tuple[int, int]] = Sweep(_stamp, patience=patience)
        self._tails: dict[Path, Tail] = {}
        self._polling: asyncio.Task[None] | None = None
        self.streams = 0

    async def follow(
        self, path: Path, place: int, encode: Encode, is_over: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[bytes]:
        """Yield the lines from `place` on as server-sent events until `is_over`, then one named `end`; and heartbeats.

        Raises:
            PlaceError: no line begins at `place`.
        """
        ends = time.monotonic() + self._longest
        failing_since, mark, began = None, b"", False
        async with self._tail(path, encode, is_over) as tail:
            await tail.check_over()
            # Immediately, so that the client knows that it is connected.
            yield HEARTBEAT
            while time.monotonic() <= ends:
                # Taken before reading, so that everything written up to then is read.
                over, changed = tail.over, tail.changed
                try:
                    piece = await tail.read(place, mark)
                except PlaceError:
                    if began:
                        return
                    raise
                except (FilesUnavailableError, OSError):
                    failing_since = failing_since or time.monotonic()
                    if time.monotonic() - failing_since >= self._failing:
                        return
                    yield HEARTBEAT
                    await asyncio.sleep(self._retry)
                    continue
                failing_since, began = None, True
                place, mark = piece.end, piece.mark
                if piece.events:
                    yield piece.events
                elif over:
                    yield b"event: end\nid: %d\ndata: {}\n\n" % place
                    return
                elif not await _is_set(changed, self._heartbeat):
                    yield HEARTBEAT

    async def stop(self) -> None:
        """Stop polling; open streams get heartbeats only."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
            self._polling = None

    @asynccontextmanager
    async def _tail(self, path: Path, encode: Encode, is_over: Callable[[], Awaitable[bool]]) -> AsyncIterator[Tail]:
        tail = self._tails.get(path)
        if tail is None:
            tail = self._tails[path] = Tail(path, encode, is_over, self._threads)
        tail.streams += 1
        self.streams += 1
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            yield tail
        finally:
            tail.streams -= 1
            self.streams -= 1
            if not tail.streams:
                del self._tails[path]

    async def _poll(self) -> None:
        while self._tails:
            await asyncio.sleep(self._poll_seconds)
            polled = tuple(self._tails)
            stamps = await self._stamps.of(polled)
            for path in polled:
                if tail := self._tails.get(path):
                    tail.saw(stamps.get(path))
            # At most 50 checks per second, however many files there are.
            pause, now = max(1.0, len(self._tails) / 50), time.monotonic()
            for tail in tuple(self._tails.values()):
                if not tail.over and now - tail.checked > pause:
                    await self._check_over(tail)

    async def _check_over(self, tail: Tail) -> None:
        try:
            await tail.check_over()
        except Exception:
            # One job's trouble must not end polling for all; the next check tries again.
            _log.exception("cannot check whether %s has ended", tail.path.parent.name)


def _stamp(path: Path) -> tuple[int, int]:
    """Return inode and size of a file; zeros while it is missing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_size


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
