"""The sockets on which a process and its descendants listen."""

import ipaddress

import psutil


def listening(root: int) -> dict[tuple[str, int], str]:
    """Return the title of the process by address and port, of those on which a process or a descendant listens."""
    found = {}
    for process in (psutil.Process(root), *psutil.Process(root).children(recursive=True)):
        try:
            title = " ".join(process.cmdline())[:200]
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN:
                    found[one.laddr.ip, one.laddr.port] = title
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


def beyond_loopback(root: int) -> dict[tuple[str, int], str]:
    """Return those that other machines may reach."""
    return {place: title for place, title in listening(root).items() if not _is_loopback(place[0])}


def _is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
