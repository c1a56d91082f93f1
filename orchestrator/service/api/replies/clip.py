"""A file as a response, in ranges of bytes if the request asks for them.

Invariant: all bytes of a response are from the file that was opened for it, also if another one replaces it meanwhile.
"""

import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.problems import problem_response
from orchestrator.service.api.replies.byte_ranges import ByteRange, UnsatisfiableRangeError, parse_ranges
from orchestrator.service.api.replies.head import is_head
from orchestrator.service.api.replies.validators import allows_range, etag_of, is_another, is_unchanged
from orchestrator.service.telemetry.file_threads import FileThreads

_PIECE = 256 * 1024


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that is open for reading."""

    descriptor: int
    size: int
    modified: datetime
    """To the second, as HTTP has it."""
    etag: str

    @classmethod
    def of(cls, path: Path) -> "OpenFile":
        """Open a file. Raises OSError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        identity = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
        modified = datetime.fromtimestamp(int(status.st_mtime), UTC)
        return cls(descriptor, status.st_size, modified, etag_of(identity.encode()))

    def read(self, start: int, count: int) -> bytes:
        """Return `count` bytes. Raises OSError, also if the file has become shorter."""
        data = os.pread(self.descriptor, count, start)
        if not data:
            raise OSError("the file has become shorter")
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


class ClipResponse(Response):
    """The bytes of a clip, or of the parts of it that the request asks for."""

    def __init__(
        self, file: OpenFile, name: str, media_type: str, headers: Mapping[str, str], threads: FileThreads, key: Path
    ) -> None:
        """The response closes `file`; `key` is the folder of the clip."""
        super().__init__()
        self._file, self._threads, self._key = file, threads, key
        self._kind = media_type
        self._common = {
            **headers,
            "Content-Disposition": _inline(name),
            "Accept-Ranges": "bytes",
            "Last-Modified": format_datetime(file.modified, usegmt=True),
            "ETag": file.etag,
            "Cache-Control": "private, no-cache",
            "Vary": "Authorization",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        finally:
            # A file that hangs while it is closed must not keep the response open.
            self._threads.start(self._file.close)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope)
        if is_another(asked, self._file.etag, self._file.modified):
            detail = "the clip is another one by now; download it from its beginning"
            await problem_response(ProblemCode.PRECONDITION_FAILED, detail)(scope, receive, send)
            return
        if is_unchanged(asked, self._file.etag, self._file.modified):
            await Response(status_code=304, headers=self._common)(scope, receive, send)
            return
        ranges = None
        if "range" in asked and not is_head(scope) and allows_range(asked, self._file.etag, self._file.modified):
            try:
                ranges = parse_ranges(asked["range"], self._file.size)
            except UnsatisfiableRangeError as error:
                refused = problem_response(
                    ProblemCode.RANGE_NOT_SATISFIABLE,
                    str(error),
                    headers={"Content-Range": f"bytes */{self._file.size}"},
                )
                await refused(scope, receive, send)
                return
        if ranges is None:
            await self._send(send, 200, {"Content-Type": self._kind}, [(b"", ByteRange(0, self._file.size))], scope)
        elif len(ranges) == 1:
            headers = {"Content-Type": self._kind, "Content-Range": self._place(ranges[0])}
            await self._send(send, 206, headers, [(b"", ranges[0])], scope)
        else:
            boundary = secrets.token_hex(12)
            headers = {"Content-Type": f"multipart/byteranges; boundary={boundary}"}
            parts = [(self._part_head(boundary, wanted, i), wanted) for i, wanted in enumerate(ranges)]
            parts.append((f"\r\n--{boundary}--\r\n".encode(), ByteRange(0, 0)))
            await self._send(send, 206, headers, parts, scope)

    def _place(self, wanted: ByteRange) -> str:
        return f"bytes {wanted.start}-{wanted.end - 1}/{self._file.size}"

    def _part_head(self, boundary: str, wanted: ByteRange, number: int) -> bytes:
        begin = "\r\n" if number else ""
        head = f"{begin}--{boundary}\r\nContent-Type: {self._kind}\r\nContent-Range: {self._place(wanted)}\r\n\r\n"
        return head.encode()

    async def _send(
        self,
        send: Send,
        status: int,
        headers: Mapping[str, str],
        parts: Sequence[tuple[bytes, ByteRange]],
        scope: Scope,
    ) -> None:
        length = sum(len(head) + len(wanted) for head, wanted in parts)
        start = Response(status_code=status, headers={**self._common, **headers, "Content-Length": str(length)})
        await send({"type": "http.response.start", "status": status, "headers": start.raw_headers})
        if not is_head(scope):
            async for data in self._bytes(parts):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _bytes(self, parts: Sequence[tuple[bytes, ByteRange]]) -> AsyncIterator[bytes]:
        for head, wanted in parts:
            if head:
                yield head
            place = wanted.start
            while place < wanted.end:
                count = min(_PIECE, wanted.end - place)
                data = await self._threads.run(self._key, self._file.read, place, count)
                yield data
                place += len(data)


def _inline(name: str) -> str:
    quoted = quote(name, safe="")
    return f'inline; filename="{name}"' if quoted == name else f"inline; filename*=utf-8''{quoted}"
