"""The user who owns the other end of a connection within this machine, according to the kernel's table of sockets.

Invariant: the answer is the owner of exactly the socket at the other end, found while a process holds that socket, or
None. A socket that no process holds any more is listed with user 0, and is not believed.
"""

import ipaddress
import socket
import struct
import sys
from pathlib import Path

Address = tuple[str, int]
"""Numeric IP address and port."""

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = 1
_HEADER = struct.Struct("=IHHII")
_NO_COOKIE = 0xFFFFFFFF
_REPLY_BYTES = 72
# States in which the owner has connected and still holds the socket: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT,
# LAST_ACK, CLOSING. A socket in SYN_SENT could be a new one, whose port an earlier owner has given up.
_STATES = frozenset({1, 4, 5, 8, 9, 11})
_UNKNOWN_USER = 65534
"""The kernel shows it in place of users that do not exist in the namespace of the process that asks."""


def owner_of_peer(client: Address, server: Address) -> int | None:
    """Return the user id that owns the socket at `client` which is connected to `server`, or None if unknown.

    Both are numeric addresses as the service's end of the connection has them.
    """
    if sys.platform != "linux":
        return None
    local, remote = _plain(client), _plain(server)
    if local is None or remote is None or local[0].version != remote[0].version:
        return None
    uid = _find(local, remote)
    return None if uid is None or uid == _unknown_user() else uid


_End = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


def _plain(address: Address) -> _End | None:
    """Return the address, as IPv4 if it is one mapped into IPv6."""
    try:
        found = ipaddress.ip_address(address[0].partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found, address[1]


def _find(local: _End, remote: _End) -> int | None:
    """Return the owner of the socket with these two ends."""
    try:
        found = _by_netlink(local, remote)
        # The service's own end is known to exist: if the kernel finds it, it can be believed about the other one.
        if found is not None or _by_netlink(remote, local) is not None:
            return found
    except (OSError, struct.error):
        pass
    return _by_file(local, remote)


def _by_netlink(local: _End, remote: _End) -> int | None:
    """Ask the kernel for one socket, whose cost does not depend on the number of sockets. Raises OSError."""
    family = socket.AF_INET if local[0].version == 4 else socket.AF_INET6
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + struct.pack(
        ">HH16s16s", local[1], remote[1], local[0].packed, remote[0].packed
    )
    request += struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1)
        netlink.sendall(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST, 1, 0) + request)
        reply = netlink.recv(4096)
    _, kind, _, _, _ = _HEADER.unpack_from(reply)
    body = reply[_HEADER.size :]
    if kind != _SOCK_DIAG_BY_FAMILY or len(body) < _REPLY_BYTES:
        return None
    version, state = body[0], body[1]
    here, there, source, target = struct.unpack_from(">HH16s16s", body, 4)
    uid, inode = struct.unpack_from("=II", body, 64)
    # Without such a connection the kernel returns a socket that listens on the port, if there is one.
    ends = (_unpacked(version, source), here), (_unpacked(version, target), there)
    return uid if ends == (local, remote) and inode and state in _STATES else None


def _unpacked(family: int, packed: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(packed[:4])
    found = ipaddress.IPv6Address(packed)
    return found.ipv4_mapped or found


def _by_file(local: _End, remote: _End, folder: Path = Path("/proc/net")) -> int | None:
    """Search the kernel's table as a file: for kernels without the netlink interface."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (folder / name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            # sl local remote state queues timer retransmits uid timeout inode …
            row = line.split()
            held = len(row) > 9 and int(row[3], 16) in _STATES and row[9] != "0"
            if held and _of_hex(row[1]) == local and _of_hex(row[2]) == remote:
                return int(row[7])
    return None


def _of_hex(text: str) -> _End:
    """Return the address that the kernel writes as words of 32 bits in the order of the machine, and a port."""
    address, _, port = text.partition(":")
    words = struct.pack(f"={len(address) // 8}I", *(int(address[i : i + 8], 16) for i in range(0, len(address), 8)))
    return _unpacked(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words), int(port, 16)


def _unknown_user() -> int:
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return _UNKNOWN_USER
