"""An engine that sleeps has freed its memory, or says that it has not, from what its GPUs report before and after."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from audio_qa.families import facts_of
from rollout_workers.engine.gpu_memory import METHOD, GpuMemory, MemoryReport, freed_bytes
from rollout_workers.errors import MemoryNotFreedError

GIB = 2**30
AWAKE = GpuMemory(free=10 * GIB, releasable=60 * GIB)
ASLEEP = GpuMemory(free=70 * GIB, releasable=0)


def test_what_became_free_is_summed_over_gpus():
    assert freed_bytes([AWAKE, AWAKE], [ASLEEP, replace(ASLEEP, free=69 * GIB)]) == 119 * GIB


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (AWAKE, AWAKE, "freed 0.00 of 60.00 GiB on GPU 1 of 2, where 10.00 GiB are free"),
        # Its memory is unmapped and not free: something else has taken it.
        (AWAKE, replace(ASLEEP, free=40 * GIB), "freed 30.00 of 60.00 GiB"),
        (AWAKE, replace(ASLEEP, free=5 * GIB), "freed 0.00 of 60.00 GiB"),
        # Sleep mode was on and nothing came from its allocator.
        (replace(AWAKE, releasable=0), replace(ASLEEP, free=10 * GIB), "freed 0.00 of 0.00 GiB"),
    ],
)
def test_a_gpu_that_is_not_free_is_named(before, after, words):
    with pytest.raises(MemoryNotFreedError, match=words):
        freed_bytes([AWAKE, before], [ASLEEP, after])


class SleepingLlm:
    """The calls of vLLM's engine, on one GPU."""

    def __init__(self, *, frees: bool = True, wakes: bool = True) -> None:
        self.frees, self.wakes, self.calls = frees, wakes, []

    async def collective_rpc(self, method: str) -> list[tuple[int, int]]:
        assert method == METHOD
        state = ASLEEP if self.frees and "sleep" in str(self.calls) else AWAKE
        return [(state.free, state.releasable)]

    async def sleep(self, *, level: int, mode: str) -> None:
        self.calls.append(("sleep", level, mode))

    async def wake_up(self) -> bool:
        self.calls.append("wake")
        return self.wakes


@pytest.fixture
def engine_of(tiny, settings):
    """Returns the real class around a stand-in for vLLM."""
    from rollout_workers.engine import engine

    def make(llm: SleepingLlm, *, shares_gpu: bool = True) -> engine.Engine:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "current_platform", SimpleNamespace(is_cpu=lambda: False))
            chosen = replace(settings, shares_gpu=shares_gpu)
            return engine.Engine(llm, chosen, tiny.processor, facts_of(str(tiny.folder)))

    return make


def test_an_engine_keeps_its_weights_and_reports_what_it_freed(engine_of):
    llm = SleepingLlm()
    engine = engine_of(llm)
    assert asyncio.run(engine.sleep()) == 60 * GIB
    asyncio.run(engine.wake())
    # Level 2 would drop the weights, and an update does not send those that are frozen.
    assert llm.calls == [("sleep", 1, "wait"), "wake"]


def test_an_engine_that_frees_nothing_or_does_not_wake_says_so(engine_of):
    with pytest.raises(MemoryNotFreedError, match=r"freed 0\.00 of 60\.00 GiB"):
        asyncio.run(engine_of(SleepingLlm(frees=False)).sleep())
    with pytest.raises(RuntimeError, match="still sleeps"):
        asyncio.run(engine_of(SleepingLlm(wakes=False)).wake())


def test_an_engine_without_sleep_mode_is_not_asked(engine_of):
    llm = SleepingLlm()
    with pytest.raises(MemoryNotFreedError, match="without sleep mode"):
        asyncio.run(engine_of(llm, shares_gpu=False).sleep())
    assert llm.calls == []


def test_the_report_fits_vllms_worker():
    """vLLM refuses a class with a name that its worker has."""
    from vllm.v1.worker.cpu_worker import CPUWorker

    names = [name for name in dir(MemoryReport) if not name.startswith("__")]
    assert names == [METHOD]
    assert not hasattr(CPUWorker, METHOD)
    assert MemoryReport().earshot_gpu_memory() == (0, 0)
