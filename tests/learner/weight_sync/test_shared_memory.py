"""Weights in memory files: their contents, the choice of the file to write, and when a file is freed."""

import os
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from support.memory_reader import Reader
from torch import nn

from learner.model.weights import Weight
from learner.weight_sync.shared_memory import SharedMemoryPublisher, gather
from protocol.weights import digest


def weights(*shapes, value=0.0, dtype=torch.float32) -> list[Weight]:
    """Return parameters of the given shapes, each filled with a different value."""
    made = [nn.Parameter(torch.full(shape, value + i, dtype=dtype)) for i, shape in enumerate(shapes)]
    return [Weight(f"layer.{i}.weight", (parameter,)) for i, parameter in enumerate(made)]


SHAPES = ((3, 5), (7,), (64, 64), (1,))


@pytest.fixture
def publisher():
    made = SharedMemoryPublisher()
    yield made
    made.close()


def publish(publisher, some, version, **options):
    return publisher.publish(some, lambda _: nullcontext(), version, audio_changed=True, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_weight_arrives_whole_and_aligned(publisher, dtype):
    sent = weights(*SHAPES, value=0.37, dtype=dtype)
    shared = publish(publisher, sent, 4, checksums=True)
    reader = Reader(shared.address)
    found = reader.read()
    assert (reader.announcement.version, reader.announcement.audio_changed) == (4, True)
    assert shared.nbytes == sum(w.nbytes for w in sent)
    assert found.keys() == {w.name for w in sent}
    for weight in sent:
        value = found[weight.name]
        assert value.dtype == dtype
        assert torch.equal(value, weight.value())
    assert all(p.offset % 64 == 0 for p in reader.placed)
    assert reader.digests == {
        w.name: digest(w.value().contiguous().view(-1).view(torch.uint8).numpy().data) for w in sent
    }


def test_adapters_arrive_merged(publisher):
    base, down, up = nn.Parameter(torch.eye(4)), nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.ones(4, 2))
    shared = publish(publisher, [Weight("a.weight", (base, down, up), scaling=0.5)], 1)
    assert torch.equal(Reader(shared.address).read()["a.weight"], torch.eye(4) + 1)


def files(publisher) -> list[int]:
    return [os.fstat(file.descriptor).st_ino for file in publisher._files]


def test_two_files_take_turns(publisher):
    seen = []
    for version in range(1, 7):
        publish(publisher, weights(*SHAPES, value=float(version)), version)
        seen.append(set(files(publisher)))
    assert [len(one) for one in seen] == [1, 2, 2, 2, 2, 2]
    assert seen[1] == seen[-1]


def test_a_file_that_a_hung_worker_reads_is_never_written(publisher):
    address = publish(publisher, weights(*SHAPES, value=1.0), 1).address
    hung = Reader(address, "hung")
    held = hung.read()
    kept = {name: tensor.clone() for name, tensor in held.items()}
    for version in range(2, 9):
        publish(publisher, weights(*SHAPES, value=float(version)), version)
        assert all(torch.equal(held[name], kept[name]) for name in kept), version
    assert len(files(publisher)) == 3, "the hung worker's file, and two that take turns"
    assert torch.equal(Reader(address, "late").read()["layer.0.weight"], torch.full((3, 5), 8.0))
    hung.release()
    assert torch.equal(hung.read()["layer.0.weight"], torch.full((3, 5), 8.0)), "the newest of those it has missed"


def test_an_unused_file_is_freed(publisher):
    address = publish(publisher, weights(*SHAPES), 1).address
    hung = Reader(address)
    hung.read()
    publish(publisher, weights(*SHAPES), 2)
    publish(publisher, weights(*SHAPES), 3)
    assert len(files(publisher)) == 3
    hung.socket.close()
    for version in range(4, 50):
        publish(publisher, weights(*SHAPES), version)
        if len(files(publisher)) == 2:
            return
    pytest.fail("the file of a disconnected worker is kept")


def test_other_weights_use_other_files(publisher):
    """The second phase of a job may train more of the model."""
    publish(publisher, weights(*SHAPES, value=1.0), 1)
    publish(publisher, weights(*SHAPES, value=2.0), 2)
    more = weights(*SHAPES, (9, 9), value=3.0)
    address = publish(publisher, more, 3).address
    found = Reader(address).read()
    assert all(torch.equal(found[w.name], w.value()) for w in more)
    publish(publisher, more, 4)
    publish(publisher, more, 5)
    assert len({file.nbytes for file in publisher._files}) == 1
    assert len(files(publisher)) == 2


def test_digests_are_those_of_each_version(publisher):
    for version in (1, 2, 3):
        some = weights(*SHAPES, value=float(version))
        reader = Reader(publish(publisher, some, version, checksums=version != 2).address)
        reader.read()
        digests = reader.digests
        if version == 2:
            assert set(digests.values()) == {None}
        else:
            expected = {w.name: digest(w.value().contiguous().view(-1).view(torch.uint8).numpy().data) for w in some}
            assert digests == expected
        reader.socket.close()


def test_ranks_that_only_gather_gather_the_same_buckets(publisher):
    """Under ZeRO-3 a bucket that one rank gathers and another does not would hang both."""
    requested = {"publish": [], "gather": []}

    def record(name):
        @contextmanager
        def gathered(parameters):
            requested[name].append([id(p) for p in parameters])
            yield

        return gathered

    some = weights(*[(1024, 1024)] * 40)
    publisher.publish(some, record("publish"), 1, audio_changed=False)
    gather(some, record("gather"))
    assert requested["publish"] == requested["gather"]
    assert len(requested["publish"]) == 3, "160 MiB in buckets of at most 64 MiB"


def test_nothing_is_left_when_it_is_closed():
    before = set(Path("/proc/self/fd").iterdir())
    publisher = SharedMemoryPublisher()
    for version in (1, 2, 3):
        publish(publisher, weights(*SHAPES), version)
    publisher.close()
    assert set(Path("/proc/self/fd").iterdir()) == before
