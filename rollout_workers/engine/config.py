"""The configuration of a worker's vLLM engine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

from transformers import AutoConfig
from vllm.config import WeightTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from audio_qa.chat import banned_token_ids, stop_token_ids
from audio_qa.families import FamilyFacts
from protocol.rollout import WorkerSettings
from rollout_workers.engine import banned_tokens, gpu_memory
from rollout_workers.engine.models import config_overrides
from rollout_workers.engine.plugin import BACKEND, OWNER_VARIABLE

_CPU_MIN_BATCHED_TOKENS = 8192
_CPU_BLOCK_TOKENS = 32
_GPU_MIN_BATCHED_TOKENS = 8192
_GPU_MOST_BATCHED_TOKENS = 32_768
"""More tokens at once do not make a GPU faster; their activations take memory from the key-value cache."""
_GPU_LEAST_CLIPS = 4
"""Number of the longest clips that there is always room for, also beyond the bound above."""


def audio_tokens(processor: Any, facts: FamilyFacts) -> int:
    """Return the number of prompt tokens of the longest clip."""
    features = processor.feature_extractor
    samples = int(facts.max_clip_seconds(features) * features.sampling_rate)
    return facts.clip_tokens(samples, features.hop_length)


@contextmanager
def engine_environment(settings: WorkerSettings) -> Iterator[None]:
    """Set the environment that vLLM reads; engine processes started inside the block die with this process."""
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # its logits processors have another interface
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    if current_platform.is_cpu():
        os.environ |= {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kv_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, settings.threads // settings.tensor_parallel)),
            # Waiting threads must not spin: engines and learner ranks share the cores.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        if settings.tensor_parallel == 1:
            # AsyncLLM still starts an engine process; this keeps vLLM from adding a worker process to it.
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ[OWNER_VARIABLE] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[OWNER_VARIABLE]


def engine_args(settings: WorkerSettings, processor: Any, facts: FamilyFacts) -> AsyncEngineArgs:
    """Return the engine's arguments for this machine's device."""
    features = processor.feature_extractor
    vocabulary_size = AutoConfig.from_pretrained(settings.model).get_text_config().vocab_size
    stops = stop_token_ids(settings.model, processor.tokenizer)
    banned = banned_token_ids(processor.tokenizer, vocabulary_size, stops)
    return AsyncEngineArgs(
        model=settings.model,
        hf_overrides=config_overrides(settings.model, facts),
        # By default vLLM takes consolidated*.safetensors in place of the model's files, or *.bin, which can run code.
        load_format="safetensors",
        max_model_len=settings.max_context,
        max_num_seqs=settings.max_concurrent,
        tensor_parallel_size=settings.tensor_parallel,
        distributed_executor_backend="uni" if settings.tensor_parallel == 1 else "mp",
        enable_prefix_caching=settings.engine.enable_prefix_caching,
        limit_mm_per_prompt={
            # Length of the clip with which vLLM profiles its memory; Audio Flamingo 3's default is 10 minutes.
            "audio": {"count": 1, "length": int(facts.max_clip_seconds(features) * features.sampling_rate)},
            # Without images a vision tower is not loaded.
            "image": 0,
            "video": 0,
        },
        # vLLM synchronises its cache of processed clips between two processes by the order of requests, which
        # concurrent requests and a reset both break. Features are cheap compared with completions: no cache.
        mm_processor_cache_gb=0,
        logprobs_mode="processed_logprobs",
        logits_processors=[banned_tokens.CLASS_NAME],
        additional_config={banned_tokens.CONFIG_KEY: list(banned)},
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        worker_extension_cls=gpu_memory.CLASS_NAME,
        disable_log_stats=True,
        **(_cpu_args if current_platform.is_cpu() else _gpu_args)(settings, audio_tokens(processor, facts)),
    )


def _gpu_args(settings: WorkerSettings, clip_tokens: int) -> dict[str, Any]:
    """Return the arguments for GPUs. Those that are None are left to vLLM.

    Asynchronous scheduling and chunked prefill are vLLM's choice there. Both were read, not run: an update waits for
    the batches in flight before the weights change, so every token has the label of the weights that computed it; the
    requests that it preempts are prefilled from the tokens that the scheduler has, not from those left on the GPU; and
    a sample that a partial prefill discards takes its random numbers back.
    """
    options = settings.engine
    return {
        "dtype": settings.dtype,
        "gpu_memory_utilization": settings.gpu_memory_fraction,
        # Weights and key-value cache then come from an allocator that can unmap them (`Engine.sleep`).
        "enable_sleep_mode": settings.shares_gpu,
        "max_num_batched_tokens": options.max_num_batched_tokens or gpu_batched_tokens(settings, clip_tokens),
        "enforce_eager": bool(options.enforce_eager),
        "async_scheduling": options.async_scheduling,
        "enable_chunked_prefill": options.enable_chunked_prefill,
        "block_size": options.block_size,
        "attention_backend": AttentionBackendEnum[backend] if (backend := options.attention_backend) else None,
        "disable_custom_all_reduce": options.disable_custom_all_reduce,
        "kv_cache_dtype": options.kv_cache_dtype,
        "quantization": options.quantization,
    }


def gpu_batched_tokens(settings: WorkerSettings, clip_tokens: int) -> int:
    """Return the number of tokens that an engine on a GPU computes at once.

    It also bounds the audio tokens that the encoder computes at once, and those in the cache of encoded clips. vLLM's
    own number is 2048 here: two clips of 30 s, for which all other prompts wait. There is room for a clip of every
    group that is decoded at once, and a token of every sequence.

    Args:
        clip_tokens: audio tokens of the longest clip that the model takes.
    """
    clip = min(clip_tokens, settings.max_context)
    clips = ceil(settings.max_concurrent / settings.group_size)
    wanted = max(_GPU_MIN_BATCHED_TOKENS, clips * clip + settings.max_concurrent)
    least = max(_GPU_LEAST_CLIPS * clip, settings.max_concurrent)
    if settings.engine.enable_chunked_prefill is False:
        least = max(least, settings.max_context)  # a prompt is then computed in one batch
    return max(min(wanted, _GPU_MOST_BATCHED_TOKENS), least)


def _cpu_args(settings: WorkerSettings, clip_tokens: int) -> dict[str, Any]:
    """Return the arguments for CPU.

    There, a request with a seed must be prefilled in one piece: a partial prefill kills the engine. Chunked prefill is
    off, but a prefill is also split if the encoder has no room for a clip. There is room for one clip of every
    concurrent sequence.
    """
    room = settings.max_concurrent * clip_tokens
    return {
        "dtype": "float32" if settings.dtype == "auto" else settings.dtype,
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(_CPU_MIN_BATCHED_TOKENS, settings.max_context, room),
        "block_size": settings.engine.block_size or _CPU_BLOCK_TOKENS,
    }
