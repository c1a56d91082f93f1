"""Following files that grow, for many streams at once: one look at a file serves all who follow it.

Invariant: a stream that begins at a place gets every line from there on once, in order; the id of each is the place
behind it, so a stream that begins anew at the last id it had goes on without a gap or a repeat.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.run.lines import lines_after, size_of

Encode = Callable[[bytes], bytes]
"""A line of the file as what a stream shows of it, in one line."""

HEARTBEAT = b": still here\n\n"
_PIECE = 64 * 1024
_PIECES_KEPT = 8


class Tail:
    """One file that somebody follows."""

    def __init__(self, path: Path, encode: Encode, is_over: Callable[[], Awaitable[bool]]) -> None:
        self.path = path
        self.followers = 0
        self.over = False
        """Nothing is written any more."""
        self.over_checked = 0.0
        self._encode = encode
        self._is_over = is_over
        self._seen = size_of(path)
        self._changed = asyncio.Event()
        # Those who are up to date are all at one place: what the first of them reads is there for the others.
        self._pieces: OrderedDict[int, tuple[int, bytes]] = OrderedDict()

    def read(self, place: int) -> tuple[int, bytes]:
        """Lines from `place` on as server-sent events, and the place behind them. Raises PlaceError."""
        if place in self._pieces:
            return self._pieces[place]
        lines = lines_after(self.path, place, limit=1000, most_bytes=_PIECE)
        events = b"".join(b"id: %d\ndata: %s\n\n" % (line.end, self._encode(line.text)) for line in lines)
        self._pieces[place] = (lines[-1].end if lines else place, events)
        while len(self._pieces) > _PIECES_KEPT:
            self._pieces.popitem(last=False)
        return self._pieces[place]

    def look(self) -> None:
        """Wake the followers if the file is longer than at the last look, or another one."""
        size = size_of(self.path)
        if size != self._seen:
            # What ended here may go on now, and a shorter file may be another one.
            kept = self._pieces if size > self._seen else {}
            self._pieces = OrderedDict((place, piece) for place, piece in kept.items() if piece[1])
            self._seen = size
            self._wake()

    async def ask_whether_over(self) -> None:
        """Find out whether anything will be written; wake the followers if not."""
        self.over_checked = time.monotonic()
        if not self.over and await self._is_over():
            self.look()
            self.over = True
            self._wake()

    async def wait(self, seconds: float) -> bool:
        """Until something changes, at most so long; whether it did."""
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
    """The files that are followed. For use on one event loop."""

    def __init__(self, look_seconds: float = 0.2, heartbeat_seconds: float = 15, longest_seconds: float = 3600) -> None:
        """
        Args:
            longest_seconds: of one stream; who still follows begins anew where it ended.
        """
        self._look_seconds = look_seconds
        self._heartbeat = heartbeat_seconds
        self._longest = longest_seconds
        self._tails: dict[Path, Tail] = {}
        self._looking: asyncio.Task[None] | None = None
        self.streams = 0

    async def follow(
        self, path: Path, place: int, encode: Encode, is_over: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[bytes]:
        """Server-sent events of the lines from `place` on until `is_over`, then one named `end`; heartbeats between.

        Raises:
            PlaceError: no line begins at `place`.
        """
        ends = time.monotonic() + self._longest
        async with self._tail(path, encode, is_over) as tail:
            await tail.ask_whether_over()
            # At once, so that whoever follows knows that it is connected.
            yield HEARTBEAT
            while True:
                # Asked before reading: what was written until then is read still.
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
        """Look no more; who follows gets heartbeats only."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
            self._looking = None

    @asynccontextmanager
    async def _tail(self, path: Path, encode: Encode, is_over: Callable[[], Awaitable[bool]]) -> AsyncIterator[Tail]:
        tail = self._tails.setdefault(path, Tail(path, encode, is_over))
        tail.followers += 1
        self.streams += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            yield tail
        finally:
            tail.followers -= 1
            self.streams -= 1
            if not tail.followers:
                del self._tails[path]

    async def _look(self) -> None:
        while self._tails:
            await asyncio.sleep(self._look_seconds)
            # However many files there are, no more than 50 of these questions a second.
            pause, now = max(1.0, len(self._tails) / 50), time.monotonic()
            for tail in tuple(self._tails.values()):
                tail.look()
                if not tail.over and now - tail.over_checked > pause:
                    await tail.ask_whether_over()
