"""The arguments of an engine on a GPU, as vLLM's own configuration takes them on a faked platform."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.engine import EngineOptions
from protocol.rollout import WorkerSettings
from rollout_workers.engine.config import gpu_batched_tokens

CLIP = 750
"""Audio tokens of a clip of 30 s in Qwen2-Audio and Qwen2.5-Omni."""
CASES = {
    "default": {"max_context": 256, "clip_tokens": 100},
    "shared": {"max_context": 256, "clip_tokens": 100, "shares_gpu": True, "gpu_memory_fraction": 0.4},
    "named": {
        "max_context": 256,
        "clip_tokens": 100,
        "max_concurrent": 32,
        "dtype": "float16",
        "engine": {
            "enforce_eager": True,
            "async_scheduling": False,
            "max_num_batched_tokens": 512,
            "enable_chunked_prefill": False,
            "enable_prefix_caching": False,
            "block_size": 64,
            "attention_backend": "TRITON_ATTN",
            "kv_cache_dtype": "fp8",
        },
    },
    "long": {"max_context": 256, "clip_tokens": 10_000, "max_concurrent": 16, "group_size": 2},
}


@pytest.fixture(scope="module")
def engines(tiny) -> dict[str, dict]:
    """By case, the configuration that vLLM makes."""
    program = Path(__file__).with_name("gpu_arguments_program.py")
    command = [sys.executable, str(program), str(tiny.folder), json.dumps(list(CASES.values()))]
    # Pytest has the repository's root on its path, which a program of its own has not.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=170, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_an_engine_that_shares_its_gpu_can_give_its_memory_up(engines):
    shared = engines["shared"]
    assert (shared["sleep_mode"], shared["sleep_allocator"], shared["memory"]) == (True, True, 0.4)
    # Its allocator costs time where it is of no use.
    assert not engines["default"]["sleep_mode"]


def test_every_engine_reports_its_memory(engines):
    assert {engine["extension"] for engine in engines.values()} == {"rollout_workers.engine.gpu_memory.MemoryReport"}


def test_batches_and_encoder_have_room_for_many_clips(engines):
    """vLLM's own choice was 2048 tokens for both."""
    for engine in engines.values():
        assert engine["encoder_tokens"] == engine["encoder_cache"] == engine["batched_tokens"]
    assert engines["default"]["batched_tokens"] == 8192
    assert engines["default"]["sequences"] == 128


def test_named_arguments_reach_vllm(engines):
    named = engines["named"]
    assert named == named | {
        "eager": True,
        "async_scheduling": False,
        "batched_tokens": 512,
        "chunked_prefill": False,
        "prefix_caching": False,
        "block_size": 64,
        "attention": "TRITON_ATTN",
        "kv_cache_dtype": "fp8",
        "dtype": "torch.float16",
    }


def test_without_arguments_the_choice_is_that_which_the_documentation_names(engines):
    default = engines["default"]
    assert default == default | {
        "eager": False,
        "async_scheduling": True,
        "chunked_prefill": True,
        "prefix_caching": True,
        "attention": None,
        "dtype": "torch.bfloat16",  # of float32 files
    }


def settings(**given) -> WorkerSettings:
    return WorkerSettings("m", **{"max_context": 4096, "max_concurrent": 128, "group_size": 8} | given)


def test_there_is_room_for_a_clip_of_every_group_that_is_decoded_at_once():
    assert gpu_batched_tokens(settings(), CLIP) == 16 * CLIP + 128
    assert gpu_batched_tokens(settings(group_size=16), CLIP) == 8192  # at least
    assert gpu_batched_tokens(settings(max_concurrent=1024), CLIP) == 32_768  # at most


@pytest.mark.parametrize("concurrent", [1, 8, 128, 1024])
@pytest.mark.parametrize("clip", [25, CLIP, 15_000])
def test_there_is_always_room_for_four_of_the_longest_clips_that_fit_the_context(concurrent, clip):
    tokens = gpu_batched_tokens(settings(max_concurrent=concurrent, max_context=16_384), clip)
    assert tokens >= 4 * clip
    assert tokens >= concurrent
    assert tokens <= max(32_768, 4 * clip)
    # A clip that does not fit the context is not asked about.
    assert gpu_batched_tokens(settings(max_concurrent=concurrent, max_context=1024), clip) <= 33_792


def test_a_prompt_that_is_not_split_fits_a_batch():
    whole = settings(max_context=60_000, engine=EngineOptions(enable_chunked_prefill=False))
    assert gpu_batched_tokens(whole, CLIP) == 60_000
    assert gpu_batched_tokens(settings(max_context=60_000), CLIP) < 60_000
