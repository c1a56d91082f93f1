"""The names parameters have in a checkpoint, as transformers and vLLM both load them.

transformers' own `save_pretrained` writes `language_model.model.model.…` for qwen2_audio in the versions pinned here,
which vLLM refuses; so checkpoints and weight updates take their names from this module.
"""

from collections.abc import Iterator

from torch import nn

_PREFIXES = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.audio_tower.", "audio_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)


def canonical_name(module_name: str) -> str:
    """The checkpoint's name of a parameter that transformers' module calls `module_name`."""
    for module_prefix, canonical_prefix in _PREFIXES:
        if module_name.startswith(module_prefix):
            return canonical_prefix + module_name.removeprefix(module_prefix)
    raise ValueError(f"parameter {module_name!r} has no known place in a Qwen2-Audio checkpoint")


def named_canonical(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter of a Qwen2-Audio with its canonical name, in the module's order."""
    for name, parameter in model.named_parameters():
        yield canonical_name(name), parameter


def is_audio(canonical: str) -> bool:
    """Whether a parameter takes part in turning a clip into embeddings."""
    return canonical.startswith(("audio_tower.", "multi_modal_projector."))
