"""Teaches the tiny model to hear: it learns to describe clips, and never sees a question or its answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from audio_qa.synthetic.scene import SCENES, Scene
from learner.model.policy import Policy
from learner.schedule import Schedule
from learner.tiny.examples import Example, Report, encode, packed, train

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


def _examples(scenes: Sequence[Scene], processor: ProcessorMixin) -> list[Example]:
    """Clips with their captions."""
    content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": PROMPT}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return encode(
        processor, [text] * len(scenes), [scene.samples for scene in scenes], [scene.caption for scene in scenes]
    )


def _scenes(seed: int, stream: int, count: int) -> list[Scene]:
    rng = np.random.default_rng([seed, stream])
    return [SCENES[i % len(SCENES)](rng) for i in range(count)]


def teach_hearing(
    model: PreTrainedModel, processor: ProcessorMixin, recipe: CaptioningRecipe, seed: int, report: Report
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
    policy = train(
        model,
        examples,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        schedule=Schedule.LINEAR,
        weight_decay=recipe.weight_decay,
        warmup_steps=recipe.warmup_steps,
        seed=seed,
        report=lambda done: report("learning to hear", done, recipe.steps),
    )
    return _words_right(policy, model, _examples(_scenes(seed, 0, 240), processor))


@torch.no_grad()
def _words_right(policy: Policy, model: PreTrainedModel, examples: Sequence[Example]) -> float:
    right = total = 0
    for start in range(0, len(examples), 60):
        batch = packed(examples[start : start + 60], model)
        best = policy.logits(batch).argmax(dim=-1)
        right += int((best == batch.targets).sum())
        total += len(best)
    return right / total
