"""Shares of the cores where the service, jobs and other programs run on one machine.

The service goes first: it takes little, and answers while jobs use every core. Ray's own processes go before those of
jobs: they do little, and jobs wait for them. Jobs yield to other programs, but go on: one of their processes gets a
tenth of a core that another program wants for itself.

Linux may share cores among sessions before it looks at processes (autogroup). Ray and each driver have a session of
their own, and `nice` counts within one session only; the session as a whole has a niceness too. Where sessions have no
share, for example in the control group of a container, the niceness of processes decides.
"""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

NICENESS = 10
"""Niceness of a session of jobs, and of their processes. A program of niceness 0 gets nine times as much of a core.

With the lowest priority, 19, it gets 70 times as much: processes of Ray and of jobs then miss their deadlines.
"""

_ATTEMPTS, _PAUSE_SECONDS = 20, 0.05
"""The kernel accepts one change in a tenth of a second from all unprivileged users together."""

_log = logging.getLogger(__name__)


def lower_priority() -> None:
    """Have this process, the first of its session, and those that it starts yield cores to others."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    lower_session_priority()


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
