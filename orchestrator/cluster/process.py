"""A process that outlives whoever started it, as a file remembers it."""

import time
from contextlib import suppress

import psutil


def created_at(pid: int) -> float:
    """When a process was created. A pid is given again: together they are unmistakable. Raises psutil.NoSuchProcess."""
    return psutil.Process(pid).create_time()


def found(pid: int, created: float) -> psutil.Process | None:
    """The process of these, if it runs still."""
    try:
        process = psutil.Process(pid)
        alive = abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


def end(process: psutil.Process, seconds: float) -> None:
    """End a process and all it started, by force what is left after so many seconds."""
    deadline = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.terminate()
        _, left = psutil.wait_procs(family, timeout=max(0.0, deadline - time.monotonic()))
        for late in left:
            with suppress(psutil.NoSuchProcess):
                late.kill()
        psutil.wait_procs(left, timeout=seconds)
