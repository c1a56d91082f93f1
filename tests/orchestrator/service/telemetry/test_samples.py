"""Pages of samples: complete, in order, by step; a sample is found by its id."""

import random

import pytest

from orchestrator.run.directory import RunDirectory
from orchestrator.run.samples import Sample
from orchestrator.service.telemetry.sample_id import parse_sample_id
from orchestrator.service.telemetry.samples import Samples


def sample(step, i):
    return Sample(
        step, f"q#{i}", i, "What is heard?", ("a", "b"), "a", "/clips/a.wav", "a" * (i % 90), {"accuracy": 1.0}, 1.0,
        0.0, True, None, "stop", step, step, "rollout-0",
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "name: test\n")
    chance = random.Random(0)
    for step in range(1, 40):
        if step % 5:
            run.append_samples([sample(step, i) for i in range(chance.randint(1, 12))])
    return run


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pages_hold_every_sample_once(run, order, limit):
    samples, found, place = Samples(run.path), [], None
    while True:
        page = samples.page(place, limit, order)
        found += page.items
        place = page.next_after
        if place is None:
            break
    expected = list(run.samples())
    assert [{k: v for k, v in item.items() if k != "id"} for item in found] == (
        expected if order == "oldest" else expected[::-1]
    )
    assert all(samples.one(parse_sample_id(item["id"])) == item for item in found)


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize("step", [0, 1, 5, 17, 39, 40])
def test_the_samples_of_a_step(run, order, step):
    samples, found, place = Samples(run.path), [], None
    while True:
        page = samples.page(place, 3, order, step=step)
        found += [item["draw"] for item in page.items]
        place = page.next_after
        if place is None:
            break
    expected = [record["draw"] for record in run.samples() if record["step"] == step]
    assert found == (expected if order == "oldest" else expected[::-1])


def test_a_run_without_samples_has_an_empty_page(run):
    assert Samples(run.path / "none").page(None, 10).items == []
