"""Qwen3-Omni in vLLM: experts and routing as in the learner, also after an update of a few; clips as if alone."""

from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import save_file

WIDTH, EXPERTS = 64, 8
PREFIX = "thinker.model.layers.0.mlp."
LENGTHS = (37, 250, 100, 137, 60)
"""Mel frames of clips: two are shorter than a window."""


def learners(normalised: bool = True):
    """Return the learner's layer of experts, always with the same weights."""
    from transformers import Qwen3OmniMoeConfig
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeThinkerTextSparseMoeBlock

    text = Qwen3OmniMoeConfig().thinker_config.text_config
    text.hidden_size, text.num_experts, text.num_experts_per_tok = WIDTH, EXPERTS, 2
    text.moe_intermediate_size, text.norm_topk_prob = 32, normalised
    block = Qwen3OmniMoeThinkerTextSparseMoeBlock(text)
    with torch.no_grad():
        for i, parameter in enumerate(block.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
    return text, block


def stored(block) -> dict[str, torch.Tensor]:
    """Return the layer's weights as a checkpoint has them."""
    from learner.families.registry import FAMILIES

    return {
        name: (parameter.detach()[at] if at else parameter.detach()).clone()
        for own, parameter in block.named_parameters()
        for name, at in FAMILIES["qwen3_omni_moe"].stored(f"{PREFIX}{own}", parameter.shape)
    }


def pack(model) -> None:
    """Bring the weights of vLLM's layers into the form in which they compute."""
    for module in model.modules():
        if hasattr(module, "quant_method"):
            module.quant_method.process_weights_after_loading(module)


def in_vllm(folder: Path) -> dict[str, float]:
    """Return the differences between learner and vLLM; runs in a process of its own for vLLM."""
    from types import SimpleNamespace

    import numpy as np
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.forward_context import set_forward_context

    from rollout_workers.engine.models import adapt
    from rollout_workers.engine.segment import copied
    from rollout_workers.engine.transfer import TransferEngine

    adapt()
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading
    from vllm.model_executor.models.qwen3_moe import Qwen3MoeSparseMoeBlock
    from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper

    text, block = learners()
    before = stored(block)
    save_file(before, folder / "model.safetensors")
    config = VllmConfig()
    model = SimpleNamespace(hf_text_config=text, model=str(folder), dtype=torch.float32)
    settings = SimpleNamespace(model_config=model, parallel_config=config.parallel_config, quant_config=None)

    class Served(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = Qwen3MoeSparseMoeBlock(settings, prefix="mlp")

        def load_weights(self, weights) -> None:
            AutoWeightsLoader(self).load_weights(weights, mapper=WeightsMapper(orig_to_new_prefix={PREFIX: "mlp."}))

    found: dict[str, float] = {}
    hidden = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(9))
    with set_current_vllm_config(config), torch.no_grad(), set_forward_context(None, config):
        init_distributed_environment(1, 0, f"file://{folder}/meeting", 0, "gloo")
        initialize_model_parallel()
        served = Served()
        record_metadata_for_reloading(served)
        served.load_weights(before.items())
        pack(served)

        def difference(other) -> float:
            return float((served.mlp(hidden) - other(hidden[None])[0]).abs().max())

        found["loaded"] = difference(block)
        found["other normalisation"] = difference(learners(normalised=False)[1])
        for expert in (2, 5):
            block.experts.gate_up_proj[expert, :32] += torch.randn(32, WIDTH)
        found["before the update"] = difference(block)
        sent = {name: value for name, value in stored(block).items() if not torch.equal(value, before[name])}
        assert sorted(sent) == [f"{PREFIX}experts.{expert}.gate_proj.weight" for expert in (2, 5)]
        engine = TransferEngine(None, settings, torch.device("cpu"), served)
        engine.start_weight_update()
        with copied([value.numpy().reshape(-1).view(np.uint8) for value in sent.values()]) as (path, offsets):
            slots = [(n, "float32", list(v.shape), at) for (n, v), at in zip(sent.items(), offsets, strict=True)]
            engine.update_weights({"carrier": "object_store", "info": {"path": path, "slots": slots}})
        engine.finish_weight_update()
        found["after the update"] = difference(block)
        found |= tower()
    return found


def tower() -> dict[str, float]:
    """Return the differences of clips that vLLM encodes together from the same ones alone in transformers."""
    from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeAudioEncoderConfig
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder
    from vllm.model_executor.models import qwen3_omni_moe_thinker

    from audio_qa.families import FACTS

    config = Qwen3OmniMoeAudioEncoderConfig(
        num_mel_bins=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        d_model=32,
        downsample_hidden_size=8,
        n_window_infer=100,
        output_dim=32,
    )
    ours = Qwen3OmniMoeAudioEncoder(config).eval()
    theirs = qwen3_omni_moe_thinker.Qwen3OmniMoeAudioEncoder(config)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.load_weights(ours.state_dict().items())
    pack(theirs)
    clips = [torch.randn(16, frames) for frames in LENGTHS]
    tokens = [FACTS["qwen3_omni_moe"].audio_tokens(frames) for frames in LENGTHS]
    together = theirs(torch.cat(clips, dim=1), torch.tensor(LENGTHS), torch.tensor(tokens)).split(tokens)
    alone = [ours(clip, feature_lens=torch.tensor([clip.shape[1]])).last_hidden_state for clip in clips]
    return {f"{n} frames": float((a - b).abs().max()) for n, a, b in zip(LENGTHS, together, alone, strict=True)}


@pytest.fixture(scope="module")
def found(cluster, tmp_path_factory) -> dict[str, float]:
    differences = ray.get(ray.remote(num_cpus=1)(in_vllm).remote(tmp_path_factory.mktemp("experts")), timeout=120)
    print(differences)
    return differences


def test_a_token_goes_to_the_same_experts_with_the_same_weights(found):
    assert found["loaded"] < 1e-4
    assert found["other normalisation"] > 0.1


def test_an_update_of_a_few_experts_leaves_the_others_as_they_were(found):
    assert found["before the update"] > 0.1
    assert found["after the update"] < 1e-4


@pytest.mark.parametrize("frames", LENGTHS)
def test_a_clip_sounds_the_same_next_to_longer_ones(found, frames):
    assert found[f"{frames} frames"] < 1e-5
