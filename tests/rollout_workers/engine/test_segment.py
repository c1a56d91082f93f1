"""Bytes that another process maps: in place in Ray's store, or copied."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from protocol.announcement import MEMORY_FILE
from rollout_workers.engine import segment
from rollout_workers.engine.segment import Mapper, copied, shared


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in (1, 200_000, 63, 4096, 300_001)]


def read(path, offsets, sizes):
    """Read all arrays through one mapping, as the engine does."""
    memory, start = Mapper().map(path, min(offsets), max(o + s for o, s in zip(offsets, sizes, strict=True)))
    return [np.frombuffer(memory, np.uint8, size, offset - start) for offset, size in zip(offsets, sizes, strict=True)]


def equal(found, arrays):
    return all(np.array_equal(a, b) for a, b in zip(found, arrays, strict=True))


def test_a_copy_has_the_bytes_and_outlives_the_file(arrays):
    with copied(arrays) as (path, offsets):
        assert all(offset % 64 == 0 for offset in offsets)
        found = read(path, offsets, [a.nbytes for a in arrays])
    assert equal(found, arrays)


class Taker:
    """An engine that takes updates sequentially."""

    def __init__(self):
        self._mapper = Mapper()
        self._mappings = []

    def take(self, references):
        arrays = [np.asarray(array) for reference in references for array in ray.get(reference)]
        with shared(arrays) as (path, offsets):
            ends = [offset + array.nbytes for offset, array in zip(offsets, arrays, strict=True)]
            memory, start = self._mapper.map(path, min(offsets), max(ends))
            read = [bytes(memory[o - start : e - start]) for o, e in zip(offsets, ends, strict=True)]
        self._mappings.append(memory)
        return [r == a.tobytes() for r, a in zip(read, arrays, strict=True)], memory is self._mappings[0]

    def write(self):
        try:
            self._mappings[0][0] = 1
        except TypeError:
            return "refused"
        return "written"


def test_the_stores_mapping_is_kept_shows_later_objects_and_is_read_only(cluster):
    taker = ray.remote(Taker).options(num_cpus=0).remote()
    for version in range(4):
        # Too large to travel with the call, and stored where an earlier one was freed.
        reference = ray.put([np.full(300_000 + version, version, dtype=np.uint8)])
        assert ray.get(taker.take.remote([reference])) == ([True], True)
        del reference
    assert ray.get(taker.write.remote()) == "refused"
    ray.kill(taker)


class Reader:
    """A worker process, a child of the store's owner."""

    def find(self, references):
        arrays = [np.asarray(array) for reference in references for array in ray.get(reference)]
        with shared(arrays) as (path, offsets):
            found = read(path, offsets, [a.nbytes for a in arrays])
            return path, equal(found, arrays)

    def find_own(self):
        arrays = [np.arange(100, dtype=np.uint8), np.ones(70_000, dtype=np.uint8)]
        with shared(arrays) as (path, offsets):
            return path, equal(read(path, offsets, [a.nbytes for a in arrays]), arrays)


def test_arrays_of_the_store_are_mapped_in_place_and_others_are_copied(cluster, arrays):
    reader = ray.remote(Reader).options(num_cpus=0).remote()
    pid = ray.get(reader.find_own.remote())
    path, same = ray.get(reader.find.remote([ray.put(arrays)]))
    assert same
    assert "/fd/" in path
    own_path, same = pid
    assert same
    assert own_path.split("/")[2] != path.split("/")[2], "the store belongs to another process than the copy"
    ray.kill(reader)


def memory_file(content: bytes) -> int:
    descriptor = os.memfd_create(MEMORY_FILE)
    os.write(descriptor, content)
    return descriptor


def first_byte(mapper, descriptor: int) -> int:
    memory, start = mapper.map(f"/proc/self/fd/{descriptor}", 0, 1)
    return memory[start]


def test_a_learners_files_stay_mapped_and_show_later_weights():
    mapper, files = Mapper(), [memory_file(b"1"), memory_file(b"2")]
    kept = [mapper.map(f"/proc/self/fd/{file}", 0, 1)[0] for file in files]
    os.pwrite(files[0], b"3", 0)
    assert [first_byte(mapper, file) for file in files] == [ord("3"), ord("2")]
    assert [mapper.map(f"/proc/self/fd/{file}", 0, 1)[0] for file in files] == kept
    # The files of earlier learners do not stay mapped: each is as large as the model.
    later = [memory_file(bytes([i])) for i in range(6)]
    assert [first_byte(mapper, file) for file in later] == list(range(6))
    assert len(mapper._kept) == 3
    assert [first_byte(mapper, file) for file in files] == [ord("3"), ord("2")]
    for file in (*files, *later):
        os.close(file)


def test_files_of_two_file_systems_with_one_inode_are_two_files(monkeypatch):
    """Inodes are counted per file system."""
    mapper, files = Mapper(), [memory_file(b"1"), memory_file(b"2")]
    fstat, devices = os.fstat, {os.fstat(file).st_ino: device for device, file in enumerate(files)}

    def seen(status):
        known = status.st_ino in devices
        return SimpleNamespace(st_dev=devices[status.st_ino], st_ino=42) if known else status

    with monkeypatch.context() as patched:
        patched.setattr(segment.os, "fstat", lambda file: seen(fstat(file)))
        patched.setattr(segment.Path, "stat", lambda path: seen(os.stat(path)))  # noqa: PTH116
        found = [first_byte(mapper, file) for file in files * 2]
    assert found == [ord("1"), ord("2")] * 2
    for file in files:
        os.close(file)
