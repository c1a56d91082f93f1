"""Streams of growing files: each file is polled and read once for all its streams.

Invariant: a stream gets every line from its start on once, in order. The id of a line is the offset after it, so a
client that reconnects with the last id it got continues without a gap or a repetition.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.run.lines import lines_after, size_of

Encode = Callable[[bytes], bytes]
"""Turns a line of the file into one line of the stream."""

HEARTBEAT = b": still here\n\n"
_PIECE = 64 * 1024
_PIECES_KEPT = 8


class Tail:
    """One file with at least one stream."""

    def __init__(self, path: Path, encode: Encode, is_over: Callable[[], Awaitable[bool]]) -> None:
        self.path = path
        self.streams = 0
        self.over = False
        """No more lines will be written."""
        self.checked = 0.0
        self._encode = encode
        self._is_over = is_over
        self._seen = size_of(path)
        self._changed = asyncio.Event()
        # Streams that are up to date are all at the same place: the first one reads for the others.
        self._pieces: OrderedDict[int, tuple[int, bytes]] = OrderedDict()

    def read(self, place: int) -> tuple[int, bytes]:
        """Return the place after the lines from `place` on, and the lines as server-sent events. Raises PlaceError."""
        if place in self._pieces:
            return self._pieces[place]
        lines = lines_after(self.path, place, limit=1000, most_bytes=_PIECE)
        events = b"".join(b"id: %d\ndata: %s\n\n" % (line.end, self._encode(line.text)) for line in lines)
        self._pieces[place] = (lines[-1].end if lines else place, events)
        while len(self._pieces) > _PIECES_KEPT:
            self._pieces.popitem(last=False)
        return self._pieces[place]

    def poll(self) -> None:
        """Wake the streams if the size of the file has changed."""
        size = size_of(self.path)
        if size != self._seen:
            # Pieces that ended at the old end may have a continuation, and a shorter file is a new one.
            kept = self._pieces if size > self._seen else {}
            self._pieces = OrderedDict((place, piece) for place, piece in kept.items() if piece[1])
            self._seen = size
            self._wake()

    async def check_over(self) -> None:
        """Check whether the file is final; wake the streams if so."""
        self.checked = time.monotonic()
        if not self.over and await self._is_over():
            self.poll()
            self.over = True
            self._wake()

    async def wait(self, seconds: float) -> bool:
        """Wait for a change for at most `seconds`; return whether there was one."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Tails:
    """All files with streams. For use on one event loop."""

    def __init__(self, poll_seconds: float = 0.2, heartbeat_seconds: float = 15, longest_seconds: float = 3600) -> None:
        """
        Args:
            longest_seconds: longest duration of one stream; its client reconnects where it ended.
        """
        self._poll_seconds = poll_seconds
        self._heartbeat = heartbeat_seconds
        self._longest = longest_seconds
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
        async with self._tail(path, encode, is_over) as tail:
            await tail.check_over()
            # Immediately, so that the client knows that it is connected.
            yield HEARTBEAT
            while True:
                # Checked before reading, so that everything written up to then is read.
                over = tail.over
                place, events = tail.read(place)
                if events:
                    yield events
                elif over:
                    yield b"event: end\nid: %d\ndata: {}\n\n" % place
                    return
                elif time.monotonic() > ends:
                    return
                elif not await tail.wait(self._heartbeat):
                    yield HEARTBEAT

    async def stop(self) -> None:
        """Stop polling; open streams get heartbeats only."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
            self._polling = None

    @asynccontextmanager
    async def _tail(self, path: Path, encode: Encode, is_over: Callable[[], Awaitable[bool]]) -> AsyncIterator[Tail]:
        tail = self._tails.setdefault(path, Tail(path, encode, is_over))
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
            # At most 50 checks per second, however many files there are.
            pause, now = max(1.0, len(self._tails) / 50), time.monotonic()
            for tail in tuple(self._tails.values()):
                tail.poll()
                if not tail.over and now - tail.checked > pause:
                    await tail.check_over()
