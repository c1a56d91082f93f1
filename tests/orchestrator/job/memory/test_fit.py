"""Jobs that do not fit their GPUs are refused, wherever they start, with what to change."""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.models.folders import write_model
from support.runs.admitting import allowing
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.job.gpu import DATA_SHEETS, Gpu
from orchestrator.job.memory.fit import ASLEEP_GIB, FRAGMENTED, PROCESS_GIB, check_memory, learner_gib, misfits
from orchestrator.job.memory.published import PUBLISHED
from orchestrator.job.memory.rank import GIB, rank_memory
from orchestrator.job.memory.sizes import Sizes
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, parse_spec, read_spec
from orchestrator.preflight.plan import model_sizes
from orchestrator.service.admission.admission import Admission

EXAMPLES = Path(__file__).parents[4] / "examples"
ON_GPUS = sorted([*EXAMPLES.glob("gpus/*.yaml"), *EXAMPLES.glob("paper/*.yaml")])
SEVEN = PUBLISHED["Qwen2-Audio-7B-Instruct"]
# Many rows: a rank's share of them is the largest micro-batch.
LARGE = {"rollout": {"questions_per_step": 4096}, "supervised": {"batch_size": 4096}}
MUTATIONS: dict[str, dict[str, Any]] = {
    "set learner.activation_checkpointing": {
        **LARGE,
        "learner": {"activation_checkpointing": False, "micro_batch_tokens": 65_536},
    },
    "lower learner.micro_batch_tokens": {**LARGE, "learner": {"micro_batch_tokens": 2**20}},
    "cluster.gpu names other GPUs": {
        **LARGE,
        "learner": {"micro_batch_tokens": 2**18},
        "cluster": {"gpu": "L40S-48GB"},
    },
    "an engine needs": {"rollout": {"gpu_memory_fraction": 0.05}},
}


def merged(value: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    nested = {k: merged(value.get(k, {}), v) if isinstance(v, dict) else v for k, v in changes.items()}
    return {**value, **nested}


def job(**sections: Any) -> JobSpec:
    least = {"model": {"path": "m", "max_context": 1280}, "data": {"train": "t"}, "rollout": {"gpus": 1}}
    return JobSpec.model_validate(merged(least, sections))


@pytest.mark.parametrize("path", ON_GPUS, ids=lambda path: path.stem)
def test_a_recipe_fits_and_a_changed_one_is_refused(path):
    value = yaml.safe_load(path.read_text())
    spec = parse_spec(value, path.name)
    sizes = model_sizes(spec)
    assert misfits(spec, sizes) == []
    check_memory(spec, sizes)
    for words, changes in MUTATIONS.items():
        if spec.method == "evaluate" and "learner" in changes:
            continue
        changed = parse_spec(merged(value, changes), path.name)
        with pytest.raises(SpecError, match=re.escape(words)) as refused:
            check_memory(changed, sizes)
        message = str(refused.value)
        # Part, need, have, what to set, and how to go on regardless; one line.
        assert re.search(r"needs [\d.]+ GiB.*(has|is) [\d.]+", message)
        assert "cluster.check_memory: false" in message
        assert "\n" not in message
        anyway = merged(value, merged(changes, {"cluster": {"check_memory": False}}))
        check_memory(parse_spec(anyway, path.name), sizes)


def test_the_papers_recipe_as_it_was_does_not_fit():
    """Micro-batches of 16,384 tokens whose activations are all kept, of batches that are large enough for them."""
    spec = read_spec(EXAMPLES / "paper" / "grpo_3.yaml")
    learner = spec.learner.model_copy(update={"activation_checkpointing": False, "micro_batch_tokens": 16_384})
    rollout = spec.rollout.model_copy(update={"questions_per_step": 64})
    (refused,) = misfits(spec.model_copy(update={"learner": learner, "rollout": rollout}), SEVEN)
    assert "a learner rank needs 210.1 GiB, and A100-80GB has 79.1: 142.1 of them for activations" in refused


def test_a_row_larger_than_a_micro_batch_is_refused_with_what_makes_it_smaller():
    learner = {"dtype": "bfloat16", "ranks": 8, "zero_stage": 3, "activation_checkpointing": True}
    spec = job(learner=learner | {"micro_batch_tokens": 1024}, rollout={"max_tokens": 1024, "group_size": 128})
    (refused,) = misfits(spec, SEVEN)
    assert "lower rollout.max_tokens, rollout.group_size or model.max_context" in refused


def test_the_model_states_are_refused_with_what_makes_them_smaller():
    large = Sizes(decoder=30 * 10**9)
    learner = {"dtype": "bfloat16", "zero_stage": 1}
    for changes, advice in (
        ({"dtype": "float32"}, "set learner.dtype to bfloat16"),
        ({}, "set learner.zero_stage to 3"),
        ({"zero_stage": 3}, "raise learner.ranks, or set learner.offload_optimizer"),
        ({"zero_stage": 3, "offload_optimizer": True, "ranks": 64}, "set learner.beta to 0"),
    ):
        found = misfits(job(learner=learner | changes), large)
        assert advice in found[-1], found


def test_an_engine_that_is_too_large_is_refused_until_gpus_share_it():
    large = Sizes(decoder=60 * 10**9)
    evaluation = {"method": "evaluate", "data": {"evaluation": "e"}}
    (refused,) = misfits(job(**evaluation), large)
    assert "an engine needs 113.8 GiB" in refused
    assert "set rollout.tensor_parallel and rollout.gpus to 2" in refused
    assert misfits(job(**evaluation, rollout={"gpus": 2, "tensor_parallel": 2}), large) == []


def test_both_halves_of_a_shared_gpu_have_to_fit_together():
    learner = {"dtype": "bfloat16", "lora": {"rank": 16}, "activation_checkpointing": True, "micro_batch_tokens": 4096}
    shared = {"gpus": 0.5, "weight_sync": "cuda_ipc", "questions_per_step": 256}
    rank = rank_memory(job(learner=learner, rollout=shared), SEVEN)
    held = rank.between_steps * (1 + FRAGMENTED) / GIB + PROCESS_GIB
    have = DATA_SHEETS[Gpu.A100].memory_gib
    fits, too_large = (have - held - room for room in (2.5, 1.5))
    assert misfits(job(learner=learner, rollout=shared | {"gpu_memory_fraction": fits / have}), SEVEN) == []
    (awake,) = misfits(job(learner=learner, rollout=shared | {"gpu_memory_fraction": too_large / have}), SEVEN)
    assert "an engine beside what a learner rank holds needs" in awake
    assert "lower rollout.gpu_memory_fraction" in awake
    # A rank that fits a GPU of its own, but not beside a sleeping engine.
    for tokens in range(4096, 2**18, 1024):
        larger = learner | {"micro_batch_tokens": tokens}
        alone = job(learner=larger, rollout={"questions_per_step": 256})
        if have - ASLEEP_GIB < learner_gib(alone, rank_memory(alone, SEVEN)) < have:
            break
    assert misfits(alone, SEVEN) == []
    (asleep,) = misfits(job(learner=larger, rollout=shared | {"gpu_memory_fraction": 0.4}), SEVEN)
    assert "a learner rank beside a sleeping engine needs" in asleep


def test_a_micro_batch_is_no_larger_than_a_ranks_share_of_the_batch():
    """A high limit, for micro-batches that are never divided, does not make a small batch large."""
    rollout = {"questions_per_step": 2, "group_size": 4, "max_tokens": 64}
    learner = {"dtype": "bfloat16", "lora": {}, "activation_checkpointing": True, "micro_batch_tokens": 2**20}
    assert misfits(job(learner=learner, rollout=rollout), SEVEN) == []
    assert misfits(job(learner=learner, rollout=rollout | {"questions_per_step": 2048}), SEVEN) != []


def test_engines_with_parts_of_one_gpu_have_to_fit_it_together():
    evaluation = {"method": "evaluate", "data": {"evaluation": "e"}}
    parts = {"gpus": 0.3, "workers": 4}
    (refused,) = misfits(job(**evaluation, rollout=parts), SEVEN)
    assert "3 rollout workers on one GPU (rollout.gpus 0.3) need 201.7 GiB" in refused
    assert "set that to at most 0.333, or rollout.gpus to 1" in refused
    assert misfits(job(**evaluation, rollout=parts | {"gpu_memory_fraction": 0.333}), SEVEN) == []
    # One engine alone, whole GPUs, and engines of which each shares its GPU with a rank.
    for fits in ({"workers": 1}, {"gpus": 0.6}, {"gpus": 1}):
        assert misfits(job(**evaluation, rollout=parts | fits), SEVEN) == []


def test_a_job_without_gpus_is_not_checked():
    check_memory(JobSpec.model_validate({"model": {"path": "m"}, "data": {"train": "t"}}), SEVEN)


@pytest.mark.parametrize("command", [["--dry-run"], ["--run-dir", "run"], ["--dry-run", "--json"]])
def test_a_run_and_its_plan_are_refused(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = {
        "model": {"path": "builtin:tiny-qwen2-audio", "max_context": 512},
        "data": {"train": "builtin:synthetic"},
        "rollout": {"gpus": 1, "questions_per_step": 65_536},
        "learner": {"micro_batch_tokens": 10**7},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tiny))
    result = CliRunner().invoke(app, ["run", "job.yaml", *command])
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert "a learner rank needs" in line
    assert ("activations" in result.stdout) == ("--dry-run" in command)
    assert not (tmp_path / "run").exists()


def test_the_service_refuses_a_submitted_job(tmp_path):
    model = write_model(tmp_path / "model")
    admission = Admission(allowing(tmp_path))

    def submit(path: str, **cluster: Any) -> None:
        value = {
            "model": {"path": path, "max_context": 512},
            "data": {"train": "builtin:synthetic"},
            "rollout": {"gpus": 1, "questions_per_step": 65_536},
            "learner": {"micro_batch_tokens": 10**8},
            "cluster": cluster,
        }

        async def owns(_: str) -> bool:
            return False

        asyncio.run(admission.admit(JobSpec.model_validate(value), owns))

    try:
        for path in (str(model), "builtin:tiny-qwen2-audio"):
            with pytest.raises(SpecError, match="a learner rank needs"):
                submit(path)
            submit(path, check_memory=False)
    finally:
        admission.close()
