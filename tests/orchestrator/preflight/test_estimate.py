"""The estimates of a plan, checked against figures computed by hand."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.results import show_plan
from orchestrator.job.gpu import DATA_SHEETS, DataSheet, Gpu
from orchestrator.job.spec import JobSpec
from orchestrator.preflight.estimate import (
    DECODING_EFFICIENCY,
    LEARNER_EFFICIENCY,
    Lengths,
    device_warnings,
    evaluations_of,
    generation_seconds,
    learner_bytes,
    learner_seconds,
    memory_warnings,
    step_seconds,
    time_estimate,
)
from orchestrator.preflight.plan import plan
from orchestrator.preflight.sizes import PUBLISHED, Sizes

LEAST = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}
# Rates whose assumed shares, for the learner and the engines, are whole numbers.
GPU = DataSheet(80, 1e12 / LEARNER_EFFICIENCY, 1e12 / DECODING_EFFICIENCY)
SIZES = Sizes(audio_tower=10**8, decoder=10**9, embedding=10**8, head=10**8, audio_tower_width=10, decoder_width=100)
TEN_SECONDS = Lengths(clip_seconds=10, completion_tokens=20)


def job(**sections: Any) -> JobSpec:
    return JobSpec.model_validate({**LEAST, **sections})


def test_the_published_model_has_the_size_its_makers_state():
    assert PUBLISHED["Qwen2-Audio-7B-Instruct"].total == pytest.approx(8.397e9, rel=1e-3)


def test_adapters_store_state_for_themselves_only_and_are_their_own_reference():
    learner = {"dtype": "bfloat16", "zero_stage": 1, "beta": 0.04}
    adapted = learner_bytes(job(learner={**learner, "lora": {"rank": 16}}), SIZES)
    adapters = 16 * 110
    # Two bytes for each weight; for an adapter's weight also its gradient, master copy and two moments.
    assert adapted == 2 * SIZES.total + (2 + 2 + 12) * adapters


def test_frozen_parts_have_no_gradient_and_an_offloaded_optimizer_is_elsewhere():
    frozen = {"dtype": "bfloat16", "zero_stage": 1, "beta": 0, "train": {"audio_tower": False, "language_model": False}}
    assert learner_bytes(job(learner=frozen), SIZES) == 2 * SIZES.total
    full = {"dtype": "bfloat16", "zero_stage": 1, "beta": 0}
    assert learner_bytes(job(learner=full), SIZES) == (2 + 2 + 12) * SIZES.total
    assert learner_bytes(job(learner={**full, "offload_optimizer": True}), SIZES) == (2 + 2) * SIZES.total


def test_supervision_has_no_reference():
    learner = {"beta": 0.04}
    assert learner_bytes(job(method="supervised", learner=learner), SIZES) == 16 * SIZES.total
    assert learner_bytes(job(learner=learner), SIZES) == 20 * SIZES.total


def test_a_learner_step_by_hand():
    spec = job(rollout={"group_size": 4, "questions_per_step": 2, "max_tokens": 64}, learner={"beta": 0.1, "ranks": 2})
    # 100 text and 250 audio tokens once, 4 completions of 20; the tower has two positions for each audio token.
    decoder = 2 * 10**9 * (350 + 80) + 2 * 10**8 * 80
    tower = 2 * 10**8 * 500
    by_hand = 2 * 4 * (decoder + tower) / (2 * 1e12)
    assert learner_seconds(spec, SIZES, GPU, TEN_SECONDS) == pytest.approx(by_hand)


def test_decoding_by_hand():
    spec = job(rollout={"workers": 2, "max_concurrent": 4})
    # 3 questions for each worker, 6 sequences, 4 at a time: twice 20 tokens, each of which reads all weights.
    read = 3 * (2 * 10**9 * 350 + 2 * 10**8 * 1500) / 1e12
    decode = 2 * 20 * max(2 * 1.1e9 / 1e12, 2 * 1.1e9 * 4 / 1e12)
    assert generation_seconds(spec, SIZES, GPU, TEN_SECONDS, 5, 2) == pytest.approx(read + decode)


def test_rollouts_that_overlap_with_the_learner_are_not_added():
    sheet = DATA_SHEETS[Gpu.A100]
    one, two = (
        step_seconds(job(rollout={"max_staleness": staleness, "gpus": 1}), SIZES, sheet, TEN_SECONDS)
        for staleness in (0, 1)
    )
    assert two < one


@pytest.mark.parametrize(("steps", "every", "times"), [(0, 100, 1), (100, 0, 2), (100, 50, 3), (100, 60, 3)])
def test_the_number_of_evaluations(steps, every, times):
    assert evaluations_of(job(steps=steps, evaluation={"every": every})) == times


def test_time_is_for_gpus_and_names_its_assumptions():
    assert time_estimate(job(), SIZES, 300) is None
    found = time_estimate(job(rollout={"gpus": 1}, cluster={"gpu": "H100-80GB"}), SIZES, None)
    assert found is not None
    for key in ("step_seconds", "evaluation_seconds", "hours"):
        low, high = found[key]
        assert 0 < low <= high
    asking = time_estimate(job(steps=0, rollout={"gpus": 1}), SIZES, 300)
    assert asking is not None
    assert (asking["step_seconds"], asking["evaluations"]) == (None, 1)
    assert "estimate for H100-80GB" in found["assumptions"][0]
    assert any("1000 held-out questions, assumed: the file is a placeholder" in line for line in found["assumptions"])


@pytest.mark.parametrize(("beta", "reference"), [(0.0, "no"), (0.04, "yes")])
def test_a_plan_is_shown_with_words_and_whole_numbers(beta, reference):
    spec = job(
        model={"path": "builtin:tiny-qwen2-audio", "max_context": 512},
        rollout={"gpus": 1},
        learner={"beta": beta},
    )
    written = StringIO()
    show_plan(plan(spec), Console(file=written, width=200))
    lines = [line.split("  ", 1) for line in written.getvalue().splitlines()]
    rows = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    assert (rows["reference model"], rows["gpus"]) == (reference, "2")
    assert rows["time of an evaluation"] == "less than 0.1 s, an estimate"


def test_what_does_not_fit_is_reported():
    large = Sizes(decoder=30 * 10**9)
    spec = job(rollout={"gpus": 1, "gpu_memory_fraction": 0.5}, learner={"dtype": "bfloat16", "zero_stage": 1})
    rank, engine = memory_warnings(spec, large)
    assert "a learner rank needs 503 GiB before activations; A100-80GB has 80" in rank
    assert "an engine's weights need 56 GiB; its share of A100-80GB is 40" in engine
    assert memory_warnings(job(), large) == []


def test_a_large_model_without_gpus_is_warned_about():
    large = PUBLISHED["Qwen2-Audio-7B-Instruct"]
    (warning,) = device_warnings(job(learner={"ranks": 4, "zero_stage": 3}), large)
    assert "rollout.gpus is 0, so rollout workers and the learner run on CPUs" in warning
    assert "8.4 billion parameters" in warning
    (asked_only,) = device_warnings(job(method="evaluate", data={"evaluation": "builtin:synthetic"}), large)
    assert "so rollout workers run on CPUs" in asked_only
    assert device_warnings(job(rollout={"gpus": 1}), large) == []
    assert device_warnings(job(), SIZES) != []
    assert device_warnings(job(), Sizes(decoder=10**8)) == []
