"""The names of the weights of a Q-Former (Li et al., 2023, "BLIP-2", arXiv:2301.12597) and their shapes.

R is its width, T its inner size and D the width of what it reads, the audio tower's.
"""

from audio_qa.model_folder.documents import AGAIN, ModelError, Section

_WINDOW = {"window_size": 15, "downsample_rate": 5}
"""Frames of the tower that are read together, and how many of them give one embedding, as published."""
_LAYERS, _FREQUENCY = 12, 2
"""Defaults of transformers."""
_MOST_LAYERS = 1000


def query_former_weights(config: Section, prefix: str) -> dict[str, str]:
    """Return the shape of each weight by name.

    Raises ModelError for another number of embeddings of a window than `audio_qa.families` counts.
    """
    for key, taken in _WINDOW.items():
        if config.number(key) not in (None, taken):
            raise ModelError(
                f"{config.where}: {key} is {config.values[key]}, and Earshot counts the audio tokens of a clip with "
                f"{taken}; put the model's own config.json there, or {AGAIN}"
            )
    own = config.section("projector_config")
    frequency = own.number("cross_attention_frequency") or _FREQUENCY
    needed = {
        "query": f"1{_WINDOW['window_size'] // _WINDOW['downsample_rate']}R",
        **_normalisation("qformer.layernorm"),
    }
    for i in range(min(own.number("num_hidden_layers") or _LAYERS, _MOST_LAYERS)):
        layer = f"qformer.encoder.layer.{i}."
        needed |= _attention(f"{layer}attention.", reads="R")
        if i % frequency == 0:
            needed |= _attention(f"{layer}crossattention.", reads="D")
        needed |= _linear(f"{layer}intermediate_query.dense", "TR") | _linear(f"{layer}output_query.dense", "RT")
        needed |= _normalisation(f"{layer}output_query.LayerNorm")
    return {prefix + name: shape for name, shape in needed.items()}


def _attention(prefix: str, reads: str) -> dict[str, str]:
    needed = _linear(f"{prefix}attention.query", "RR") | _linear(f"{prefix}output.dense", "RR")
    for name in ("key", "value"):
        needed |= _linear(f"{prefix}attention.{name}", f"R{reads}")
    return needed | _normalisation(f"{prefix}output.LayerNorm")


def _linear(name: str, shape: str) -> dict[str, str]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[0]}


def _normalisation(name: str) -> dict[str, str]:
    return {f"{name}.{kind}": "R" for kind in ("weight", "bias")}
