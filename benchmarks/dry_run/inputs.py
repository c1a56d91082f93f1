"""A folder of the size of Qwen2-Audio-7B, many clips and questions about them, and a job with both."""

import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from transformers import (
    GenerationConfig,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from learner.tiny.tokenizer import make_tokenizer

HELD_OUT = 1_000
_RATE = 16_000
_CONTAINERS = ("wav", "flac", "mp3")
_SHARD_BYTES = 4 * 10**9


def write_model(home: Path) -> None:
    """Write a folder that looks like Qwen2-Audio-7B's: true names and shapes, sparse weights, a small tokenizer."""
    features = WhisperFeatureExtractor(feature_size=128, sampling_rate=_RATE, hop_length=160, chunk_length=30)
    tokenizer = make_tokenizer()
    template = Qwen2AudioProcessor(feature_extractor=features, tokenizer=tokenizer).default_chat_template
    processor = Qwen2AudioProcessor(feature_extractor=features, tokenizer=tokenizer, chat_template=template)
    config = Qwen2AudioConfig(audio_token_index=processor.audio_token_id)
    config.text_config.vocab_size, config.text_config.intermediate_size = 156_032, 11_008
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(config).to(torch.bfloat16)
    config.save_pretrained(home)
    processor.save_pretrained(home)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id).save_pretrained(home)
    shards: list[dict[str, Any]] = [{}]
    where: dict[str, int] = {}
    end = 0
    for name, tensor in model.state_dict().items():
        size = tensor.numel() * 2
        if end + size > _SHARD_BYTES:
            shards.append({})
            end = 0
        stored = _stored_name(name)
        shards[-1][stored] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        where[stored] = len(shards) - 1
        end += size
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, header in zip(names, shards, strict=True):
        text = json.dumps(header).encode()
        with (home / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + max(tensor["data_offsets"][1] for tensor in header.values()))
    index = {"metadata": {}, "weight_map": {name: names[shard] for name, shard in where.items()}}
    (home / "model.safetensors.index.json").write_text(json.dumps(index))


def _stored_name(name: str) -> str:
    """Return a weight's name in the published checkpoint, which is from an older version of transformers."""
    name = name.removeprefix("model.")
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return f"language_model.{name}" if name.startswith("lm_head.") else name


def write_clip(path: Path) -> None:
    """Write one second of noise, which depends on the file's name."""
    seed = int.from_bytes(path.stem.encode(), "big")
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, _RATE).astype(np.float32)
    soundfile.write(path, noise, _RATE)


def write_questions(home: Path, split: str, count: int) -> None:
    """Write questions in AVQA's format, each about its own clip."""
    (home / split).mkdir()
    paths = [home / split / f"{split}{i:06}.{_CONTAINERS[i % len(_CONTAINERS)]}" for i in range(count)]
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(write_clip, paths, chunksize=200):
            pass
    with (home / f"{split}.jsonl").open("w") as file:
        for i, path in enumerate(paths):
            item = {
                "id": i,
                "video_name": path.stem,
                "question_text": f"What is the main source of sound in video {i}?",
                "multi_choice": ["a motorboat", "a train passing by", "rain on a roof", "a dog"],
                "answer": i % 4,
                "question_relation": "Sound",
                "question_type": "Which",
                "audio_path": f"{split}/{path.name}",
            }
            file.write(json.dumps(item) + "\n")


def write_job(home: Path, train: int) -> Path:
    """Write the model, the questions and the job file, and return its path."""
    (home / "model").mkdir()
    write_model(home / "model")
    write_questions(home, "train", train)
    write_questions(home, "heldout", HELD_OUT)
    job = {
        "model": {"path": "model"},
        "data": {"train": "train.jsonl", "evaluation": "heldout.jsonl"},
    }
    (home / "job.yaml").write_text(yaml.safe_dump(job))
    # Files that were written a moment ago are not remembered.
    time.sleep(2)
    return home / "job.yaml"
