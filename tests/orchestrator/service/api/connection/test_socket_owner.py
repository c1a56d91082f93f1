"""The user at the other end of a connection within this machine, with real sockets and real users."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from orchestrator.service.api.connection import socket_owner
from orchestrator.service.api.connection.peer import peer_of_address, peer_of_connection
from orchestrator.service.api.connection.socket_owner import owner_of_peer

OTHER = 12_345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these tables")

HOLD = """
import os, socket, sys
if int(sys.argv[4]) != os.geteuid():
    os.setgroups([])
    os.setgid(int(sys.argv[4]))
    os.setuid(int(sys.argv[4]))
own = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if sys.argv[3] != "0":
    own.bind((sys.argv[1], int(sys.argv[3])))
own.connect((sys.argv[1], int(sys.argv[2])))
sys.stdin.read()
"""


@contextlib.contextmanager
def connected(uid: int, host: str = "127.0.0.1", listen: str | None = None, port: int = 0) -> Iterator[socket.socket]:
    """Accept a connection from a process of this user, which holds it within the context."""
    address = listen or host
    dual = address == "::"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family, dualstack_ipv6=dual) as listener:
        # Another user may not be able to read the interpreter, so the process becomes that user after it has started.
        command = [sys.executable, "-S", "-c", HOLD, host, str(listener.getsockname()[1]), str(port), str(uid)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            listener.settimeout(10)
            accepted, _ = listener.accept()
            with accepted:
                yield accepted
            process.communicate()


def ends(accepted: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    return accepted.getpeername()[:2], accepted.getsockname()[:2]


WAYS = [("127.0.0.1", None), ("::1", None), ("127.0.0.1", "::"), ("::ffff:127.0.0.1", "::"), ("127.0.0.9", "0.0.0.0")]


@pytest.mark.parametrize("uid", [os.geteuid(), pytest.param(OTHER, marks=needs_root)])
@pytest.mark.parametrize(("host", "listen"), WAYS)
@pytest.mark.parametrize("by", ["netlink", "file"])
def test_the_owner_of_the_other_end_is_found(monkeypatch, uid, host, listen, by):
    if ":" in host and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    if by == "file":
        monkeypatch.setattr(socket_owner, "_by_netlink", _no_netlink)
    else:
        monkeypatch.setattr(socket_owner, "_by_file", lambda *_: pytest.fail("the kernel's answer is enough"))
    with connected(uid, host, listen) as accepted:
        assert owner_of_peer(*ends(accepted)) == uid
        peer = peer_of_connection(*ends(accepted))
        assert (peer.local, peer.uid, peer.is_own_user) == (True, uid, uid == os.geteuid())
        assert peer.key == f"user {uid}"


@pytest.mark.parametrize("by", ["netlink", "file"])
def test_a_socket_that_nobody_holds_any_more_has_no_owner(monkeypatch, by):
    """The kernel lists it with user 0, who may be the user of the service."""
    if by == "file":
        monkeypatch.setattr(socket_owner, "_by_netlink", _no_netlink)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            client.shutdown(socket.SHUT_WR)
            assert owner_of_peer(*ends(accepted)) == os.geteuid()
            known = ends(accepted)
            client.close()
            assert owner_of_peer(*known) is None
        assert owner_of_peer(*known) is None


@needs_root
def test_a_port_that_another_user_has_now_is_not_the_earlier_ones():
    with connected(OTHER) as accepted:
        port = accepted.getpeername()[1]
    with connected(OTHER + 1, port=port) as accepted:
        assert accepted.getpeername()[1] == port
        assert owner_of_peer(*ends(accepted)) == OTHER + 1


def test_a_socket_that_listens_on_the_port_is_not_the_client():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert owner_of_peer(listener.getsockname(), ("127.0.0.1", 9)) is None


def test_users_that_the_kernel_does_not_name_are_unknown(monkeypatch):
    monkeypatch.setattr(socket_owner, "_find", lambda *_: 65534)
    assert owner_of_peer(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


def test_nothing_is_known_on_other_systems(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert owner_of_peer(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


def test_nothing_is_known_without_the_tables(monkeypatch):
    monkeypatch.setattr(socket_owner, "_by_netlink", _no_netlink)
    monkeypatch.setattr(socket_owner.Path, "read_text", _no_file)
    with connected(os.geteuid()) as accepted:
        peer = peer_of_connection(*ends(accepted))
        assert (peer.local, peer.uid, peer.is_own_user, peer.key) == (True, None, False, "user unknown")


def test_addresses_are_counted_as_their_subscriber_has_them():
    keys = {
        "10.0.0.9": "10.0.0.9",
        "::ffff:10.0.0.9": "10.0.0.9",
        "2001:db8:1:2:aaaa::1": "2001:db8:1:2::/64",
        "2001:db8:1:2:bbbb::9": "2001:db8:1:2::/64",
        "fe80::1%eth0": "fe80::/64",
        "nonsense": "unknown",
    }
    assert {address: peer_of_address(address).key for address in keys} == keys
    assert not any(peer_of_address(address).local for address in keys)
    assert all(peer_of_address(address).local for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"))


def _no_netlink(*_: object) -> None:
    raise PermissionError


def _no_file(*_: object, **__: object) -> str:
    raise PermissionError


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
