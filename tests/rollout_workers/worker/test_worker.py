"""A worker's handling of faulty requests and updates, without a real engine."""

import asyncio
import math
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from audio_qa.families import facts_of
from protocol.announcement import Announcement
from protocol.rollout import Failure, Group, NoAnswer, Sampling
from protocol.weights import Bucket, Carrier, TensorSlot, WeightUpdate
from rollout_workers.errors import NonFiniteOutputError, UnusableOutputError, WeightsUnavailableError
from rollout_workers.limits import RolloutLimits
from rollout_workers.worker.stored import fetch
from rollout_workers.worker.worker import RolloutWorker, _PreparedRequest

SAMPLING = Sampling(group_size=2, max_tokens=4)


@pytest.fixture(scope="module")
def engine(tiny, settings):
    """The real class without vLLM."""
    from rollout_workers.engine.engine import Engine

    return Engine(None, settings, tiny.processor, facts_of(str(tiny.folder)))


def output(ids, *, logprobs=None, reason="length", versions=((3, 2),)):
    logprobs = logprobs or [-0.5] * len(ids)
    spans, start = [], 0
    for version, tokens in versions:
        spans.append(SimpleNamespace(version=str(version), start=start, end=start + tokens))
        start += tokens
    return SimpleNamespace(
        token_ids=ids,
        finish_reason=reason,
        logprobs=[{token: SimpleNamespace(logprob=value)} for token, value in zip(ids, logprobs, strict=True)],
        weight_versions=spans or None,
    )


def group_of(*outputs):
    return SimpleNamespace(outputs=list(outputs))


def test_an_engine_reads_safetensors_only(tiny, settings):
    """By default vLLM takes consolidated*.safetensors before the model's files, and pickled ones without either."""
    from rollout_workers.engine.config import engine_args

    assert engine_args(settings, tiny.processor, facts_of(str(tiny.folder))).load_format == "safetensors"


def test_an_output_becomes_completions_with_their_versions(engine):
    first, second = engine.completions(group_of(output([5, 6]), output([7, 8, 9], versions=((3, 1), (4, 2)))), 2)
    assert (first.token_ids, first.logprobs, first.versions) == ((5, 6), (-0.5, -0.5), ((3, 2),))
    assert second.versions == ((3, 1), (4, 2))


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (group_of(output([5, 6])), "1 completions instead of 2"),
        (group_of(output([5, 6]), output([5, 6], logprobs=[-1.0, math.nan])), "not finite"),
        (group_of(output([5, 6]), output([5, 6], logprobs=[-math.inf, -1.0])), "not finite"),
        (group_of(output([5, 6]), output([5, 6], reason="abort")), "unusable"),
        (group_of(output([5, 6]), output([], versions=())), "unusable"),
        (group_of(output([5, 6]), output([5, 6], versions=())), "unknown"),
    ],
)
def test_an_output_that_does_not_fit_the_request_is_refused(engine, spoilt, words):
    with pytest.raises(UnusableOutputError, match=words):
        engine.completions(spoilt, 2)


def test_an_output_that_is_not_finite_names_the_weights(engine, settings):
    spoilt = group_of(output([5, 6]), output([5, 6], logprobs=[-1.0, math.nan], versions=((3, 1), (4, 1))))
    with pytest.raises(NonFiniteOutputError) as error:
        engine.completions(spoilt, 2)
    assert f"model {settings.model!r}, weight version 3, 4: the log-probability of token 2 of 2 is nan" in str(
        error.value
    )
    # Of long completions the message does not repeat a number for each token.
    with pytest.raises(NonFiniteOutputError) as error:
        engine.completions(group_of(output([5] * 1000, logprobs=[math.nan] * 1000, versions=((0, 1000),))), 1)
    assert len(str(error.value)) < 400


@pytest.fixture
def worker(engine, settings):
    """A worker around the engine above, with a request deadline of 0.05 s."""
    worker = RolloutWorker("rollout-9", settings, RolloutLimits(request_seconds=0.05))
    worker._engine = engine
    return worker


def outcome(worker, request, answer):
    async def ask():
        task = asyncio.ensure_future(answer())
        asked = _PreparedRequest(request, SimpleNamespace(token_ids=(1, 2)), 0.0)
        result = await worker._outcome(asked, task, SAMPLING)
        return result, task

    return asyncio.run(ask())


def test_a_rollout_that_never_ends_hits_its_deadline(worker, requests):
    result, task = outcome(worker, requests[0], lambda: asyncio.sleep(1000))
    assert isinstance(result, NoAnswer)
    assert "0.05 s" in result.cause
    assert task.cancelled(), "the engine is told to stop"


def test_too_few_completions_do_not_count_as_an_answer(worker, requests):
    async def answer():
        return group_of(output([5, 6]))

    result, _ = outcome(worker, requests[0], answer)
    assert isinstance(result, NoAnswer)
    assert "1 completions instead of 2" in result.cause


def test_an_output_that_is_not_finite_gives_the_reason_of_a_failed_question(worker, requests):
    async def answer():
        return group_of(output([5, 6]), output([5, 6], logprobs=[-1.0, math.inf]))

    result, _ = outcome(worker, requests[0], answer)
    assert (type(result), result.reason) == (NoAnswer, Failure.NONFINITE)


def test_a_groups_version_is_the_oldest_of_its_tokens(worker, requests):
    async def answer():
        return group_of(output([5, 6], versions=((4, 2),)), output([7, 8, 9], versions=((3, 1), (4, 2))))

    result, _ = outcome(worker, requests[0], answer)
    assert isinstance(result, Group)
    assert result.weight_version == 3


def test_weights_whose_owner_died_are_unavailable(cluster):
    @ray.remote(num_cpus=0)
    class Owner:
        def put(self):
            return [ray.put([np.zeros(200_000, dtype=np.uint8)])]

    owner = Owner.remote()
    (reference,) = ray.get(owner.put.remote())
    slot = TensorSlot("weight", "uint8", (200_000,), 200_000)
    update = WeightUpdate(1, (Bucket((slot,), reference),), audio_changed=False, nbytes=200_000)
    (arrays,) = fetch(update)
    assert arrays[0].nbytes == 200_000
    del arrays
    ray.kill(owner)

    deadline = time.monotonic() + 30
    with pytest.raises(WeightsUnavailableError, match="weight version 1"):
        while time.monotonic() < deadline:
            fetch(update)
            time.sleep(0.1)


class Updated:
    """An engine that records the calls of an update; a part fails or hangs on demand."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.trouble: dict[str, BaseException | None] = {}

    async def part(self, name):
        self.calls.append(name)
        if name in self.trouble:
            if self.trouble[name] is None:
                await asyncio.sleep(1000)
            raise self.trouble[name]

    @asynccontextmanager
    async def frozen(self):
        await self.part("freeze")
        yield
        self.calls.append("thaw")

    async def start_update(self):
        await self.part("start")

    async def load_placed(self, path, placed, carrier):
        assert carrier is Carrier.SHARED_MEMORY
        await self.part("load")

    async def finish_update(self, version, *, audio_changed, in_flight):
        await self.part("finish")
        return version


@pytest.fixture
def updating(settings):
    """A worker around the engine above, and a record of whether it ended its process."""
    worker = RolloutWorker("rollout-9", settings, RolloutLimits(update_seconds=0.2))
    worker._engine = Updated()
    ended = []
    worker._end_process = lambda: ended.append(True)
    return worker, ended


ANNOUNCED = Announcement(1, 4, (0, 0), audio_changed=False)


def test_announced_weights_are_loaded_with_the_engine_frozen(updating):
    worker, ended = updating

    async def take():
        # Two at once, as from two learners: they are taken sequentially.
        await asyncio.gather(*(worker._replace(ANNOUNCED, "file", ()) for _ in range(2)))

    asyncio.run(take())
    assert worker._engine.calls == ["freeze", "start", "load", "finish", "thaw"] * 2
    assert (worker._version, worker._updating, ended) == (4, False, [])


@pytest.mark.parametrize("part", ["start", "load", "finish"])
@pytest.mark.parametrize("trouble", [RuntimeError("torn"), None], ids=["fails", "hangs"])
def test_announced_weights_that_cannot_be_loaded_end_the_worker(updating, part, trouble):
    """Its weights are undefined from the first byte on."""
    worker, ended = updating
    worker._engine.trouble[part] = trouble
    with pytest.raises((RuntimeError, TimeoutError)):
        asyncio.run(worker._replace(ANNOUNCED, "file", ()))
    assert ended
    assert worker._version == 0


def test_announced_weights_for_an_engine_that_cannot_be_frozen_change_nothing(updating):
    worker, ended = updating
    worker._engine.trouble["freeze"] = None
    with pytest.raises(TimeoutError):
        asyncio.run(worker._replace(ANNOUNCED, "file", ()))
    assert (worker._version, worker._updating, ended) == (0, False, [])
