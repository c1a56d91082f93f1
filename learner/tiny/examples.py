"""Supervised training of the tiny model in this process, on prompts with audio and target texts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from audio_qa.audio import SAMPLE_RATE
from audio_qa.synthetic.waveform import Waveform
from learner.families.audio_tower import frames_kept
from learner.families.qwen2_audio import Qwen2Audio
from learner.model.loading import attend_by_rows
from learner.model.packing import EncodedPrompt, MicroBatch, make_rows, pack
from learner.model.policy import Policy
from learner.schedule import Schedule
from learner.schedule import learning_rate as rate_at

FAMILY = Qwen2Audio()

Example = tuple[EncodedPrompt, tuple[int, ...]]
Report = Callable[[str, int, int], None]
"""Called with the activity, the progress and the total."""


def encode_examples(
    processor: Any, texts: Sequence[str], sounds: Sequence[Waveform], targets: Sequence[str]
) -> list[Example]:
    """Encode prompts with features, and targets with the stop token.

    Args:
        texts: rendered chats, each with one unexpanded audio placeholder.
        sounds: the clips, float32 of shape (N,) at 16 kHz.
    """
    tokenizer = processor.tokenizer
    features = processor.feature_extractor(
        list(sounds), sampling_rate=SAMPLE_RATE, padding="max_length", return_attention_mask=True, return_tensors="pt"
    )
    examples = []
    for text, target, mel, mask in zip(
        texts, targets, features["input_features"], features["attention_mask"], strict=True
    ):
        valid = int(mask.sum())
        expanded = text.replace(processor.audio_token, processor.audio_token * FAMILY.facts.audio_tokens(valid))
        prompt = EncodedPrompt(
            tuple(tokenizer(expanded)["input_ids"]), mel[:, : frames_kept(valid, mel.shape[1])], valid
        )
        examples.append((prompt, (*tokenizer(target)["input_ids"], tokenizer.eos_token_id)))
    return examples


def train(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    schedule: Schedule,
    weight_decay: float,
    warmup_steps: int,
    seed: int,
    report: Callable[[int], None],
) -> Policy:
    """Train `model` in place with AdamW on the mean log-probability of the target tokens, and return its policy.

    Args:
        seed: seed of the order of the examples, which differs in each epoch.
        report: called with the number of completed steps.
    """
    attend_by_rows(FAMILY, model)
    policy = Policy(FAMILY, model)
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )
    batches = _batches(examples, batch_size, seed)
    for step in range(steps):
        rate = rate_at(step, total=steps, peak=learning_rate, warmup=warmup_steps, schedule=schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate
        logprobs, _ = policy(pack_examples(next(batches), model))
        optimizer.zero_grad()
        (-logprobs.mean()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        report(step + 1)
    return policy


def pack_examples(examples: Sequence[Example], model: PreTrainedModel) -> MicroBatch:
    """Pack examples into one micro-batch, one row each."""
    rows = make_rows([p for p, _ in examples], [[c] for _, c in examples], shared=False)
    return pack(rows, FAMILY.audio_token_id(model))


def _batches(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(examples))
        for start in range(0, len(order) - size + 1, size):
            yield [examples[int(i)] for i in order[start : start + size]]
