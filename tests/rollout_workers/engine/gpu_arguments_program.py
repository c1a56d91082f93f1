"""Engine arguments as vLLM takes them on a GPU: `gpu_arguments_program.py FOLDER CASES`, on a machine without one.

vLLM's CUDA platform is imported with empty modules in place of its compiled parts, says that it is an H100, and takes
the place of the CPU's. `CASES` is JSON: a list of keyword arguments of `WorkerSettings`, each with `clip_tokens`. The
last line of stdout is JSON: for each case what the engine would run with.
"""

# ruff: noqa: E402 - the platform is changed between imports
import importlib.machinery
import json
import sys
import types
from typing import Any

from rollout_workers.engine.models import adapt

# The model classes choose kernels when they are imported: those of the CPU, which exist here.
adapt()
for name in ("_C_stable_libtorch", "_C", "cumem_allocator"):
    module = types.ModuleType(f"vllm.{name}")
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    sys.modules.setdefault(module.__name__, module)

import vllm.platforms
from vllm.config import VllmConfig
from vllm.platforms.cuda import NonNvmlCudaPlatform
from vllm.platforms.interface import DeviceCapability
from vllm.usage.usage_lib import UsageContext

from audio_qa.families import facts_of
from audio_qa.processor import load_processor
from protocol.engine import EngineOptions
from protocol.rollout import WorkerSettings
from rollout_workers.engine import config


class FakeH100(NonNvmlCudaPlatform):
    """CUDA's platform, with a device that does not exist."""

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
        return DeviceCapability(9, 0)

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return "NVIDIA H100 80GB HBM3"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return 80 * 2**30

    @classmethod
    def device_count(cls) -> int:
        return 1

    @classmethod
    def import_kernels(cls) -> None:
        pass

    def is_cumem_allocator_available(self) -> bool:
        return True


def described(made: VllmConfig) -> dict[str, Any]:
    """Return what these tests look at, as vLLM uses it."""
    scheduler, cache = made.scheduler_config, made.cache_config
    return {
        "batched_tokens": scheduler.max_num_batched_tokens,
        "encoder_tokens": scheduler.max_num_encoder_input_tokens,
        "encoder_cache": scheduler.encoder_cache_size,
        "sequences": scheduler.max_num_seqs,
        "async_scheduling": scheduler.async_scheduling,
        "chunked_prefill": scheduler.enable_chunked_prefill,
        "sleep_mode": made.model_config.enable_sleep_mode,
        "sleep_allocator": made.model_config.enable_cumem_allocator,
        "eager": made.model_config.enforce_eager,
        "dtype": str(made.model_config.dtype),
        "memory": cache.gpu_memory_utilization,
        "kv_cache_dtype": cache.cache_dtype,
        "prefix_caching": cache.enable_prefix_caching,
        "block_size": cache.block_size,
        "attention": None if (chosen := made.attention_config.backend) is None else chosen.name,
        "extension": made.parallel_config.worker_extension_cls,
    }


def main() -> None:
    folder, cases = sys.argv[1], json.loads(sys.argv[2])
    fake = vllm.platforms.current_platform = FakeH100()
    for module in list(sys.modules.values()):
        ours = getattr(module, "__name__", "").startswith(("vllm", "rollout_workers"))
        if ours and "current_platform" in vars(module):
            module.current_platform = fake
    processor, facts, found = load_processor(folder), facts_of(folder), []
    for case in cases:
        clip_tokens = case.pop("clip_tokens")
        config.audio_tokens = lambda *_, tokens=clip_tokens: tokens
        settings = WorkerSettings(folder, **case | {"engine": EngineOptions(**case.get("engine", {}))})
        with config.engine_environment(settings):
            found.append(
                described(
                    config.engine_args(settings, processor, facts).create_engine_config(UsageContext.ENGINE_CONTEXT)
                )
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
