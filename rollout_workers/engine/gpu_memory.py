"""Free memory of an engine's GPUs, asked in the processes that use them: another process would need memory of its own.

`Engine.sleep` compares it before and after: a call that frees nothing succeeds, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rollout_workers.errors import MemoryNotFreedError

CLASS_NAME = f"{__name__}.MemoryReport"
"""Entry for vLLM's `worker_extension_cls`."""
METHOD = "earshot_gpu_memory"
"""Name of the method that the class adds to vLLM's worker."""


_LEAST_FREED = 0.9
"""Share of the releasable memory that must be free afterwards: other processes may have taken a little meanwhile."""


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """The memory of one of an engine's GPUs, in bytes."""

    free: int
    """Free for any process."""
    releasable: int
    """Mapped by the allocator of sleep mode: weights, key-value cache and the buffers beside it."""


def freed_bytes(before: Sequence[GpuMemory], after: Sequence[GpuMemory]) -> int:
    """Return the bytes that became free on all GPUs of an engine that was put to sleep.

    Raises MemoryNotFreedError if a GPU has not got back what the engine can release.
    """
    freed = 0
    for gpu, (had, has) in enumerate(zip(before, after, strict=True)):
        gain = has.free - had.free
        if not had.releasable or has.releasable or gain < _LEAST_FREED * had.releasable:
            raise MemoryNotFreedError(
                f"the engine was put to sleep and freed {max(0, gain) / 2**30:.2f} of {had.releasable / 2**30:.2f} GiB "
                f"on GPU {gpu} of {len(before)}, where {has.free / 2**30:.2f} GiB are free: the learner would run out "
                "of memory; end what else uses this GPU, or give the learner GPUs of its own (rollout.weight_sync nccl)"
            )
        freed += gain
    return freed


class MemoryReport:
    """Mixed into vLLM's worker in each of an engine's processes."""

    def earshot_gpu_memory(self) -> tuple[int, int]:
        """Return the fields of `GpuMemory`; zeros on a CPU."""
        import torch  # noqa: PLC0415 - the engine's processes have it
        from vllm.platforms import current_platform  # noqa: PLC0415

        if not current_platform.is_cuda_alike():
            return 0, 0
        from vllm.device_allocator import get_mem_allocator_instance  # noqa: PLC0415 - needs a GPU

        torch.accelerator.synchronize()
        mapped = get_mem_allocator_instance().pointer_to_data.values()
        return torch.accelerator.get_memory_info()[0], sum(one.handle[1] for one in mapped if not one.is_asleep)
