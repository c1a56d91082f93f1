"""A tiny Qwen2-Audio with random weights, clips on disk, and a pool of two workers that most tests share."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
import torch
from transformers import (
    GenerationConfig,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
)

os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
import ray

from audio_qa.audio import load_audio
from audio_qa.chat import banned_token_ids, render, stop_token_ids
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.checkpoint.export import write_checkpoint
from learner.families.qwen2_audio import Qwen2Audio
from learner.model.weights import Weight, weights_of
from learner.tiny.architecture import make_processor
from learner.weight_sync.shared_memory import SharedMemoryPublisher
from protocol.rollout import Completion, Group, RolloutRequest, WorkerSettings
from protocol.weights import Bucket, Carrier, TensorSlot, WeightUpdate, digest
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool import worker_life
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.weight_sync.shared_memory import SharedMemorySync
from rollout_workers.weight_sync.sync import ObjectStoreSync

PADDING_ROWS = 10
CONTEXT = 256
CLIP_SECONDS = (0.3, 0.55, 1.0, 1.7, 2.0)


def _model(processor: Qwen2AudioProcessor, seed: int) -> Qwen2AudioForConditionalGeneration:
    tokenizer = processor.tokenizer
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(
            num_mel_bins=processor.feature_extractor.feature_size,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=128,
            d_model=64,
            max_source_positions=100,
        ).to_dict(),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer) + PADDING_ROWS,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ).to_dict(),
        audio_token_index=processor.audio_token_id,
    )
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # transformers' small initial weights would leave every completion nearly uniform, whatever the clip.
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim > 1 else 0.05))
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id])
    return model


@dataclass
class Tiny:
    """The model in transformers, and the folder of its checkpoint."""

    folder: Path
    processor: Any
    model: Any
    stops: tuple[int, ...]
    banned: tuple[int, ...]

    def logprobs(
        self,
        group: Group,
        completion: Completion,
        temperature: float,
        silent: bool = False,
        other_clip: str | None = None,
    ) -> torch.Tensor:
        """Return transformers' log-probabilities of the completion's tokens, of shape (C,), in float32."""
        logits = self.logits(group, completion, silent, other_clip) / (temperature or 1.0)
        logits[:, list(self.banned)] = float("-inf")
        return logits.log_softmax(-1).gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]

    @torch.no_grad()
    def logits(
        self, group: Group, completion: Completion, silent: bool = False, other_clip: str | None = None
    ) -> torch.Tensor:
        """Return unmasked logits of shape (C, vocabulary)."""
        samples = load_audio(other_clip or group.question.audio, max_seconds=2, too_long="refuse").samples
        features = self.processor.feature_extractor(
            samples * (not silent),
            sampling_rate=16_000,
            return_attention_mask=True,
            padding="max_length",
            return_tensors="pt",
        )
        ids = torch.tensor([group.prompt_token_ids + completion.token_ids])
        output = self.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=features["input_features"],
            feature_attention_mask=features["attention_mask"],
        )
        return output.logits[0, len(group.prompt_token_ids) - 1 : -1].float()

    def prompt_ids(self, request: RolloutRequest) -> tuple[int, ...]:
        """Return the processor's own expansion of the prompt."""
        text = render(self.processor, request.question, request.template)
        samples = load_audio(request.question.audio, max_seconds=2, too_long="refuse").samples
        return tuple(self.processor(text=text, audio=samples, sampling_rate=16_000)["input_ids"][0])


def canonical(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters by canonical name."""
    return {w.name: w.value().contiguous() for w in weights_of(Qwen2Audio(), model)}


@pytest.fixture(scope="session")
def make_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Tiny]:
    root = tmp_path_factory.mktemp("models")

    def make(seed: int) -> Tiny:
        processor = make_processor()
        model = _model(processor, seed)
        folder = root / f"tiny-{seed}"
        if not folder.exists():
            write_checkpoint(folder, Qwen2Audio(), model, processor)
        stops = stop_token_ids(str(folder), processor.tokenizer)
        banned = banned_token_ids(processor.tokenizer, model.config.text_config.vocab_size, stops)
        return Tiny(folder, processor, model, stops, banned)

    return make


@pytest.fixture(scope="session")
def tiny(make_tiny: Callable[[int], Tiny]) -> Tiny:
    return make_tiny(0)


@pytest.fixture(scope="session")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[RolloutRequest]:
    """Ten questions about five clips of several lengths."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    made = []
    for i, seconds in enumerate(CLIP_SECONDS * 2):
        path = folder / f"{i % len(CLIP_SECONDS)}.wav"
        time = np.arange(int(seconds * 16_000)) / 16_000
        if not path.exists():
            tone = 0.5 * np.sin(2 * np.pi * rng.uniform(200, 2000) * time) + 0.05 * rng.standard_normal(len(time))
            soundfile.write(path, tone.astype(np.float32), 16_000, subtype="FLOAT")
        question = Question("test", i, f"q{i}", str(path), f"Sound {i}?", ("one", "two"), "one")
        made.append(RolloutRequest(question, PromptTemplate.ANSWER, seed=i))
    return made


@pytest.fixture(scope="session")
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs coroutines on one event loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def settings(tiny: Tiny) -> WorkerSettings:
    return WorkerSettings(model=str(tiny.folder), max_context=CONTEXT, max_concurrent=64)


@pytest.fixture(scope="session")
def shared_pool(cluster: object, run: Any, settings: WorkerSettings) -> Iterator[RolloutPool]:
    pool = RolloutPool(settings, RolloutLimits(max_restarts=0))
    run(pool.start(2))
    run(pool.wait_until_serving(2))
    yield pool
    run(pool.stop())


@dataclass
class Publisher:
    """Publishes weights to a pool as the learner does, with increasing versions."""

    pool: RolloutPool
    run: Any
    memory: SharedMemoryPublisher
    carrier: Carrier = Carrier.OBJECT_STORE
    version: int = 0

    def publish(self, state: Mapping[str, torch.Tensor], *, audio_changed: bool, buckets: int = 3) -> int:
        self.run(self.offer(state, audio_changed=audio_changed, buckets=buckets))
        return self.version

    async def offer(self, state: Mapping[str, torch.Tensor], *, audio_changed: bool, buckets: int = 3) -> WeightUpdate:
        """Publish and have all workers take it."""
        self.version += 1
        pack_it = pack if self.carrier is Carrier.OBJECT_STORE else self._share
        update = await asyncio.to_thread(pack_it, state, self.version, audio_changed=audio_changed, buckets=buckets)
        report = await self.pool.update(update)
        assert len(report.updated) == self.pool.target, report
        return update

    def _share(
        self, state: Mapping[str, torch.Tensor], version: int, *, audio_changed: bool, buckets: int
    ) -> WeightUpdate:
        weights = [Weight(name, (torch.nn.Parameter(value),)) for name, value in state.items()]
        return self.memory.publish(
            weights, lambda _: nullcontext(), version, audio_changed=audio_changed, checksums=True
        )


def pack(state: Mapping[str, torch.Tensor], version: int, *, audio_changed: bool, buckets: int) -> WeightUpdate:
    names = list(state)
    size = -(-len(names) // buckets)
    packed = []
    for i in range(0, len(names), size):
        slots, arrays = [], []
        for name in names[i : i + size]:
            tensor = state[name]
            arrays.append(tensor.numpy().reshape(-1).view(np.uint8))
            dtype = str(tensor.dtype).removeprefix("torch.")
            slots.append(TensorSlot(name, dtype, tuple(tensor.shape), tensor.nbytes, digest(arrays[-1].data)))
        packed.append(Bucket(tuple(slots), ray.put(arrays)))
    return WeightUpdate(version, tuple(packed), audio_changed, sum(t.nbytes for t in state.values()))


@pytest.fixture(scope="session")
def _publisher(shared_pool: RolloutPool, run: Any) -> Iterator[Publisher]:
    memory = SharedMemoryPublisher()
    yield Publisher(shared_pool, run, memory)
    memory.close()


@pytest.fixture(params=[Carrier.OBJECT_STORE, Carrier.SHARED_MEMORY])
def publisher(
    request: pytest.FixtureRequest, _publisher: Publisher, pool: RolloutPool, tiny: Tiny
) -> Iterator[Publisher]:
    """The shared pool's publisher by each carrier; the pool has its first weights again afterwards."""
    _publisher.carrier = request.param
    in_store = request.param is Carrier.OBJECT_STORE
    pool.use_weight_sync(ObjectStoreSync() if in_store else SharedMemorySync(NeverCalled()))
    yield _publisher
    _publisher.publish(canonical(tiny.model), audio_changed=True)
    pool.use_weight_sync(ObjectStoreSync())


class NeverCalled:
    """A learner whose workers are all on its machine: it is never called."""


@pytest.fixture
def pool(shared_pool: RolloutPool) -> RolloutPool:
    return shared_pool


@pytest.fixture(scope="session")
def pack_weights() -> Callable[..., WeightUpdate]:
    return pack


@pytest.fixture(scope="session")
def canonical_state() -> Callable[[torch.nn.Module], dict[str, torch.Tensor]]:
    return canonical


@pytest.fixture(scope="session")
def descendants() -> Callable[[int], list[psutil.Process]]:
    """Returns a function that lists a process's descendants."""
    return lambda pid: psutil.Process(pid).children(recursive=True)


@pytest.fixture
def fast_restarts(monkeypatch):
    """Makes replacements start at once."""
    monkeypatch.setattr(worker_life, "_FIRST_RESTART_SECONDS", 0.01)
    monkeypatch.setattr(worker_life, "_LONGEST_RESTART_SECONDS", 0.02)
