"""Ids and cursors of samples while their run is rolled back to a checkpoint and done again."""

import json
import random
import shutil
from pathlib import Path

import pytest

from orchestrator.run.directory import RunDirectory
from orchestrator.run.samples import Sample
from orchestrator.service.telemetry.sample_id import parse_sample_id
from orchestrator.service.telemetry.samples import Samples

EARLIER = Path(__file__).parents[3] / "compatibility" / "version_0_1" / "run" / "samples.jsonl"
GROUP = 4


def write(run, steps, text):
    """Write two draws of four completions in each step; `text` makes the text of one."""
    for step in steps:
        for draw in (2 * step, 2 * step + 1):
            run.append_samples(
                [
                    Sample(
                        step, f"q#{draw}", draw, "What is heard?", ("a", "b"), "a", "/clips/a.wav", text(draw, i), {},
                        1.0, 0.0, True, None, "stop", step, step, "rollout-0",
                    )
                    for i in range(GROUP)
                ]
            )  # fmt: skip


def first(draw, i):
    return f"first {draw} {'x' * (draw % 7)}" if i < 2 else f"first {draw} {i}"


def second(draw, i):
    return f"second, which is longer than the other: {draw} {i}"


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "name: test\n")


def every(run, limit=1000, order="newest"):
    return Samples(run.path).page(None, limit, order).items


@pytest.mark.parametrize("again", [first, second])
def test_an_id_leads_to_its_completion_or_to_nothing(run, again):
    write(run, range(1, 6), first)
    at_checkpoint = run.offsets()
    write(run, range(6, 11), first)
    before = every(run)
    assert len({item["id"] for item in before}) == len(before) == 10 * 2 * GROUP
    run.roll_back(at_checkpoint)
    left = Samples(run.path)
    for item in before:
        found = left.one(parse_sample_id(item["id"]))
        assert found == (item if item["step"] <= 5 else None)
    write(run, range(6, 9), again)
    survived = [left.one(parse_sample_id(item["id"])) for item in before]
    for item, found in zip(before, survived, strict=True):
        expected = item["step"] <= 5 or (item["step"] <= 8 and again is first)
        assert found == (item if expected else None)


@pytest.mark.parametrize("limit", [1, 3, 5, 64])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_equal_texts_of_a_draw_have_different_ids_on_every_size_of_page(run, order, limit):
    write(run, range(1, 5), lambda draw, i: "music")
    found, after = [], None
    while True:
        page = Samples(run.path).page(after, limit, order)
        found += page.items
        after = page.next_after
        if after is None:
            break
    assert sorted(item["id"] for item in found) == sorted(item["id"] for item in every(run))
    assert len({item["id"] for item in found}) == 4 * 2 * GROUP


@pytest.mark.parametrize("order", ["newest", "oldest"])
@pytest.mark.parametrize("again", [first, second])
@pytest.mark.parametrize("written", [[], [6], [6, 7], range(6, 11), range(6, 14)])
@pytest.mark.parametrize("taken", [3, 20, 47, 61])
def test_a_list_continues_across_a_roll_back(run, order, again, written, taken):
    """Samples that were there all the time are listed once; of those written again, no place is listed twice."""
    write(run, range(1, 6), first)
    at_checkpoint = run.offsets()
    write(run, range(6, 11), first)
    page = Samples(run.path).page(None, taken, order)
    seen = list(page.items)
    run.roll_back(at_checkpoint)
    write(run, written, again)
    after = page.next_after
    while after is not None:
        page = Samples(run.path).page(after, 7, order)
        seen += page.items
        after = page.next_after
    places = [item["id"].rpartition("-")[0] for item in seen]
    assert len(set(places)) == len(places)
    kept = {item["id"] for item in every(run) if item["step"] <= 5}
    assert kept <= {item["id"] for item in seen}
    if order == "oldest" and again is first:
        assert {item["id"] for item in every(run)} <= {item["id"] for item in seen}


def test_a_run_rolled_back_within_a_page_is_read_without_an_error(run):
    chance = random.Random(3)
    write(run, range(1, 4), first)
    at_checkpoint = run.offsets()
    write(run, range(4, 12), first)
    cursors = [parse_sample_id(item["id"]) for item in every(run)]
    run.roll_back(at_checkpoint)
    for _ in range(30):
        for order in ("newest", "oldest"):
            items = Samples(run.path).page(chance.choice(cursors), 5, order).items
            assert all(item["step"] < 4 for item in items)


def test_samples_of_an_earlier_version_have_ids(run):
    shutil.copy(EARLIER, run.path / "samples.jsonl")
    items = every(run, order="oldest")
    lines = [json.loads(line) for line in EARLIER.read_text().splitlines()]
    assert [{k: v for k, v in item.items() if k != "id"} for item in items] == lines
    assert len({item["id"] for item in items}) == len(lines)
    assert all(Samples(run.path).one(parse_sample_id(item["id"])) == item for item in items)


@pytest.mark.parametrize("text", ["0", "18342", "x", "", "1-2", "1-2-3-XYZ", "1-2-3-0123456\n"])
def test_a_number_is_not_an_id(text):
    assert parse_sample_id(text) is None
