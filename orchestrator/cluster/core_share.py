"""Priority of a session where the service and jobs share a machine's cores. The service goes first: it takes little.

Linux may share cores among sessions before it looks at processes (autogroup), and Ray and each driver have a session of
their own. `nice` counts within one session only; the session as a whole has a niceness too.
"""

import logging
import time
from pathlib import Path

NICENESS = 19
"""Niceness of a session with low priority. At 10 it still delays a process that wakes every 4 ms, 1 time in 100."""

_ATTEMPTS, _PAUSE_SECONDS = 20, 0.05
"""The kernel accepts one change in a tenth of a second from all unprivileged users together."""

_log = logging.getLogger(__name__)


def lower_session_priority(process: int | str = "self") -> None:
    """Have a process's session yield cores to others. Does nothing where sessions have no share, or without permission.

    Args:
        process: its id.
    """
    for _ in range(_ATTEMPTS):
        try:
            Path(f"/proc/{process}/autogroup").write_text(str(NICENESS))
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        except OSError:
            return
        else:
            return
    _log.warning("the session of process %s keeps its priority: the kernel accepts no more changes", process)


def session_niceness(process: int | str = "self") -> int | None:
    """Return the niceness of a process's session; None where sessions have no share."""
    try:
        group = Path(f"/proc/{process}/autogroup").read_text()
    except OSError:
        return None
    # Empty if the process is in no group, for example where the control group of its container shares out the cores.
    return int(group.split()[-1]) if group else None
