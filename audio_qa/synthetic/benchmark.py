"""Generates the synthetic benchmark: WAV files and question files, the same bytes for the same seed.

Only the sound reveals the answer: files are numbered in random order of question type, every answer of a type is
equally likely, and the options are in random order.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from audio_qa.audio import SAMPLE_RATE
from audio_qa.dataset import read_jsonl, write_jsonl
from audio_qa.question import Question
from audio_qa.synthetic.scene import (
    INTERVALS,
    MELODIES,
    NUMBERS,
    TEMPI,
    MakeScene,
    Scene,
    interval,
    melody,
    pulse,
    repeated_event,
    two_events,
    utterance,
)
from audio_qa.synthetic.waveform import EVENTS, SPEAKERS, TIMBRES, VOWELS
from audio_qa.whole_file import whole_folder

RECIPE = 2
"""Version, raised when the clips or questions of a seed change, so that a cached benchmark is never outdated."""
SPLITS = ("train", "heldout", "hearing", "instruct")
OPTIONS = 4


@dataclass(frozen=True, slots=True)
class QuestionType:
    """One kind of question: the wording, the possible answers, and the scenes it can be asked about."""

    name: str
    domain: str
    text: str
    answers: tuple[str, ...]
    scenes: tuple[MakeScene, ...]


QUESTION_TYPES = (
    QuestionType("event", "sound", "Which sound is heard in the audio?", EVENTS, (repeated_event,)),
    QuestionType("count", "sound", "How many sounds are heard in the audio?", NUMBERS, (repeated_event,)),
    QuestionType("first", "sound", "Which sound comes first in the audio?", EVENTS, (two_events,)),
    QuestionType("melody", "music", "How does the melody move?", MELODIES, (melody,)),
    QuestionType("interval", "music", "Which interval lies between the two notes?", INTERVALS, (interval,)),
    QuestionType("instrument", "music", "Which instrument is playing?", TIMBRES, (melody, interval, pulse)),
    QuestionType("tempo", "music", "What is the tempo of the music?", TEMPI, (pulse,)),
    QuestionType("vowel", "speech", "Which vowel does the speaker say?", VOWELS, (utterance,)),
    QuestionType("speaker", "speech", "Whose voice is this?", SPEAKERS, (utterance,)),
    QuestionType("syllables", "speech", "How many syllables are spoken?", NUMBERS, (utterance,)),
)


CATEGORIES = tuple(kind.name for kind in QUESTION_TYPES)


def _generator(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([RECIPE, seed, SPLITS.index(split), index])


def draw(seed: int, split: str, index: int, kind: QuestionType) -> tuple[Scene, tuple[str, ...], str]:
    """Return a scene, the options in random order, and the right one."""
    rng = _generator(seed, split, index)
    answer = str(rng.choice(kind.answers))
    # The answer is given to the scene, so answers are uniform whatever the scene.
    make = kind.scenes[int(rng.integers(len(kind.scenes)))]
    scene = make(rng, {kind.name: answer})
    others = [a for a in kind.answers if a != answer]
    options = [answer, *rng.choice(others, size=OPTIONS - 1, replace=False)]
    return scene, tuple(str(o) for o in rng.permutation(options)), answer


def _write_split(folder: Path, seed: int, split: str, count: int, kinds: Sequence[QuestionType]) -> None:
    order = _generator(seed, split, 2**31).permutation(count)
    questions = []
    for index in range(count):
        kind = kinds[int(order[index]) % len(kinds)]
        scene, options, answer = draw(seed, split, index, kind)
        path = folder / split / f"{index:06d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, scene.samples, SAMPLE_RATE, subtype="PCM_16")
        questions.append(
            Question(split, index, f"{split}-{index}", str(path), kind.text, options, answer, kind.domain, kind.name)
        )
    write_jsonl(folder / f"{split}.jsonl", questions)


def make_benchmark(folder: Path, *, seed: int, train: int, heldout: int, categories: Sequence[str] = ()) -> Path:
    """Generate the benchmark of `seed` under `folder`, unless it exists, and return its directory.

    Args:
        train, heldout: number of questions per split.
        categories: question types of the training questions, in any order; by default all. Held-out questions always
            have all types.

    The directory has `train.jsonl`, `heldout.jsonl`, `manifest.json` and one folder of WAV files per split. It appears
    whole or not at all: an interrupted call leaves nothing that looks like a benchmark.
    """
    kinds = [kind for kind in QUESTION_TYPES if not categories or kind.name in categories]
    narrower = [kind.name for kind in kinds] if len(kinds) < len(QUESTION_TYPES) else []
    name = "-".join([f"synthetic-r{RECIPE}-s{seed}-{train}-{heldout}", *narrower])
    home = folder / name
    if (home / "manifest.json").is_file():
        return home
    folder.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, object] = {"recipe": RECIPE, "seed": seed, "train": train, "heldout": heldout}
    if narrower:
        manifest["train_categories"] = narrower
    try:
        with whole_folder(home) as work:
            _write_split(work, seed, "train", train, kinds)
            _write_split(work, seed, "heldout", heldout, QUESTION_TYPES)
            (work / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    except OSError:
        # Another process has made the same benchmark, with the same bytes.
        if not (home / "manifest.json").is_file():
            raise
    return home


def clip_hashes(questions: list[Question]) -> set[str]:
    """Return the SHA-256 of every clip's file: two splits share a clip if and only if they share a hash."""
    return {hashlib.sha256(Path(q.audio).read_bytes()).hexdigest() for q in questions}


def load_split(home: Path, split: str) -> list[Question]:
    return read_jsonl(home / f"{split}.jsonl", name=f"synthetic/{split}", check_audio=False)
