"""What the learner and the rollout workers of its machine say to each other on a socket, of weights in shared memory.

A worker says its name and is told of the newest weights, then of those that follow: a message of fixed size, and with
it a descriptor of the memory file that has them. It replies once it reads there no more. The file describes itself:
behind the weights' bytes it says where each of them is. The socket (AF_UNIX, SEQPACKET) has a name that is in no
folder, so nothing is left of it; whoever is at the other end must be the same user's process.
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
"""What the memory files are called where a process's descriptors and mappings are listed."""
_ANNOUNCEMENT = struct.Struct("<QqQQ?")
_REPLY = struct.Struct("<Q?")
_CREDENTIALS = struct.Struct("3i")
_LONGEST_NAME = 1024


@dataclass(frozen=True, slots=True)
class Announcement:
    """New weights."""

    number: int
    """Of this learner's announcements, upwards from 1. The version may go back, this does not."""
    version: int
    description: tuple[int, int]
    """First byte and length, in the memory file, of what `described` reads."""
    audio_changed: bool
    """Whether the audio tower or the projector changed."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker reads an announcement's memory no more."""

    number: int
    holds: bool
    """Whether it has the weights now."""


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """A parameter in a memory file."""

    slot: TensorSlot
    offset: int
    """Its first byte."""


def machine() -> str:
    """Names what a socket of this process can be heard on: this machine as long as it runs, and its network namespace.

    Containers of one machine have one each, unless they share it. Where the kernel does not tell, each call has another
    name: nobody is found on this machine then.
    """
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{booted} {Path('/proc/self/ns/net').readlink()}"
    except OSError:
        return secrets.token_hex(16)


def listen() -> tuple[socket.socket, str]:
    """A socket that workers can connect to, and its address."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    address = f"earshot-weights-{secrets.token_hex(16)}"
    server.bind(f"\0{address}")
    server.listen(1024)
    server.setblocking(False)
    return server, address


def connect(address: str, name: str) -> socket.socket:
    """Connect as the worker of this name; the socket does not block. Raises OSError where nobody listens there."""
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
    """Raise PermissionError where the other end is another user's: such a socket's name protects nothing."""
    packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(packed)
    if user != os.getuid():
        raise PermissionError(f"the other end of a socket for weights is a process of user {user}")


def receive_name(connected: socket.socket) -> str:
    """What a worker says first; empty where it has gone."""
    return connected.recv(_LONGEST_NAME).decode()


def send(connected: socket.socket, announcement: Announcement, descriptor: int) -> None:
    """Announce weights in a memory file. Raises OSError where the worker has gone."""
    one = announcement
    packed = _ANNOUNCEMENT.pack(one.number, one.version, *one.description, one.audio_changed)
    socket.send_fds(connected, [packed], [descriptor])


def receive(connected: socket.socket) -> tuple[Announcement, int] | None:
    """An announcement and a descriptor of its file, the caller's to close; None where the learner has gone.

    Raises BlockingIOError where none has come, and OSError where the connection or the descriptor is lost.
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
    """None where the worker has gone. Raises BlockingIOError where no reply has come, ValueError where it is none."""
    packed = connected.recv(_REPLY.size)
    if not packed:
        return None
    if len(packed) != _REPLY.size:
        raise ValueError(f"a reply of {len(packed)} bytes")
    return Reply(*_REPLY.unpack(packed))


def description(placed: Sequence[PlacedTensor]) -> bytes:
    """What a memory file says of what is in it."""
    slots = [(one.slot, one.offset) for one in placed]
    return json.dumps([(s.name, s.dtype, s.shape, s.nbytes, s.digest, offset) for s, offset in slots]).encode()


def described(descriptor: int, announcement: Announcement) -> Sequence[PlacedTensor]:
    """What is where in an announcement's file."""
    first, length = announcement.description
    return _read(os.pread(descriptor, length, first))


@lru_cache(maxsize=1)
def _read(text: bytes) -> tuple[PlacedTensor, ...]:
    """A description; without digests all of a learner's are the same."""
    return tuple(
        PlacedTensor(TensorSlot(name, dtype, tuple(shape), nbytes, digest), offset)
        for name, dtype, shape, nbytes, digest, offset in json.loads(text)
    )
