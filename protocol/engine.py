"""Named arguments of vLLM for the rollout workers' engines, as a job file gives them.

Invariant: no argument makes the log-probabilities that an engine returns differ from those of the distribution that it
sampled from. Arguments that a job decides elsewhere are refused with the key that decides them.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from protocol.marks import Resume
from protocol.settings import Settings

_ELSEWHERE = {
    "max_num_seqs": "set rollout.max_concurrent",
    "max_model_len": "set model.max_context",
    "gpu_memory_utilization": "set rollout.gpu_memory_fraction",
    "tensor_parallel_size": "set rollout.tensor_parallel",
    "data_parallel_size": "raise rollout.workers: each is an engine of its own",
    "pipeline_parallel_size": "set rollout.tensor_parallel",
    "seed": "set seed: every completion has a seed of its own",
    "enable_sleep_mode": "leave it out: it is on where a GPU is shared with the learner",
    "model": "set model.path",
    "load_format": "leave it out: only safetensors are read, since other files can run code",
    "logprobs_mode": "leave it out: the learner needs the log-probabilities of the distribution that was sampled",
    "cpu_offload_gb": "leave it out: a weight update would not reach parameters in CPU memory",
    "kv_offloading_size": "leave it out: keys and values of old weights would outlive a weight update",
    "speculative_config": "leave it out: its log-probabilities are not those that the learner computes",
}
"""Arguments of vLLM that are not in this section: what to do instead."""


class EngineOptions(Settings):
    """Arguments of every engine, under vLLM's names. `null` leaves the choice to vLLM or, where a docstring says so, to
    Earshot. On CPUs only `dtype`, `enable_prefix_caching` and `block_size` can be set."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of the engine's weights and activations; `auto` is that of the model's files (bfloat16 for float32 files) on
    GPUs, and `learner.dtype` on CPUs."""
    enforce_eager: Annotated[bool | None, Resume.FREE_UNLESS_DETERMINISTIC] = None
    """True runs without CUDA graphs and compilation: engines start sooner and decode more slowly."""
    async_scheduling: Annotated[bool | None, Resume.FREE_UNLESS_DETERMINISTIC] = None
    """Schedule the next batch while the GPU computes; vLLM's own choice is yes."""
    max_num_batched_tokens: Annotated[int | None, Resume.FREE_UNLESS_DETERMINISTIC] = Field(
        default=None, ge=1, le=2**20
    )
    """Tokens that an engine computes at once, and the size of its cache of encoded clips in audio tokens. Earshot's own
    choice has room for several of the longest clips; a lower number saves memory."""
    enable_chunked_prefill: Annotated[bool | None, Resume.FREE_UNLESS_DETERMINISTIC] = None
    """Split long prompts over several batches; vLLM's own choice is yes."""
    enable_prefix_caching: Annotated[bool, Resume.FREE_UNLESS_DETERMINISTIC] = True
    """Compute the prompt of a group once."""
    block_size: Annotated[Literal[16, 32, 64, 128] | None, Resume.FREE_UNLESS_DETERMINISTIC] = None
    """Tokens in a block of the key-value cache; on CPUs a multiple of 32."""
    attention_backend: Annotated[
        Literal["FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION"] | None, Resume.FREE_UNLESS_DETERMINISTIC
    ] = None
    """Implementation of attention."""
    disable_custom_all_reduce: Annotated[bool, Resume.FREE_UNLESS_DETERMINISTIC] = False
    """With `tensor_parallel` above 1, use NCCL's all-reduce instead of vLLM's own."""
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"
    """Type of the key-value cache; `auto` is the engine's type. The fp8 types change the distribution that is sampled:
    they need `learner.loss.correction.level`."""
    quantization: Literal["fp8"] | None = None
    """Quantize the engine's weights when they are loaded, also in weight updates. It changes the distribution that is
    sampled: it needs `learner.loss.correction.level`."""

    @model_validator(mode="before")
    @classmethod
    def _name_the_key_that_decides(cls, value: Any) -> Any:
        for name, instead in _ELSEWHERE.items():
            if isinstance(value, dict) and name in value:
                raise ValueError(f"{name} is not an argument of this section: {instead}")
        return value

    @property
    def inexact(self) -> tuple[str, ...]:
        """Names of the arguments given that make the engine sample from another distribution than the model's."""
        given = {"kv_cache_dtype": self.kv_cache_dtype != "auto", "quantization": self.quantization is not None}
        return tuple(name for name, is_given in given.items() if is_given)
