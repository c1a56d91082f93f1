"""Who goes first where the service and jobs share a machine's cores: the service, which takes little.

Linux may share cores among sessions before it looks at processes (autogroup), and Ray and each driver have a session of
their own. `nice` counts within one session only; the session as a whole has a niceness too.
"""

from contextlib import suppress
from pathlib import Path

NICENESS = 19
"""Of what gives way. At 10 it still holds up a process that wakes for a tick of 4 ms in one case of a hundred."""


def give_way(process: int | str = "self") -> None:
    """Have a process's session give way to others. Does nothing where sessions have no share."""
    with suppress(OSError):
        Path(f"/proc/{process}/autogroup").write_text(str(NICENESS))


def niceness_of_session(process: int | str = "self") -> int | None:
    """None where sessions have no share."""
    try:
        return int(Path(f"/proc/{process}/autogroup").read_text().split()[-1])
    except OSError:
        return None
