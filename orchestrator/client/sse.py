"""Server-sent events, decoded from a stream of bytes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event."""

    id: str
    data: str
    name: str
    """Event name; `message` by default."""


class EventDecoder:
    """The decoder of one stream. Chunks may be split anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that this chunk completes. Comments, sent as heartbeats, are skipped."""
        *complete, self._rest = (self._rest + chunk).split(b"\n\n")
        return [event for event in map(_parse, complete) if event is not None]


def _parse(block: bytes) -> ServerSentEvent | None:
    fields: dict[str, str] = {}
    # Not splitlines(): text may contain characters that Unicode counts as line ends.
    for line in block.decode(errors="replace").split("\n"):
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
    if "data" not in fields:
        return None
    return ServerSentEvent(fields.get("id", ""), fields["data"], fields.get("event", "message"))
