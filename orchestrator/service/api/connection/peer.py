"""The other end of a connection.

Invariant: who is there is found once, when the connection is made, and kept with the connection: addresses and ports
are used again by others.
"""

import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from orchestrator.service.api.connection.socket_owner import Address, owner_of_peer

_PREFIX_OF_IPV6 = 64
"""One subscriber has at least this network."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The sender of the requests of one connection."""

    key: str
    """The unit that limits count: a user of this machine, an IPv4 address, or a network of IPv6 addresses."""
    local: bool
    """The connection comes from this machine."""
    uid: int | None = None
    """Owner of the socket at the other end; None if it is unknown."""

    @property
    def is_own_user(self) -> bool:
        """Return whether a process of the user who started the service is at the other end."""
        return self.local and self.uid is not None and self.uid == os.geteuid()


PeerOf = Callable[[Request], Peer]
"""Returns who sent a request."""


def peer_of_connection(client: Address | None, server: Address | None) -> Peer:
    """Return who is at the other end of a connection, whose ends these are."""
    if client is None or server is None:
        return Peer("unknown", local=False)
    found = peer_of_address(client[0])
    if not found.local:
        return found
    uid = owner_of_peer(client, server)
    return Peer(f"user {'unknown' if uid is None else uid}", local=True, uid=uid)


def peer_of_address(address: str) -> Peer:
    """Return what is known from an address alone."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return Peer("unknown", local=False)
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None and not found.is_loopback:
            network = ipaddress.ip_network((found, _PREFIX_OF_IPV6), strict=False)
            return Peer(str(network), local=False)
        found = found.ipv4_mapped or found
    return Peer(str(found), local=found.is_loopback)


def peer_of_request(request: Request) -> Peer:
    """Return who sent a request, as the server found out when the connection was made."""
    peer = getattr(request.state, "peer", None)
    if isinstance(peer, Peer):
        return peer
    # Another server than the service's own does not tell.
    return peer_of_address(request.client.host if request.client else "")
