"""Digests of a job's inputs.

Invariant: a digest depends on content alone, so inputs that were moved, or copied to another machine, keep theirs.
Large files are sampled, since a job must not wait for gigabytes to be read: see `model_digest` and `clips_digest`.
"""

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TypeVar

from audio_qa.model_folder.documents import ModelError
from audio_qa.model_folder.weights import read_header
from audio_qa.question import Question
from orchestrator.job.spec_file import SpecError

T = TypeVar("T")

_BLOCK = 4096
"""Bytes of a sampled block."""
_BLOCKS = 4
"""Blocks of a sampled clip or tensor, evenly spaced from its first byte to its last."""
_BLOCKS_OF_FILE = 256
"""Blocks of a sampled file that is neither."""
_WHOLE_FILE = 2**25
"""Largest file without weights, in bytes, that is read as a whole: tokenizers have up to 20 MB."""
_AT_ONCE = 16
"""Concurrent reads, which wait for the disk or the network most of the time."""
_PART = 64
"""Items that one thread reads in a row."""
_MODEL_SUFFIXES = frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken", ".bpe", ".py", ".safetensors"})
"""Files of a model folder that are loaded; model cards, licences and pictures are not."""


def questions_digest(questions: Iterable[Question]) -> str:
    """Return the digest of questions in their order, without the paths of their clips.

    The name of the file is part of it, as of the questions' keys.
    """
    digest = hashlib.sha256()
    for q in questions:
        parts = [q.key, q.id, q.text, q.choices, q.answer, q.task, q.category, q.sub_category, q.difficulty]
        digest.update(json.dumps(parts).encode() + b"\n")
    return digest.hexdigest()


def clips_digest(paths: Sequence[str]) -> str:
    """Return the digest of the clips of questions, in the order of the questions: name, size and blocks of each.

    Up to 16 KiB of each clip are read, for 38,000 clips a few seconds. A clip of the same name and size that differs
    only between these blocks is not noticed. Raises SpecError for a clip that cannot be read.
    """
    distinct = list(dict.fromkeys(paths))
    by_path = dict(zip(distinct, _together(_clip, distinct), strict=True))
    digest = hashlib.sha256()
    for path in paths:
        digest.update(by_path[path])
    return digest.hexdigest()


def _together(read: Callable[[T], bytes], items: Sequence[T]) -> Iterator[bytes]:
    """Yield the result of each item in order, many read at once."""
    parts = [items[i : i + _PART] for i in range(0, len(items), _PART)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for results in pool.map(lambda part: [read(item) for item in part], parts):
            yield from results


def _clip(path: str) -> bytes:
    file = Path(path)
    digest = hashlib.sha256(os.fsencode(file.name))
    try:
        with file.open("rb", buffering=0) as opened:
            size = os.fstat(opened.fileno()).st_size
            _sample(digest, opened.fileno(), 0, size)
    except OSError as error:
        raise SpecError(f"{path!r}: the clip cannot be read: {error.strerror}") from error
    return digest.digest()


def model_digest(folder: Path) -> str:
    """Return the digest of a model's folder.

    Configuration, tokenizer and processor are read as a whole. Of each file of weights, its size, its header with the
    names and shapes of the tensors, and up to 16 KiB of each tensor are read: less than a second for 7 B parameters.
    Training changes nearly every number of a tensor, so other weights are noticed; a few changed numbers may not be.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in _MODEL_SUFFIXES and not file.name.startswith(".") and file.is_file():
            digest.update(os.fsencode(file.name))
            digest.update(_model_file(file))
    return digest.hexdigest()


def _model_file(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        if path.suffix != ".safetensors" and size <= _WHOLE_FILE:
            digest.update(file.readall())
            return digest.digest()
        tensors = _tensors(path) if path.suffix == ".safetensors" else []
        if not tensors:
            _sample(digest, descriptor, 0, size, _BLOCKS_OF_FILE)
            return digest.digest()
        digest.update(str(size).encode() + os.pread(descriptor, tensors[0][0], 0))

        def sampled(place: tuple[int, int]) -> bytes:
            one = hashlib.sha256()
            _sample(one, descriptor, *place)
            return one.digest()

        for part in _together(sampled, tensors):
            digest.update(part)
    return digest.digest()


def _tensors(path: Path) -> list[tuple[int, int]]:
    """Return first byte and length of each tensor of a safetensors file, in file order; none with a damaged header."""
    try:
        return sorted(weight.place for weight in read_header(path).values())
    except ModelError:
        return []


def _sample(digest: "hashlib._Hash", descriptor: int, start: int, length: int, blocks: int = _BLOCKS) -> None:
    """Add a part of a file: its length, and all of it if it is short, else blocks of it."""
    digest.update(str(length).encode() + b"\n")
    if length <= blocks * _BLOCK:
        digest.update(os.pread(descriptor, length, start))
        return
    for i in range(blocks):
        digest.update(os.pread(descriptor, _BLOCK, start + (length - _BLOCK) * i // (blocks - 1)))


def code_digest(package: str) -> tuple[str, str] | None:
    """Return digest and place of a top-level module or package: of its Python files. None if it is not found here.

    Nothing is imported. The search is that of a reward process: the working directory, then `sys.path`.
    """
    found = _find(package)
    if found is None:
        return None
    folders = sorted(found.submodule_search_locations or ())
    if folders:
        files = [(folder, file) for folder in folders for file in sorted(Path(folder).rglob("*.py"))]
        place = folders[0]
    elif found.origin is not None and Path(found.origin).is_file():
        files, place = [(str(Path(found.origin).parent), Path(found.origin))], found.origin
    else:
        return None
    digest = hashlib.sha256()
    for folder, file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(os.fsencode(f"{file.relative_to(folder).as_posix()} {content}\n"))
    return digest.hexdigest(), place


def _find(package: str) -> ModuleSpec | None:
    importlib.invalidate_caches()
    found = PathFinder.find_spec(package, [str(Path.cwd()), *sys.path])
    if found is not None:
        return found
    try:
        # Editable installations have finders of their own. For a top-level name nothing is imported.
        return importlib.util.find_spec(package)
    except ValueError:  # a module such as __main__, which has no specification
        return None
