"""Compiled layers have the results of uncompiled ones, and batches of other lengths do not recompile."""

from functools import partial

import pytest
import torch
from support.devices import relative
from support.families.tiny import TINY, write_tiny
from support.learner import counts_of, parameters_of
from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention

from audio_qa.model_folder.documents import ModelError
from audio_qa.prompt import PromptTemplate
from learner.families.registry import family_of
from learner.model.attention import RowLayout
from learner.model.loading import compile_layers, load_model, load_processor
from learner.model.lora import add_adapters, freeze, without_adapters
from learner.model.packing import make_rows, pack
from learner.model.policy import Policy
from learner.model.prompts import PromptEncoder
from learner.settings import LearnerSettings, LoraSettings, TrainSettings

ANSWERS = (("two", "one"), ("one", "rising falling", "", "two"), ("flute", "a"), ("noise", "four", "one"))
BATCHES = ((0, 1, 2, 3), (1,), (3, 0), (2,), (1, 2, 3), (2, 1, 0), (0,))
"""Indices of the questions in each batch."""
LATER = ("qwen3_omni_moe", "glmasr", "granite_speech")
"""Families that are compiled in the slow tests only: each takes ten seconds or more."""
CASES = [
    (next(iter(TINY)), False),
    *(pytest.param(name, True, marks=[pytest.mark.slow] if name in LATER else []) for name in TINY),
]
"""Families, and whether the decoder has adapters."""
DTYPES = {"qwen3_omni_moe": ("bfloat16", 0.1)}
"""Type of the weights and largest relative error, where not in float32."""


def fresh_backend(device, monkeypatch) -> str:
    """Return the backend: the real one on a GPU; on the CPU, where flex-attention has no gradient, the traced graph."""
    torch._dynamo.reset()
    counters.clear()
    if device == "cuda":
        return "inductor"
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    monkeypatch.setattr(RowLayout, "arguments", lambda self: {"block_mask": self.block_mask()})
    return "aot_eager"


def outcome(policy: Policy, batch) -> list[torch.Tensor]:
    """Return log-probabilities, the gradients of their sum, and log-probabilities without adapters."""
    logprobs, _ = policy(batch)
    logprobs.sum().backward()
    gradients = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    policy.zero_grad()
    with torch.no_grad(), without_adapters(policy):
        return [logprobs, gradients, policy(batch)[0]]


@pytest.mark.parametrize(("model_type", "adapters"), CASES)
def test_a_compiled_decoder_is_the_same_function(model_type, adapters, device, monkeypatch, questions, tmp_path):
    folder = str(write_tiny(model_type, tmp_path / "model"))
    family, processor = family_of(folder), load_processor(folder)
    dtype, bound = DTYPES.get(model_type, ("float32", 1e-5))
    model = load_model(family, folder, dtype).eval()
    if adapters:
        train = TrainSettings(audio_tower=False, projector=False)
        freeze(family, model, train)
        add_adapters(family, model, LoraSettings(rank=4), train)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    policy = Policy(family, model).to(device)
    encoder = PromptEncoder(family, processor)
    prompts = [encoder.encode(question, PromptTemplate.ANSWER) for question in questions]
    completions = [[tuple(processor.tokenizer(a)["input_ids"]) for a in answers] for answers in ANSWERS]

    def batch_of(chosen):
        rows = make_rows([prompts[i] for i in chosen], [completions[i] for i in chosen], shared=True)
        return pack(rows, family.audio_token_id(model))

    batches = [batch_of(chosen) for chosen in BATCHES]
    expected = [outcome(policy, batch) for batch in batches]
    backend = fresh_backend(device, monkeypatch)
    compile_layers(family, model, backend)
    errors, compiled = [], []
    for batch, right in zip(batches, expected, strict=True):
        found = outcome(policy, batch)
        errors += [relative(one, other) for one, other in zip(found, right, strict=True)]
        compiled.append(counters["frames"]["ok"])
    assert counters["frames"]["total"] == counters["frames"]["ok"] > 0
    assert not counters["graph_break"]
    print(f"{model_type} on {device}: largest error {max(errors):.1e}, compiled {compiled}")
    assert max(errors) < bound
    # With and without gradients and adapters, and once more for batches within one block of 128 tokens, as the second.
    first = 2 + adapters
    assert (compiled[0], set(compiled[1:])) == (first, {2 * first})


def test_experts_in_float32_are_not_compiled(tmp_path):
    folder = str(write_tiny("qwen3_omni_moe", tmp_path / "model"))
    family = family_of(folder)
    with pytest.raises(ModelError, match=r"in bfloat16 only; set learner\.dtype to bfloat16, or learner\.compile"):
        compile_layers(family, load_model(family, folder, "float32"))


@pytest.mark.parametrize("adapters", [False, True])
def test_a_compiled_learner_takes_the_same_steps(make_rank, groups, monkeypatch, adapters):
    """Three DeepSpeed steps, each on the weights of the previous one, with a reference."""
    settings = {"beta": 0.04, "zero_stage": 2} | ({"lora": {"rank": 4}} if adapters else {})
    stats, parameters = [], []
    for compiled in (False, True):
        if compiled:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            backend = fresh_backend(device, monkeypatch)
            monkeypatch.setattr("learner.rank.compile_layers", partial(compile_layers, backend=backend))
        rank = make_rank(compile=compiled, **settings)
        stats.append([rank.learn(groups, counts_of(groups)) for _ in range(3)])
        parameters.append(parameters_of(rank))
    for plain, compiled in zip(*stats, strict=True):
        assert compiled.grad_norm == pytest.approx(plain.grad_norm, rel=1e-5)
        assert compiled.kl == pytest.approx(plain.kl, rel=1e-4, abs=1e-7)
    assert stats[0][2].kl > 0
    errors = [relative(parameters[1][name], value) for name, value in parameters[0].items() if value.any()]
    print(f"largest error after three steps: {max(errors):.1e}")
    assert max(errors) < 1e-5


def test_zero_3_does_not_compile():
    with pytest.raises(ValueError, match="compile needs zero_stage below 3"):
        LearnerSettings(compile=True, zero_stage=3)
