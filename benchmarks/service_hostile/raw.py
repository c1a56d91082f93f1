"""Hostile bytes on a connection: what no client library sends."""

import asyncio
import itertools
import random
import socket
from collections.abc import Iterable

from benchmarks.service_hostile.owners import Owner

RAW_KINDS = (
    "huge header",
    "half a head",
    "half a body",
    "chunks of one byte",
    "extensions of chunks",
    "pipeline",
    "trailers",
    "nonsense",
    "nothing",
    "unread response",
)
_HALF_SECONDS = 45.0
"""Longest time to wait for the service to end a half-sent request."""


class RawAttacker:
    """Sends bytes to the service as one user."""

    def __init__(self, chance: random.Random, me: Owner, port: int) -> None:
        self._chance, self._me, self._port = chance, me, port
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {me.token}\r\n".encode()

    async def send(self, kind: str) -> bytes:
        """Send something of this kind; return what came back until the service closed the connection."""
        if kind == "unread response":
            return await self._unread()
        seconds = _HALF_SECONDS if kind in {"half a head", "half a body", "nothing"} else 40.0
        return await self.exchange(self._pieces(kind), seconds)

    def _pieces(self, kind: str) -> Iterable[bytes]:
        get, post = b"GET /v1/jobs HTTP/1.1\r\n" + self._head, b"POST /v1/jobs HTTP/1.1\r\n" + self._head
        chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
        pieces: dict[str, Iterable[bytes]] = {
            "huge header": itertools.chain([get + b"X: "], itertools.repeat(b"x" * 65_536, 128)),
            "half a head": [get + b"X-Half: "],
            "half a body": [post + b"Content-Length: 1000\r\n\r\n" + b"{" * self._chance.choice([0, 1, 999])],
            "chunks of one byte": itertools.chain([chunked], itertools.repeat(b"1\r\n \r\n" * 10_000, 20)),
            "extensions of chunks": itertools.chain(
                [chunked], itertools.repeat(b"1;a=" + b"b" * 8_000 + b"\r\n \r\n", 200)
            ),
            "pipeline": [(get + b"\r\n") * self._chance.choice([2, 8, 500])],
            "trailers": [chunked + b"2\r\n{}\r\n0\r\n", *[b"X: " + b"x" * 60_000 + b"\r\n"] * 30],
            "nonsense": [self._chance.randbytes(self._chance.choice([1, 100, 100_000]))],
            "nothing": [],
        }
        return pieces[kind]

    async def exchange(self, pieces: Iterable[bytes], seconds: float) -> bytes:
        """Send pieces on a new connection, and return what comes back until the service closes it."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, family=socket.AF_INET)
        except OSError:
            return b""
        sending = asyncio.create_task(_send(writer, pieces))
        found = b""
        try:
            async with asyncio.timeout(seconds):
                while piece := await reader.read(2**16):
                    found += piece
        except (TimeoutError, ConnectionError):
            pass
        sending.cancel()
        writer.transport.abort()
        return found

    async def _unread(self) -> bytes:
        """Ask for many responses and read none."""
        loop = asyncio.get_running_loop()
        with socket.socket() as narrow:
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            narrow.setblocking(False)
            try:
                await loop.sock_connect(narrow, ("127.0.0.1", self._port))
                for _ in range(4):
                    await loop.sock_sendall(narrow, b"GET /openapi.json HTTP/1.1\r\n" + self._head + b"\r\n")
            except OSError:
                return b""
            await asyncio.sleep(self._chance.choice([1, 10]))
        return b""


async def _send(writer: asyncio.StreamWriter, pieces: Iterable[bytes]) -> None:
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
