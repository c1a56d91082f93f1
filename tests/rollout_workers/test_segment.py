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
