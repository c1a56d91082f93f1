"""Clips that are in both the training and the held-out questions: a score on those is meaningless.

Two clips are the same if they decode to the same samples, whatever their names and (lossless) containers. A clip that
was trimmed, resampled or compressed again counts as another clip.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import soundfile

from audio_qa.audio import is_file
from audio_qa.formats.question_set import Problem, ProblemKind
from audio_qa.question import Question

_BEGINNING = 4096
"""Number of frames that are compared before whole clips are decoded."""
_BLOCK = 2**18


def overlapping(train: Sequence[Question], held_out: Sequence[Question]) -> list[Problem]:
    """Return a problem for each held-out question whose clip is in training, with the training question."""
    trained: dict[str, Question] = {}
    for question in train:
        trained.setdefault(question.audio, question)
    same = shared_clips(trained, {question.audio for question in held_out})
    return [
        Problem(
            ProblemKind.OVERLAP,
            f"held-out question {question.key}",
            question.id,
            f"its clip {question.audio!r} is in training, too, in question {trained[same[question.audio]].key}; "
            "leave one of the two out",
        )
        for question in held_out
        if question.audio in same
    ]


def shared_clips(train: Iterable[str], held_out: Iterable[str]) -> dict[str, str]:
    """Return, by held-out clip, a training clip with the same samples.

    Most clips differ in length, rate or channels, which are in the header, and most others in their first frames; only
    the rest are decoded completely. A clip that cannot be decoded is compared by its bytes.
    """
    train, held_out = list(train), list(held_out)
    for step in (_header, _beginning, _whole):
        train, held_out = _candidates(step, train, held_out)
        if not held_out:
            return {}
    by_sound = {_whole(path): path for path in reversed(train)}
    return {path: by_sound[_whole(path)] for path in held_out}


def sound_classes(paths: Iterable[str]) -> dict[str, int]:
    """Return, by clip, a number that exactly the clips with the same samples share, whatever the order of the paths.

    As in `shared_clips`, only clips with the same header and first frames are decoded completely.
    """
    classes = [sorted(set(paths))]
    for step in (_header, _beginning, _whole):
        finer: list[list[str]] = []
        for members in classes:
            if len(members) == 1:
                finer.append(members)
                continue
            split: dict[Hashable, list[str]] = defaultdict(list)
            for path in members:
                split[step(path)].append(path)
            finer.extend(split.values())
        classes = finer
    return {path: number for number, members in enumerate(classes) for path in members}


def _candidates(
    key: Callable[[str], Hashable], train: Sequence[str], held_out: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the clips whose key is on both sides."""
    of_train: dict[Hashable, list[str]] = defaultdict(list)
    of_held_out: dict[Hashable, list[str]] = defaultdict(list)
    for groups, paths in ((of_train, train), (of_held_out, held_out)):
        for path in paths:
            groups[key(path)].append(path)
    both = of_train.keys() & of_held_out.keys()
    return [p for k in both for p in of_train[k]], [p for k in both for p in of_held_out[k]]


def _header(path: str) -> Hashable:
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError, TypeError):
        return "bytes", Path(path).stat().st_size if is_file(path) else -1
    return info.frames, info.samplerate, info.channels


def _beginning(path: str) -> Hashable:
    return _decoded(path, _BEGINNING)


def _whole(path: str) -> Hashable:
    return _decoded(path, -1)


def _decoded(path: str, frames: int) -> Hashable:
    """Return the hash of a clip's first frames (-1: all) as float32, which represents 16 and 24 bits exactly."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with soundfile.SoundFile(path) as file:
            left = file.frames if frames < 0 else frames
            while left > 0 and len(block := file.read(min(left, _BLOCK), dtype="float32", always_2d=True)):
                digest.update(block.tobytes())
                left -= len(block)
    except (soundfile.SoundFileError, OSError, TypeError):
        if not is_file(path):
            return "missing", path
        with Path(path).open("rb") as raw:
            return "bytes", hashlib.file_digest(raw, "sha256").hexdigest()
    return digest.hexdigest()
