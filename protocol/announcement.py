"""Messages between the learner and the rollout workers of its machine about weights in shared memory, on a socket.

A worker sends its name and receives an announcement of the newest weights, then of all later ones: a message of fixed
size with a descriptor of the memory file that contains them. It replies once it no longer reads the file. The file
describes itself: after the bytes of the weights, it lists the position of each. The socket (AF_UNIX, SEQPACKET) has an
abstract name, so it leaves no file; the process at the other end must belong to the same user.
"""

import json
import os
import secrets
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from protocol.weights import TensorSlot

MEMORY_FILE = "earshot-published"
"""Name of the memory files in the listings of a process's descriptors and mappings."""
_ANNOUNCEMENT = struct.Struct("<QqQQ?")
_REPLY = struct.Struct("<Q?")
_CREDENTIALS = struct.Struct("3i")
_LONGEST_NAME = 1024


@dataclass(frozen=True, slots=True)
class Announcement:
    """Announcement of new weights."""

    number: int
    """Number of the announcement, increasing from 1; unlike the version it never decreases."""
    version: int
    description: tuple[int, int]
    """First byte and length of the description in the memory file, which `described` reads."""
    audio_changed: bool
    """True if the audio tower or the projector changed."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Reply of a worker that no longer reads the memory of an announcement."""

    number: int
    holds: bool
    """True if the worker has the weights."""


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """A parameter in a memory file."""

    slot: TensorSlot
    offset: int
    """First byte of the parameter."""


def machine() -> str:
    """Return a name for the reach of this process's sockets: the machine since its boot, and the network namespace.

    Containers of one machine have different names, unless they share a network namespace. If the kernel does not tell,
    each call returns another name, so that no process seems to be on this machine.
    """
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{booted} {Path('/proc/self/ns/net').readlink()}"
    except OSError:
        return secrets.token_hex(16)


def listen() -> tuple[socket.socket, str]:
    """Return a socket that workers can connect to, and its address."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    address = f"earshot-weights-{secrets.token_hex(16)}"
    server.bind(f"\0{address}")
    server.listen(1024)
    server.setblocking(False)
    return server, address


def connect(address: str, name: str) -> socket.socket:
    """Connect as the worker of this name; the socket does not block. Raises OSError if no process listens there."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        client.setblocking(False)
        client.connect(f"\0{address}")
        require_same_user(client)
        client.send(name.encode())
    except BaseException:
        client.close()
        raise
    return client


def require_same_user(connected: socket.socket) -> None:
    """Raise PermissionError if the other end belongs to another user: an abstract name has no file permissions."""
    packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(packed)
    if user != os.getuid():
        raise PermissionError(f"the other end of a socket for weights is a process of user {user}")


def receive_name(connected: socket.socket) -> str:
    """Return the name that a worker sends first; empty if the worker has disconnected."""
    return connected.recv(_LONGEST_NAME).decode()


def send(connected: socket.socket, announcement: Announcement, descriptor: int) -> None:
    """Announce weights in a memory file. Raises OSError if the worker has disconnected."""
    one = announcement
    packed = _ANNOUNCEMENT.pack(one.number, one.version, *one.description, one.audio_changed)
    socket.send_fds(connected, [packed], [descriptor])


def receive(connected: socket.socket) -> tuple[Announcement, int] | None:
    """Return an announcement and a descriptor of its file, which the caller closes; None if the learner has gone.

    Raises BlockingIOError if there is no announcement yet, and OSError if the connection or the descriptor is lost.
    """
    packed, descriptors, _, _ = socket.recv_fds(connected, _ANNOUNCEMENT.size, 1)
    if not packed:
        return None
    if len(packed) != _ANNOUNCEMENT.size or not descriptors:
        raise OSError("weights were announced without their memory: this process may have too many files open")
    number, version, first, length, audio_changed = _ANNOUNCEMENT.unpack(packed)
    return Announcement(number, version, (first, length), audio_changed), descriptors[0]


def send_reply(connected: socket.socket, reply: Reply) -> None:
    connected.send(_REPLY.pack(reply.number, reply.holds))


def receive_reply(connected: socket.socket) -> Reply | None:
    """Return a reply, or None if the worker has disconnected.

    Raises BlockingIOError if there is no reply yet, ValueError for a message that is not a reply.
    """
    packed = connected.recv(_REPLY.size)
    if not packed:
        return None
    if len(packed) != _REPLY.size:
        raise ValueError(f"a reply has {_REPLY.size} bytes, not {len(packed)}")
    return Reply(*_REPLY.unpack(packed))


def description(placed: Sequence[PlacedTensor]) -> bytes:
    """Return the description that a memory file contains."""
    slots = [(one.slot, one.offset) for one in placed]
    return json.dumps([(s.name, s.dtype, s.shape, s.nbytes, s.digest, offset) for s, offset in slots]).encode()


def described(descriptor: int, announcement: Announcement) -> Sequence[PlacedTensor]:
    """Read the description in an announcement's file."""
    first, length = announcement.description
    return _read(os.pread(descriptor, length, first))


@lru_cache(maxsize=1)
def _read(text: bytes) -> tuple[PlacedTensor, ...]:
    """Parse a description. Cached: without digests all descriptions of a learner are equal."""
    return tuple(
        PlacedTensor(TensorSlot(name, dtype, tuple(shape), nbytes, digest), offset)
        for name, dtype, shape, nbytes, digest, offset in json.loads(text)
    )
