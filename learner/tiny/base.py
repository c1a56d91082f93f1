"""The tiny models that jobs start from: built once per seed and recipe, and kept in the user's cache directory."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from audio_qa.synthetic.benchmark import RECIPE as SCENES_RECIPE
from learner.checkpoint.export import write_checkpoint
from learner.model.loading import load_model, load_processor
from learner.model.lora import freeze
from learner.settings import TrainSettings
from learner.tiny.architecture import make_config, make_model, make_processor
from learner.tiny.captioning import CaptioningRecipe, train_captioning
from learner.tiny.examples import FAMILY, Report
from learner.tiny.instruct import InstructRecipe, train_instructions

ARCHITECTURE = 1
"""Version of the tiny model's sizes and tokenizer; incremented when they change."""
_NOTE = "earshot.json"


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A tiny model that was trained to caption clips."""

    folder: Path
    seconds: float
    """Seconds that building it took, now or earlier."""
    words_right: float
    """Share of correct words in captions of held-out clips, at the end of caption training."""
    cached: bool
    """True if it existed already."""


def tiny_base(seed: int, report: Report, folder: Path, recipe: CaptioningRecipe | None = None) -> TinyModel:
    """Find or build the tiny model of `seed` in `folder`. It is written atomically."""
    recipe = recipe or CaptioningRecipe()
    home = folder / f"tiny-qwen2-audio-{_digest(asdict(recipe))}-s{seed}"
    if (found := _find_cached(home)) is not None:
        return found
    started = time.perf_counter()
    processor = make_processor()
    model = make_model(make_config(processor), seed)
    with _all_cores():
        words_right = train_captioning(model, processor, recipe, seed, report)
    seconds = round(time.perf_counter() - started, 1)
    note = {"seed": seed, "recipe": asdict(recipe), "seconds": seconds, "words_right": round(words_right, 4)}
    write_checkpoint(home, FAMILY, model, processor, extra={_NOTE: json.dumps(note, indent=2) + "\n"})
    return TinyModel(home, seconds, words_right, cached=False)


def tiny_instruct(
    seed: int,
    report: Report,
    folder: Path,
    recipe: InstructRecipe | None = None,
    captioning: CaptioningRecipe | None = None,
) -> TinyModel:
    """Find or build the tiny model of `seed` that can answer the paper's prompts, starting from `tiny_base`."""
    recipe, captioning = recipe or InstructRecipe(), captioning or CaptioningRecipe()
    home = folder / f"tiny-qwen2-audio-instruct-{_digest(asdict(captioning), asdict(recipe))}-s{seed}"
    if (found := _find_cached(home)) is not None:
        return found
    base = tiny_base(seed, report, folder, captioning)
    started = time.perf_counter()
    processor, model = load_processor(str(base.folder)), load_model(FAMILY, str(base.folder), "float32")
    # transformers freezes the sinusoidal positions when it builds a model, but not when it loads one.
    freeze(FAMILY, model, TrainSettings())
    with _all_cores():
        train_instructions(model, processor, recipe, seed, report)
    seconds = round(base.seconds + time.perf_counter() - started, 1)
    note = {"seed": seed, "recipe": asdict(recipe), "seconds": seconds, "words_right": round(base.words_right, 4)}
    write_checkpoint(home, FAMILY, model, processor, extra={_NOTE: json.dumps(note, indent=2) + "\n"})
    return TinyModel(home, seconds, base.words_right, cached=False)


def _digest(*recipes: dict[str, object]) -> str:
    identity = json.dumps([ARCHITECTURE, SCENES_RECIPE, *recipes])
    return hashlib.sha256(identity.encode()).hexdigest()[:10]


def _find_cached(home: Path) -> TinyModel | None:
    if not (home / _NOTE).is_file():
        return None
    note = json.loads((home / _NOTE).read_text())
    return TinyModel(home, note["seconds"], note["words_right"], cached=True)


@contextmanager
def _all_cores() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
