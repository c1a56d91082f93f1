"""The configuration of a worker's vLLM engine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AutoConfig
from vllm.config import WeightTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

from audio_qa.chat import banned_token_ids, stop_token_ids
from audio_qa.families import FamilyFacts, mel_frames
from protocol.rollout import WorkerSettings
from rollout_workers.engine import banned_tokens
from rollout_workers.engine.plugin import BACKEND, OWNER_VARIABLE

_CPU_MIN_BATCHED_TOKENS = 8192
_CPU_BLOCK_TOKENS = 32


def audio_tokens(processor: Any, facts: FamilyFacts) -> int:
    """Return the number of prompt tokens of the longest clip."""
    features = processor.feature_extractor
    samples = int(facts.max_clip_seconds(features) * features.sampling_rate)
    return facts.audio_tokens(mel_frames(samples, features.hop_length))


@contextmanager
def engine_environment(settings: WorkerSettings) -> Iterator[None]:
    """Set the environment that vLLM reads; engine processes started inside the block die with this process."""
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # its logits processors have another interface
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    if current_platform.is_cpu():
        os.environ |= {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kv_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(settings.threads),
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
        # By default vLLM takes consolidated*.safetensors in place of the model's files, or *.bin, which can run code.
        load_format="safetensors",
        max_model_len=settings.max_context,
        max_num_seqs=settings.max_concurrent,
        tensor_parallel_size=settings.tensor_parallel,
        distributed_executor_backend="uni" if settings.tensor_parallel == 1 else "mp",
        enable_prefix_caching=True,
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
        disable_log_stats=True,
        **(_cpu_args(settings, audio_tokens(processor, facts)) if current_platform.is_cpu() else _gpu_args(settings)),
    )


def _gpu_args(settings: WorkerSettings) -> dict[str, Any]:
    return {"dtype": settings.dtype, "gpu_memory_utilization": settings.gpu_memory_fraction}


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
        "block_size": _CPU_BLOCK_TOKENS,
    }
