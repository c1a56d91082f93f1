"""Who goes first where the service and jobs share a machine's cores: the service, which takes little.

Linux may share cores among sessions before it looks at processes (autogroup), and Ray and each driver have a session of
their own. `nice` counts within one session only; the session as a whole has a niceness too.
"""

import logging
import time
from pathlib import Path

NICENESS = 19
"""Of what gives way. At 10 it still holds up a process that wakes for a tick of 4 ms in one case of a hundred."""

_ATTEMPTS, _PAUSE_SECONDS = 20, 0.05
"""Of all unprivileged users together, the kernel takes one change in a tenth of a second."""

_log = logging.getLogger(__name__)


def give_way(process: int | str = "self") -> None:
    """Have a process's session give way to others. Does nothing where sessions have no share, or it may not be set."""
    for _ in range(_ATTEMPTS):
        try:
            Path(f"/proc/{process}/autogroup").write_text(str(NICENESS))
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        except OSError:
            return
        else:
            return
    _log.warning(
        "the session of process %s does not give way to the service: the kernel takes no more changes", process
    )


def niceness_of_session(process: int | str = "self") -> int | None:
    """None where sessions have no share."""
    try:
        group = Path(f"/proc/{process}/autogroup").read_text()
    except OSError:
        return None
    # Empty of a process that is in none, as where a control group of its container shares out the cores.
    return int(group.split()[-1]) if group else None
