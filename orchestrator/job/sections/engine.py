"""Rules for `rollout.engine` that depend on other keys."""

from collections.abc import Iterator

from learner.losses.settings import CorrectionLevel
from orchestrator.job.sections.rollout import RolloutSection

_CPU_BLOCK = 32
"""vLLM's attention on CPUs works in blocks of this many tokens."""
_BACKENDS = {
    ("dtype", "float32"): ("FLASH_ATTN", "FLASHINFER"),
    ("kv_cache_dtype", "fp8_e5m2"): ("FLASH_ATTN", "FLEX_ATTENTION"),
    ("kv_cache_dtype", "fp8_e4m3"): ("FLEX_ATTENTION",),
    ("kv_cache_dtype", "fp8"): ("FLEX_ATTENTION",),
    ("block_size", 128): ("FLASHINFER",),
}
"""Implementations of attention that vLLM 0.32 refuses at an engine's start with a value of another argument."""
_ON_CPUS = {
    "enforce_eager": True,
    "async_scheduling": False,
    "max_num_batched_tokens": None,
    "enable_chunked_prefill": False,
    "attention_backend": None,
    "disable_custom_all_reduce": False,
    "kv_cache_dtype": "auto",
    "quantization": None,
}
"""Arguments that need GPUs, with the value that engines on CPUs have."""


def engine_problem(rollout: RolloutSection, max_context: int, correction: CorrectionLevel | None) -> str | None:
    """Return why the engines' arguments do not fit the rest of a job, and how to mend it; None if they fit.

    Args:
        max_context: `model.max_context`.
        correction: level of the importance weights that completions are trained with; None if none are trained on.
    """
    return next(_problems(rollout, max_context, correction), None)


def _problems(rollout: RolloutSection, max_context: int, correction: CorrectionLevel | None) -> Iterator[str]:
    options = rollout.engine
    if not rollout.gpus:
        yield from _problems_on_cpus(rollout)
    tokens = options.max_num_batched_tokens
    if tokens is not None and tokens < rollout.max_concurrent:
        yield (
            f"rollout.engine.max_num_batched_tokens ({tokens}) is less than rollout.max_concurrent "
            f"({rollout.max_concurrent}), each of whose sequences takes one: raise the first or lower the second"
        )
    if tokens is not None and options.enable_chunked_prefill is False and tokens < max_context:
        yield (
            f"rollout.engine.max_num_batched_tokens ({tokens}) is less than model.max_context ({max_context}), and "
            "without enable_chunked_prefill a prompt is not split: raise the first, or leave enable_chunked_prefill out"
        )
    if options.quantization and options.dtype == "float32":
        yield (
            f"rollout.engine.dtype float32 excludes quantization {options.quantization}, whose activations are "
            "bfloat16 or float16: leave one of them out"
        )
    for (name, value), backends in _BACKENDS.items():
        if getattr(options, name) == value and options.attention_backend in backends:
            yield (
                f"rollout.engine.{name} {value} is not supported by attention_backend {options.attention_backend}: "
                "leave one of them out"
            )
    if options.inexact and correction is CorrectionLevel.NONE:
        yield (
            f"rollout.engine.{options.inexact[0]} makes the engines sample from another distribution than the "
            "learner's, and learner.loss.correction.level none does not correct for it: set it to token or sequence, "
            f"or leave {options.inexact[0]} out"
        )


def _problems_on_cpus(rollout: RolloutSection) -> Iterator[str]:
    options = rollout.engine
    for name, on_cpus in _ON_CPUS.items():
        value = getattr(options, name)
        if value not in (type(options).model_fields[name].default, on_cpus):
            shown = str(value).lower() if isinstance(value, bool) else value
            yield (
                f"rollout.engine.{name} {shown} needs GPUs, and with rollout.gpus 0 the engines run on CPUs: "
                "leave it out"
            )
    if options.block_size is not None and options.block_size % _CPU_BLOCK:
        yield (
            f"rollout.engine.block_size ({options.block_size}) is not a multiple of {_CPU_BLOCK}, as engines on CPUs "
            "need it: set it to one, or leave it out"
        )


def engine_dtype(rollout: RolloutSection, learner_dtype: str) -> str:
    """Return the type of an engine's numbers; `auto` is vLLM's choice on GPUs, from the model's files."""
    if rollout.engine.dtype == "auto" and not rollout.gpus:
        return learner_dtype
    return rollout.engine.dtype
