"""Caption training of the tiny model: it learns to describe clips, and never sees a question or its answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from audio_qa.synthetic.scene import SCENES, Scene
from learner.model.policy import Policy
from learner.schedule import Schedule
from learner.tiny.examples import Example, Report, encode_examples, pack_examples, train

PROMPT = "Describe the audio."


@dataclass(frozen=True, slots=True)
class CaptioningRecipe:
    """Settings of caption training. A change here makes another base model."""

    clips: int = 5100
    steps: int = 340
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50


def _examples(scenes: Sequence[Scene], processor: ProcessorMixin) -> list[Example]:
    """Encode clips with their captions."""
    content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": PROMPT}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return encode_examples(
        processor, [text] * len(scenes), [scene.samples for scene in scenes], [scene.caption for scene in scenes]
    )


def _scenes(seed: int, stream: int, count: int) -> list[Scene]:
    rng = np.random.default_rng([seed, stream])
    return [SCENES[i % len(SCENES)](rng) for i in range(count)]


def train_captioning(
    model: PreTrainedModel, processor: ProcessorMixin, recipe: CaptioningRecipe, seed: int, report: Report
) -> float:
    """Train `model` in place to caption synthetic scenes.

    Args:
        report: called with the activity, the progress and the total.

    Returns:
        The share of correct words in captions of held-out scenes, given the preceding words.
    """
    examples: list[Example] = []
    for start in range(0, recipe.clips, 200):
        examples += _examples(_scenes(seed, start + 1, min(200, recipe.clips - start)), processor)
        report("generating clips", len(examples), recipe.clips)
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
        report=lambda done: report("training on captions", done, recipe.steps),
    )
    return _words_right(policy, model, _examples(_scenes(seed, 0, 240), processor))


@torch.no_grad()
def _words_right(policy: Policy, model: PreTrainedModel, examples: Sequence[Example]) -> float:
    right = total = 0
    for start in range(0, len(examples), 60):
        batch = pack_examples(examples[start : start + 60], model)
        best = policy.logits(batch).argmax(dim=-1)
        right += int((best == batch.targets).sum())
        total += len(best)
    return right / total
