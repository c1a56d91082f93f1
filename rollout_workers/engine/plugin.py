"""What vLLM loads in each of its processes: our weight-transfer backend, and an engine's tie to its worker."""

import ctypes
import multiprocessing
import os
import signal
from functools import cache

from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

BACKEND = "earshot"
"""The name of the backend, as vLLM's WeightTransferConfig takes it."""

OWNER_VARIABLE = "EARSHOT_ENGINE_OWNER"
"""Environment variable with the process id of the worker that starts an engine."""

_PR_SET_PDEATHSIG = 1


@cache
def register() -> None:
    """Entry point `vllm.general_plugins`: vLLM calls it in every process it starts, some of them more than once.

    Only the processes of an engine that a worker started are changed beyond the registration.
    """
    WeightTransferEngineFactory.register_engine(BACKEND, "rollout_workers.engine.transfer", "TransferEngine")
    owner = int(os.environ.get(OWNER_VARIABLE, os.getpid()))
    if owner != os.getpid():
        _die_with(owner)
        # Imported here: a process that runs no model must not pay for it.
        from rollout_workers.engine.models import adapt  # noqa: PLC0415

        adapt()
        # Linux's default, lost by being spawned itself. Locks made for spawning are named semaphores, and those stay
        # in /dev/shm when the process is killed.
        multiprocessing.set_start_method("fork", force=True)


def _die_with(owner: int) -> None:
    """Have the kernel kill this process when the worker that started it dies, however it dies."""
    if os.getppid() == owner:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        # The worker died before the tie was made.
        os._exit(1)
