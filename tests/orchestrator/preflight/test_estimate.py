"""The estimates of a plan, checked against figures computed by hand."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.results import show_plan
from orchestrator.job.gpu import DATA_SHEETS, DataSheet, Gpu
from orchestrator.job.memory.published import PUBLISHED
from orchestrator.job.memory.sizes import Sizes
from orchestrator.job.spec import JobSpec
from orchestrator.preflight.estimate import (
    DECODING_EFFICIENCY,
    LEARNER_EFFICIENCY,
    Lengths,
    device_warnings,
    evaluations_of,
    generation_seconds,
    learner_seconds,
    step_seconds,
    time_estimate,
    update_bytes,
    weight_update,
)
from orchestrator.preflight.plan import plan

LEAST = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}
# Rates whose assumed shares, for the learner and the engines, are whole numbers.
GPU = DataSheet(80, 1e12 / LEARNER_EFFICIENCY, 1e12 / DECODING_EFFICIENCY)
SIZES = Sizes(audio_tower=10**8, decoder=10**9, embedding=10**8, head=10**8, audio_tower_width=10, decoder_width=100)
TEN_SECONDS = Lengths(clip_seconds=10, completion_tokens=20)


def job(**sections: Any) -> JobSpec:
    return JobSpec.model_validate({**LEAST, **sections})


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


def test_an_engine_on_several_gpus_reads_and_computes_faster():
    one, two = (
        generation_seconds(job(rollout={"gpus": n, "tensor_parallel": n}), SIZES, GPU, TEN_SECONDS, 8, 8)
        for n in (1, 2)
    )
    assert two == pytest.approx(one / 2)


def test_a_token_reads_all_experts_of_a_large_batch_and_computes_with_few():
    moe = Sizes(decoder=10**8, experts=32 * 10**8, expert_share=1 / 32, embedding=10**7, head=10**7)
    few, many = (generation_seconds(job(), moe, GPU, TEN_SECONDS, 1, n) for n in (1, 64))
    # One sequence reads one expert of 32; 64 read nearly all, which takes longer than to compute with one.
    prompt = 2 * 2 * 10**8 * 350 / 1e12
    assert few == pytest.approx(prompt + 20 * 2 * (2 * 10**8 + 10**7) / 1e12)
    assert many - prompt == pytest.approx(20 * 2 * 64 * 2.1e8 / 1e12, rel=0.05)


def test_a_weight_update_is_what_trains_and_says_how_it_travels():
    full = job(learner={"dtype": "bfloat16"})
    assert update_bytes(full, SIZES) == 2 * (10**8 + 10**9 + 2 * 10**8)
    lora = job(learner={"dtype": "bfloat16", "lora": {"rank": 4}, "train": {"audio_tower": False}})
    assert update_bytes(lora, SIZES) == 2 * 10**9
    assert update_bytes(job(method="evaluate", data={"evaluation": "builtin:synthetic"}), SIZES) == 0
    ways = {
        "by TCP, to each other node (or pod)": {"weight_sync": "shared_memory"},
        "Ray's object store": {"weight_sync": "object_store"},
        "as fast as their network": {"weight_sync": "nccl", "gpus": 1},
        "within each GPU": {"weight_sync": "cuda_ipc", "gpus": 0.5},
    }
    for words, rollout in ways.items():
        found = weight_update(job(rollout=rollout), SIZES)
        assert found is not None
        assert words in found["way"]
    placed = weight_update(job(rollout={"gpus": 1}, cluster={"placement": "one_node"}), SIZES)
    assert placed is not None
    assert "where all workers are" in placed["way"]
