"""Clips that are in both the training and the held-out questions: a score on those is meaningless.

Two clips are the same if they decode to the same samples, whatever their names and (lossless) containers. A clip that
was trimmed, resampled or compressed again counts as another clip.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from audio_qa.audio import AudioError, AudioInfo, is_file, sound_blocks
from audio_qa.errors import InputError
from audio_qa.files.clips import clip_memory, probe_all
from audio_qa.files.memory import FileMemory
from audio_qa.formats.question_set import Problem, ProblemKind
from audio_qa.question import Question

_BEGINNING = 4096
"""Number of frames that are compared before whole clips are decoded."""

Keys = Mapping[str, object]
"""The value that is compared, by clip."""


def overlapping(train: Sequence[Question], held_out: Sequence[Question], cache: Path | None = None) -> list[Problem]:
    """Return a problem for each held-out question whose clip is in training, with the training question.

    Args:
        cache: folder with the memory of earlier checks.
    """
    trained: dict[str, Question] = {}
    for question in train:
        trained.setdefault(question.audio, question)
    same = shared_clips(trained, {question.audio for question in held_out}, cache)
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


def shared_clips(train: Iterable[str], held_out: Iterable[str], cache: Path | None = None) -> dict[str, str]:
    """Return, by held-out clip, a training clip with the same samples.

    Most clips differ in length, rate or channels, which are in the header, and most others in their first frames; only
    the rest are decoded completely. A clip that cannot be decoded is compared by its bytes.
    """
    train, held_out = list(train), list(held_out)
    keys: Keys = {}
    for step in _steps(clip_memory(cache)):
        keys = step([*train, *held_out])
        both = {keys[path] for path in train} & {keys[path] for path in held_out}
        train, held_out = ([path for path in paths if keys[path] in both] for paths in (train, held_out))
        if not held_out:
            return {}
    by_sound = {keys[path]: path for path in reversed(train)}
    return {path: by_sound[keys[path]] for path in held_out}


def sound_classes(paths: Iterable[str], cache: Path | None = None) -> dict[str, int]:
    """Return, by clip, a number that exactly the clips with the same samples share, whatever the order of the paths.

    As in `shared_clips`, only clips with the same header and first frames are decoded completely.
    """
    classes = [sorted(set(paths))]
    for step in _steps(clip_memory(cache)):
        keys = step([path for members in classes if len(members) > 1 for path in members])
        finer: list[list[str]] = []
        for members in classes:
            if len(members) == 1:
                finer.append(members)
                continue
            split: dict[object, list[str]] = defaultdict(list)
            for path in members:
                split[keys[path]].append(path)
            finer.extend(split.values())
        classes = finer
    return {path: number for number, members in enumerate(classes) for path in members}


def _steps(memory: FileMemory) -> tuple[Callable[[Sequence[str]], Keys], ...]:
    """Return the comparisons, from the cheapest to the one that decides."""

    def header(paths: Sequence[str]) -> Keys:
        return {path: _header(path, found) for path, found in probe_all(paths, memory).items()}

    def beginning(paths: Sequence[str]) -> Keys:
        return memory.find(f"first {_BEGINNING}", paths, lambda path: _decoded(path, _BEGINNING))

    def whole(paths: Sequence[str]) -> Keys:
        return memory.find("sound", paths, lambda path: _decoded(path, None))

    return header, beginning, whole


def _header(path: str, found: AudioInfo | AudioError) -> object:
    if isinstance(found, AudioInfo):
        return found.frames, found.rate, found.channels
    return "bytes", Path(path).stat().st_size if is_file(path) else -1


def _decoded(path: str, frames: int | None) -> str | InputError:
    """Return the hash of a clip's first frames (None: all) as float32, which represents 16 and 24 bits exactly."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for block in sound_blocks(path, frames):
            digest.update(block.tobytes())
            if frames is not None:
                break
    except AudioError as error:
        if not is_file(path):
            return error
        with Path(path).open("rb") as raw:
            return f"bytes {hashlib.file_digest(raw, 'sha256').hexdigest()}"
    return digest.hexdigest()
