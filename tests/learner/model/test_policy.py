"""The packed, trimmed forward against transformers' forward on padded clips, one completion at a time, per family."""

import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support.devices import relative
from support.families.tiny import TINY, write_tiny

from audio_qa.audio import load_audio
from audio_qa.chat import banned_token_ids, render, stop_token_ids
from audio_qa.prompt import PromptTemplate
from learner.families.family import Family, Part
from learner.families.registry import family_of
from learner.model.loading import load_model, load_processor
from learner.model.packing import EncodedPrompt, make_rows, pack
from learner.model.policy import Policy
from learner.model.prompts import PromptEncoder

ANSWERS = (("two", "one"), ("one", "rising falling", "", "two"), ("flute", "a"), ("noise", "four", "one"))
"""Completions of the four questions, including an empty one."""


@dataclass
class Subject:
    """One family's tiny model, with prompts and completions."""

    folder: str
    family: Family
    processor: Any
    banned: tuple[int, ...]
    prompts: list[EncodedPrompt]
    completions: list[list[tuple[int, ...]]]
    model: Any
    """The learner's model, on the tested device."""

    def policy(self, **settings: Any) -> Policy:
        return Policy(self.family, self.model, **settings).to(self.model.device)

    def packed(self, policy: Policy, shared: bool) -> torch.Tensor:
        rows = make_rows(self.prompts, self.completions, shared=shared)
        logprobs: torch.Tensor = policy(pack(rows, self.family.audio_token_id(policy.model)))[0]
        return logprobs

    def with_gradients(self, dtype: str, device: str) -> list[torch.Tensor]:
        """Return the log-probabilities of the model with another type or device, and the gradients of their sum."""
        model = load_model(self.family, self.folder, dtype).eval()
        if dtype == "float64" and self.family.facts.model_type == "qwen3_omni_moe":
            model.set_experts_implementation("eager")  # torch's grouped product of experts has no float64
        policy = Policy(self.family, model, banned=self.banned).to(device)
        logprobs = self.packed(policy, shared=True)
        logprobs.sum().backward()
        return [
            logprobs,
            torch.cat([p.grad.flatten().cpu().double() for p in model.parameters() if p.grad is not None]),
        ]


@pytest.fixture(scope="module", params=TINY)
def subject(request, device, tmp_path_factory, questions):
    torch._dynamo.reset()
    folder = str(write_tiny(request.param, tmp_path_factory.mktemp("models") / request.param))
    family, processor = family_of(folder), load_processor(folder)
    model = load_model(family, folder, "float32").eval().to(device)
    tokenizer = processor.tokenizer
    stops = stop_token_ids(folder, tokenizer)
    banned = banned_token_ids(tokenizer, family.vocabulary_size(model), stops)
    encoder = PromptEncoder(family, processor)
    completions = [
        [(*tokenizer(f"<answer>{a}</answer>")["input_ids"], tokenizer.eos_token_id) if a else () for a in answers]
        for answers in ANSWERS
    ]
    prompts = [encoder.encode(question, PromptTemplate.ANSWER) for question in questions]
    return Subject(folder, family, processor, banned, prompts, completions, model)


@pytest.fixture(scope="module")
def plain(subject, questions):
    """Logits by transformers' forward, shape (N, V): no packing, no trimming, one completion at a time."""
    model, _ = subject.family.load(subject.folder, torch.float32)
    accepted = inspect.signature(model.forward).parameters
    found = []
    for question, answers in zip(questions, subject.completions, strict=True):
        clip = load_audio(question.audio, max_seconds=2, too_long="refuse")
        text = render(subject.processor, question, PromptTemplate.ANSWER)
        made = subject.processor(text=[text], audio=[clip.samples], sampling_rate=16_000, return_tensors="pt")
        inputs = {name: value for name, value in made.items() if name in accepted}
        first = inputs["input_ids"].shape[1] - 1
        for answer in answers:
            ids = torch.cat([inputs["input_ids"], torch.tensor([answer], dtype=torch.long)], dim=1)
            with torch.no_grad():
                logits = model.eval()(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0]
            found.append(logits[first : first + len(answer)])
    return torch.cat(found)


@pytest.fixture(scope="module")
def targets(subject):
    return torch.tensor([t for group in subject.completions for answer in group for t in answer])


def test_audio_tokens_are_counted_as_the_processor_does(subject, questions):
    """The check of a job before its start counts the same audio tokens as the processor."""
    token, counted = subject.family.audio_token_id(subject.model), []
    for prompt in subject.prompts:
        counted.append(prompt.token_ids.count(token))
        assert counted[-1] == subject.family.facts.audio_tokens(prompt.valid_frames)
        assert subject.processor.tokenizer.convert_ids_to_tokens(token) == subject.family.facts.audio_token
    assert len(set(counted)) == len(questions)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("shared", [True, False], ids=["shared prefix", "plain rows"])
def test_logprobs_equal_transformers(subject, plain, targets, shared, temperature):
    policy = subject.policy(banned=subject.banned, temperature=temperature)
    with torch.no_grad():
        logprobs = subject.packed(policy, shared).cpu()
    # transformers leaves out the division of Granite's logits in the model with audio.
    logits = plain / subject.family.logits_scaling(subject.model)
    logits[:, list(subject.banned)] = -torch.inf
    expected = (logits / temperature).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    difference = (logprobs - expected).abs().max()
    print(f"{subject.family.facts.name} on {subject.model.device}: {difference:.1e}")
    assert difference < 1e-5, f"largest difference {difference:.1e}"


def test_shared_prefix_has_the_plain_rows_gradients(subject):
    """The gradients of all trained parameters agree, including those of the audio tower."""
    family, gradients = subject.family, []
    for shared in (True, False):
        policy = subject.policy(banned=subject.banned)
        policy.zero_grad()
        subject.packed(policy, shared).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in family.named_parameters(subject.model) if p.grad is not None})
    trained = {n for n, p in family.named_parameters(subject.model) if family.part(n) is not Part.FIXED}
    assert gradients[0].keys() == gradients[1].keys() == trained
    assert {family.part(name) for name in trained} == set(Part) - {Part.FIXED}
    norm = torch.sqrt(sum((g**2).sum() for g in gradients[1].values()))
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).norm() < 1e-5 * norm, name


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_types_and_devices_differ_by_rounding_only(subject, dtype, bound):
    """Log-probabilities and the gradient of every parameter are compared with float64 on the CPU."""
    exact = subject.with_gradients("float64", "cpu")
    found = subject.with_gradients(dtype, subject.model.device.type)
    errors = [relative(one, other) for one, other in zip(found, exact, strict=True)]
    print(f"{subject.family.facts.name} {dtype} on {subject.model.device}: {errors[0]:.1e}, gradient {errors[1]:.1e}")
    assert max(errors) < bound


def test_entropy_of_a_flat_distribution(subject):
    policy = subject.policy(banned=subject.banned, temperature=1e9)
    rows = make_rows(subject.prompts, subject.completions, shared=True)
    with torch.no_grad():
        logprobs, entropy = (x.cpu() for x in policy(pack(rows, subject.family.audio_token_id(subject.model))))
    allowed = subject.family.vocabulary_size(subject.model) - len(subject.banned)
    expected = torch.log(torch.tensor(float(allowed)))
    assert torch.allclose(entropy, expected.expand_as(entropy), atol=1e-4)
    assert torch.allclose(logprobs, -expected.expand_as(logprobs), atol=1e-4)


def test_a_completion_does_not_affect_another(subject):
    """An audio token in a completion is not treated as audio."""
    policy, audio = subject.policy(), subject.family.audio_token_id(subject.model)
    with torch.no_grad():
        one, _ = policy(pack(make_rows(subject.prompts[:1], [[(10, 11, 12), (20, 21)]], shared=True), audio))
        two, _ = policy(pack(make_rows(subject.prompts[:1], [[(30, audio, 32), (20, 21)]], shared=True), audio))
    assert torch.equal(one[3:], two[3:])
    assert not torch.equal(one[:3], two[:3])
