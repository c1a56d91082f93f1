"""The vLLM plugin: registers the weight-transfer backend, and ties an engine's processes to their worker."""

import ctypes
import multiprocessing
import os
import signal
from functools import cache

from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

BACKEND = "earshot"
"""Name of the backend in vLLM's WeightTransferConfig."""

OWNER_VARIABLE = "EARSHOT_ENGINE_OWNER"
"""Environment variable with the process id of the worker that starts an engine."""

_PR_SET_PDEATHSIG = 1


@cache
def register() -> None:
    """Entry point `vllm.general_plugins`, which vLLM calls in every process it starts, in some more than once.

    Beyond the registration, only the processes of an engine that a worker started are changed.
    """
    WeightTransferEngineFactory.register_engine(BACKEND, "rollout_workers.engine.transfer", "TransferEngine")
    owner = int(os.environ.get(OWNER_VARIABLE, os.getpid()))
    if owner != os.getpid():
        _die_with(owner)
        # Imported here, because a process without a model does not need it.
        from rollout_workers.engine.models import adapt  # noqa: PLC0415

        adapt()
        # Linux's default, which a spawned process does not inherit. Locks made for spawning are named semaphores,
        # which stay in /dev/shm when the process is killed.
        multiprocessing.set_start_method("fork", force=True)


def _die_with(owner: int) -> None:
    """Have the kernel kill this process when the worker that started it dies, for whatever reason.

    An engine on several GPUs has a process for each of them, whose parent is the engine's first process: it dies with
    the worker, and they with it.
    """
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        # The worker died before prctl took effect.
        os._exit(1)
