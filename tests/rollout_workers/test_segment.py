"""Bytes that another process maps: in place in Ray's store, or copied."""

import numpy as np
import pytest
import ray

from rollout_workers.segment import Mapper, copied, shared


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in (1, 200_000, 63, 4096, 300_001)]


def read(path, offsets, sizes):
    """As the engine does: one mapping for all of them."""
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
    """An engine that takes one update behind the other."""

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


def test_the_stores_mapping_is_kept_shows_what_comes_later_and_cannot_be_written(cluster):
    taker = ray.remote(Taker).options(num_cpus=0).remote()
    for version in range(4):
        # Large enough not to travel with the call, and where an earlier one lay once that is freed.
        reference = ray.put([np.full(300_000 + version, version, dtype=np.uint8)])
        assert ray.get(taker.take.remote([reference])) == ([True], True)
        del reference
    assert ray.get(taker.write.remote()) == "refused"
    ray.kill(taker)


class Reader:
    """A worker process, as the store's owner knows them."""

    def find(self, references):
        arrays = [np.asarray(array) for reference in references for array in ray.get(reference)]
        with shared(arrays) as (path, offsets):
            found = read(path, offsets, [a.nbytes for a in arrays])
            return path, equal(found, arrays)

    def find_own(self):
        arrays = [np.arange(100, dtype=np.uint8), np.ones(70_000, dtype=np.uint8)]
        with shared(arrays) as (path, offsets):
            return path, equal(read(path, offsets, [a.nbytes for a in arrays]), arrays)


def test_what_lies_in_the_store_is_mapped_in_place_and_other_memory_is_copied(cluster, arrays):
    reader = ray.remote(Reader).options(num_cpus=0).remote()
    pid = ray.get(reader.find_own.remote())
    path, same = ray.get(reader.find.remote([ray.put(arrays)]))
    assert same
    assert "/fd/" in path
    own_path, same = pid
    assert same
    assert own_path.split("/")[2] != path.split("/")[2], "the store belongs to another process than the copy"
    ray.kill(reader)
