"""Teaches the tiny model to hear: it learns to describe clips, and never sees a question or its answer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from audio_qa.audio import SAMPLE_RATE
from audio_qa.synthetic.scene import SCENES, Scene
from learner.audio_tower import frames_kept
from learner.families.qwen2_audio import Qwen2Audio
from learner.model import attend_by_rows
from learner.packing import EncodedPrompt, MicroBatch, make_rows, pack
from learner.policy import Policy
from learner.schedule import Schedule, learning_rate

FAMILY = Qwen2Audio()
PROMPT = "Describe the audio."


@dataclass(frozen=True, slots=True)
class CaptioningRecipe:
    """How long and on what the model learns to hear. A change here makes another base."""

    clips: int = 5100
    steps: int = 340
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50


Example = tuple[EncodedPrompt, tuple[int, ...]]


def _examples(scenes: Sequence[Scene], processor: ProcessorMixin) -> list[Example]:
    """Prompts with features, and captions with the stop token."""
    tokenizer = processor.tokenizer
    content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": PROMPT}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    features = processor.feature_extractor(
        [scene.samples for scene in scenes],
        sampling_rate=SAMPLE_RATE,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    made = []
    for scene, mel, mask in zip(scenes, features["input_features"], features["attention_mask"], strict=True):
        valid = int(mask.sum())
        expanded = text.replace(processor.audio_token, processor.audio_token * FAMILY.facts.audio_tokens(valid))
        prompt = EncodedPrompt(
            tuple(tokenizer(expanded)["input_ids"]), mel[:, : frames_kept(valid, mel.shape[1])], valid
        )
        made.append((prompt, (*tokenizer(scene.caption)["input_ids"], tokenizer.eos_token_id)))
    return made


def _scenes(seed: int, stream: int, count: int) -> list[Scene]:
    rng = np.random.default_rng([seed, stream])
    return [SCENES[i % len(SCENES)](rng) for i in range(count)]


def _batches(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(examples))
        for start in range(0, len(order) - size + 1, size):
            yield [examples[int(i)] for i in order[start : start + size]]


def teach_hearing(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    recipe: CaptioningRecipe,
    seed: int,
    report: Callable[[str, int, int], None],
) -> float:
    """Train `model` in place to caption synthetic scenes.

    Args:
        report: called with what is being done, how far it is, and how far it goes.

    Returns:
        The share of words right in captions of scenes it was not trained on, given the words before.
    """
    examples: list[Example] = []
    for start in range(0, recipe.clips, 200):
        examples += _examples(_scenes(seed, start + 1, min(200, recipe.clips - start)), processor)
        report("making clips", len(examples), recipe.clips)
    attend_by_rows(FAMILY, model)
    policy = Policy(FAMILY, model)
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    batches = _batches(examples, recipe.batch_size, seed)
    for step in range(recipe.steps):
        rate = learning_rate(
            step,
            total=recipe.steps,
            peak=recipe.learning_rate,
            warmup=recipe.warmup_steps,
            schedule=Schedule.LINEAR,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        logprobs, _ = policy(_pack(next(batches), model))
        optimizer.zero_grad()
        (-logprobs.mean()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        report("learning to hear", step + 1, recipe.steps)
    return _words_right(policy, model, _examples(_scenes(seed, 0, 240), processor))


def _pack(examples: Sequence[Example], model: PreTrainedModel) -> MicroBatch:
    rows = make_rows([p for p, _ in examples], [[c] for _, c in examples], shared=False)
    return pack(rows, FAMILY.audio_token_id(model))


@torch.no_grad()
def _words_right(policy: Policy, model: PreTrainedModel, examples: Sequence[Example]) -> float:
    right = total = 0
    for start in range(0, len(examples), 60):
        batch = _pack(examples[start : start + 60], model)
        best = policy.logits(batch).argmax(dim=-1)
        right += int((best == batch.targets).sum())
        total += len(best)
    return right / total
