"""Server-sent events out of the bytes of a stream, however they are cut."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sent:
    """One event."""

    id: str
    data: str
    name: str
    """`message` where the service gives none."""


class Decoder:
    """Of one stream."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[Sent]:
        """The events that are whole with this piece. Comments, which are heartbeats, are none."""
        *whole, self._rest = (self._rest + piece).split(b"\n\n")
        return [event for event in map(_parse, whole) if event is not None]


def _parse(block: bytes) -> Sent | None:
    fields: dict[str, str] = {}
    # Only here a line ends: text may hold what Unicode calls one.
    for line in block.decode(errors="replace").split("\n"):
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
    if "data" not in fields:
        return None
    return Sent(fields.get("id", ""), fields["data"], fields.get("event", "message"))
