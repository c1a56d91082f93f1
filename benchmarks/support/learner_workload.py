"""The workload of a learner step: a small Qwen2-Audio, clips, questions and completions, generated on the machine.

Invariant: the same workload has the same model, clips and completions on every machine. Completions are given, not
sampled, so that a benchmark measures the learner only.

Apart from its settings, benchmarks use `learner/` through this module only.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file
from torch import distributed
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from audio_qa.audio import SAMPLE_RATE
from audio_qa.chat import render
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from audio_qa.synthetic.benchmark import QUESTION_TYPES
from learner.checkpoint.export import write_checkpoint
from learner.families.family import Part
from learner.families.qwen2_audio import Qwen2Audio
from learner.losses.advantages import group_advantages
from learner.messages import BatchCounts, PhaseSettings
from learner.model.prompts import PromptEncoder
from learner.rank import LearnerRank
from learner.settings import LearnerSettings
from learner.tiny.architecture import make_model
from learner.tiny.tokenizer import make_tokenizer
from protocol.training import TrainingCompletion, TrainingGroup
from protocol.weights import TensorSlot

FAMILY = Qwen2Audio()
HEARS_SECONDS = 30
"""Length that the feature extractor pads every clip to, as for the published model: 3000 mel frames."""
TEMPLATE = PromptTemplate.ANSWER
_OPTIONS = 4
_STEPS = 1000
"""Total steps of the schedule: more than any benchmark takes. The learning rate is constant."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen2-Audio. A layer of the language model has three matrices of `intermediate`, four of `width`."""

    audio_layers: int = 4
    audio_width: int = 256
    layers: int = 6
    width: int = 256
    heads: int = 4
    intermediate: int = 768
    vocabulary: int = 0
    """Rows of the head; 0 for the number of tokens of the tokenizer."""


SEVEN_BILLION = Shape(
    audio_layers=32,
    audio_width=1280,
    layers=32,
    width=4096,
    heads=32,
    intermediate=11_008,
    vocabulary=156_032,
)
"""Sizes of Qwen2-Audio-7B."""
HUNDRED_MILLION = Shape(audio_layers=4, audio_width=512, layers=12, width=768, heads=12, intermediate=2048)
"""About 100 M parameters."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The size of one step."""

    shape: Shape = Shape()
    questions: int = 2
    group_size: int = 8
    clip_seconds: float = 20.0
    completion_tokens: int = 24
    seed: int = 0

    @property
    def completions(self) -> int:
        return self.questions * self.group_size


@dataclass(frozen=True, slots=True)
class PreparedWorkload:
    """A workload on disk and in memory."""

    model: Path
    """A checkpoint with its processor, which transformers loads."""
    prompts: tuple[str, ...]
    """The chat of each question, with the audio as one placeholder."""
    groups: tuple[TrainingGroup, ...]
    rewards: tuple[tuple[float, ...], ...]
    """One reward per completion; the groups contain the advantages computed from them."""


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one step of a learner."""

    seconds: float
    loss: float
    grad_norm: float
    """Norm before clipping."""


def small_processor() -> Qwen2AudioProcessor:
    """Return the published model's feature extractor, with the tiny model's tokenizer."""
    features = WhisperFeatureExtractor(
        feature_size=128, sampling_rate=SAMPLE_RATE, hop_length=160, chunk_length=HEARS_SECONDS
    )
    tokenizer = make_tokenizer()
    template = Qwen2AudioProcessor(feature_extractor=features, tokenizer=tokenizer).default_chat_template
    return Qwen2AudioProcessor(feature_extractor=features, tokenizer=tokenizer, chat_template=template)


def small_model(processor: Qwen2AudioProcessor, shape: Shape, seed: int) -> Qwen2AudioForConditionalGeneration:
    """Return a model of the real classes with random float32 weights."""
    tokenizer = processor.tokenizer
    audio = Qwen2AudioEncoderConfig(
        num_mel_bins=processor.feature_extractor.feature_size,
        encoder_layers=shape.audio_layers,
        encoder_attention_heads=shape.audio_width // 64,
        encoder_ffn_dim=4 * shape.audio_width,
        d_model=shape.audio_width,
        max_source_positions=HEARS_SECONDS * 50,
    )
    text = Qwen2Config(
        vocab_size=shape.vocabulary or len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = Qwen2AudioConfig(
        audio_config=audio.to_dict(), text_config=text.to_dict(), audio_token_index=processor.audio_token_id
    )
    model = make_model(config, seed)
    # Every special token can end this model's turn, so none is banned: the learner scores with the whole vocabulary, as
    # other trainers do.
    model.generation_config.eos_token_id = sorted(special_token_ids(processor))
    return model


def special_token_ids(processor: Qwen2AudioProcessor) -> frozenset[int]:
    """Return the tokens that no completion contains."""
    return frozenset(i for i, token in processor.tokenizer.added_tokens_decoder.items() if token.special)


def make_questions(folder: Path, workload: Workload) -> list[Question]:
    """Write a clip (a tone in noise) for each question into `folder`, WAV at 16 kHz."""
    folder.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(workload.clip_seconds * SAMPLE_RATE)) / SAMPLE_RATE
    questions = []
    for i in range(workload.questions):
        rng = np.random.default_rng([workload.seed, 0, i])
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 2000) * t)
        path = folder / f"{i}.wav"
        soundfile.write(path, tone + 0.1 * rng.standard_normal(len(t)), SAMPLE_RATE)
        kind = QUESTION_TYPES[i % len(QUESTION_TYPES)]
        choices = kind.answers[:_OPTIONS]
        questions.append(Question("work", i, str(i), str(path), kind.text, choices, choices[0]))
    return questions


def prepare_workload(
    folder: Path, workload: Workload, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> PreparedWorkload:
    """Create everything that a step needs in `folder`. Weights are sampled on `device`; GPU and CPU values differ."""
    processor = small_processor()
    with torch.device(device):
        model = small_model(processor, workload.shape, workload.seed)
    model = model.to(dtype)
    write_checkpoint(folder / "model", FAMILY, model, processor)
    questions = make_questions(folder / "clips", workload)
    encoder = PromptEncoder(FAMILY, processor)
    allowed = sorted(set(range(len(processor.tokenizer))) - special_token_ids(processor))
    groups, rewards = [], []
    for i, question in enumerate(questions):
        rng = np.random.default_rng([workload.seed, 1, i])
        tokens_G_C = rng.choice(allowed, size=(workload.group_size, workload.completion_tokens))  # noqa: N806
        reward = tuple(float(r) for r in rng.permutation(np.linspace(0, 2, workload.group_size)))
        completions = tuple(
            TrainingCompletion(tuple(row), (0.0,) * len(row), advantage)
            for row, advantage in zip(tokens_G_C.tolist(), group_advantages(reward), strict=True)
        )
        prompt = encoder.encode(question, TEMPLATE).token_ids
        groups.append(TrainingGroup(question, TEMPLATE, prompt, completions, weight_version=0))
        rewards.append(reward)
    prompts = tuple(render(processor, q, TEMPLATE) for q in questions)
    return PreparedWorkload(folder / "model", prompts, tuple(groups), tuple(rewards))


class BenchmarkLearner:
    """A learner rank that takes repeated steps on one batch.

    The completions' log-probabilities are computed again before each step, so that every step is on-policy.
    """

    def __init__(self, rank: LearnerRank, groups: Sequence[TrainingGroup]) -> None:
        self._rank, self._groups = rank, groups

    def score(self, questions: int | None = None) -> list[tuple[float, ...]]:
        """Return the log-probability of every token of every completion, in order, under the current weights."""
        return self._rank.score(self._groups[:questions])

    def step(self, questions: int | None = None) -> Step:
        """Take one optimizer step on the first `questions`, or on all. Reading clips and scoring are not timed."""
        groups, scored = [], iter(self.score(questions))
        for group in self._groups[:questions]:
            completions = tuple(replace(c, logprobs=next(scored)) for c in group.completions)
            groups.append(replace(group, completions=completions))
        started = time.perf_counter()
        lengths = [len(c.token_ids) for g in groups for c in g.completions]
        stats = self._rank.learn(groups, BatchCounts(len(lengths), sum(lengths)))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return Step(time.perf_counter() - started, stats.loss, stats.grad_norm)

    def describe(self, *, checksums: bool) -> tuple[TensorSlot, ...]:
        """Describe the trainable weights for engines that share this GPU."""
        return self._rank.describe(checksums)[0]

    def next_piece(self) -> Mapping[str, Any] | None:
        """Return the next piece of weights, in GPU memory that another process can open; None after the last."""
        return self._rank.next_piece()

    def save(self, folder: Path) -> None:
        """Write a checkpoint of the current weights."""
        folder.mkdir(parents=True)
        self._rank.save(str(folder), state=False)
        self._rank.wait_saved()


def read_parameters(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file by canonical name, also if the file has transformers' names."""
    tensors = load_file(path)
    return {FAMILY.canonical_name(n) if n.startswith(("model.", "lm_head.")) else n: t for n, t in tensors.items()}


def audio_only(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the parameters of the audio tower and the projector."""
    return {name: tensor for name, tensor in parameters.items() if FAMILY.part(name) is not Part.LANGUAGE_MODEL}


@contextmanager
def running_learner(work: PreparedWorkload, settings: LearnerSettings) -> Iterator[BenchmarkLearner]:
    """Run a learner in this process, with the workload's model loaded and its clips read, within the context.

    It is the only rank of its process group: the existing one of this process, or a new one.
    """
    rank = LearnerRank(0, 1, settings)
    own_world = not distributed.is_initialized()
    if own_world:
        rank.join(*rank.address())
    try:
        rank.start_phase(str(work.model), PhaseSettings(settings.optimizer, _STEPS, beta=settings.beta))
        unreadable = rank.prepare([(g.question, g.template) for g in work.groups])
        if unreadable:
            raise RuntimeError(f"the clips of the workload cannot be read: {unreadable}")
        yield BenchmarkLearner(rank, work.groups)
    finally:
        rank.close() if own_world else rank.engine.close()
