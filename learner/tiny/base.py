"""The tiny model that jobs start from: made once a seed and recipe, kept in the user's cache directory."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from audio_qa.synthetic.benchmark import RECIPE as SCENES_RECIPE
from learner.export import write_checkpoint
from learner.tiny.architecture import make_config, make_model, make_processor
from learner.tiny.captioning import FAMILY, CaptioningRecipe, teach_hearing

ARCHITECTURE = 1
"""Raised when the tiny model's sizes or its tokenizer change."""
_NOTE = "earshot.json"


@dataclass(frozen=True, slots=True)
class Base:
    """A tiny model that hears."""

    folder: Path
    seconds: float
    """What making it took, whenever that was."""
    words_right: float
    """Share of words right in captions of clips it was not trained on."""
    cached: bool
    """It was there already."""


def tiny_base(
    seed: int,
    report: Callable[[str, int, int], None],
    folder: Path,
    recipe: CaptioningRecipe | None = None,
) -> Base:
    """Find or make the tiny model of `seed` in `folder`; it appears there whole or not at all."""
    recipe = recipe or CaptioningRecipe()
    identity = json.dumps([ARCHITECTURE, SCENES_RECIPE, asdict(recipe)])
    name = f"tiny-qwen2-audio-{hashlib.sha256(identity.encode()).hexdigest()[:10]}-s{seed}"
    home = folder / name
    if (home / _NOTE).is_file():
        note = json.loads((home / _NOTE).read_text())
        return Base(home, note["seconds"], note["words_right"], cached=True)
    started = time.perf_counter()
    processor = make_processor()
    model = make_model(make_config(processor), seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        words_right = teach_hearing(model, processor, recipe, seed, report)
    finally:
        torch.set_num_threads(threads)
    seconds = round(time.perf_counter() - started, 1)
    note = {"seed": seed, "recipe": asdict(recipe), "seconds": seconds, "words_right": round(words_right, 4)}
    write_checkpoint(home, FAMILY, model, processor, extra={_NOTE: json.dumps(note, indent=2) + "\n"})
    return Base(home, seconds, words_right, cached=False)
