"""The packed, trimmed forward against transformers' own on whole clips, one completion at a time."""

import pytest
import torch
from transformers import Qwen2AudioForConditionalGeneration

from audio_qa.audio import load_audio
from learner.families.qwen2_audio import Qwen2Audio
from learner.model import load_model
from learner.packing import make_rows, pack
from learner.policy import Policy

FAMILY = Qwen2Audio()


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load_model(FAMILY, str(tiny_folder), "float32").eval()


@pytest.fixture(scope="module")
def plain(tiny_folder, processor, questions, rendered, groups, banned):
    """Log-probabilities by transformers' forward: no packing, no trimming, temperature 1 and 0.7."""
    model = Qwen2AudioForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    scored = {}
    for temperature in (1.0, 0.7):
        lines = []
        for question, text, group in zip(questions, rendered, groups, strict=True):
            clip = load_audio(question.audio, max_seconds=2, too_long="refuse")
            inputs = processor(text=[text], audio=[clip.samples], sampling_rate=16_000, return_tensors="pt")
            for completion in group.completions:
                ids = torch.cat([inputs["input_ids"], torch.tensor([completion.token_ids], dtype=torch.long)], dim=1)
                with torch.no_grad():
                    logits = model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0]
                logits[:, list(banned)] = -torch.inf
                scores = (logits / temperature).log_softmax(-1)
                first = inputs["input_ids"].shape[1] - 1
                lines += [float(scores[first + j, t]) for j, t in enumerate(completion.token_ids)]
        scored[temperature] = torch.tensor(lines)
    return scored


def packed(policy, encoder, groups, shared):
    prompts = [encoder.encode(g.question, g.template) for g in groups]
    rows = make_rows(prompts, [[c.token_ids for c in g.completions] for g in groups], shared=shared)
    return policy(pack(rows, FAMILY.audio_token_id(policy.model)))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("shared", [True, False], ids=["shared prefix", "plain rows"])
def test_logprobs_equal_transformers(model, encoder, groups, banned, plain, shared, temperature):
    policy = Policy(FAMILY, model, banned=banned, temperature=temperature)
    with torch.no_grad():
        logprobs, _ = packed(policy, encoder, groups, shared)
    difference = (logprobs - plain[temperature]).abs().max()
    assert difference < 1e-5, f"largest difference {difference:.1e}"


def test_shared_prefix_has_the_plain_rows_gradients(model, encoder, groups, banned):
    """Every trained parameter's, the audio tower's included."""
    gradients = []
    for shared in (True, False):
        policy = Policy(FAMILY, model, banned=banned)
        policy.zero_grad()
        packed(policy, encoder, groups, shared)[0].sum().backward()
        gradients.append({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})
    assert any("audio_tower" in name for name in gradients[0])
    assert gradients[0].keys() == gradients[1].keys()
    norm = torch.sqrt(sum((g**2).sum() for g in gradients[1].values()))
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).norm() < 1e-5 * norm, name


def test_entropy_of_a_flat_distribution(model, encoder, groups, banned):
    policy = Policy(FAMILY, model, banned=banned, temperature=1e9)
    with torch.no_grad():
        logprobs, entropy = packed(policy, encoder, groups, shared=True)
    allowed = model.config.text_config.vocab_size - len(banned)
    expected = torch.log(torch.tensor(float(allowed)))
    assert torch.allclose(entropy, expected.expand_as(entropy), atol=1e-4)
    assert torch.allclose(logprobs, -expected.expand_as(logprobs), atol=1e-4)


def test_what_one_completion_says_does_not_touch_another(model, encoder, groups):
    policy = Policy(FAMILY, model)
    prompt = encoder.encode(groups[0].question, groups[0].template)
    audio = model.config.audio_token_id
    with torch.no_grad():
        one, _ = policy(pack(make_rows([prompt], [[(10, 11, 12), (20, 21)]], shared=True), audio))
        two, _ = policy(pack(make_rows([prompt], [[(30, audio, 32), (20, 21)]], shared=True), audio))
    assert torch.equal(one[3:], two[3:])
    assert not torch.equal(one[:3], two[:3])
