"""`rollout.engine`: named arguments, and one line for those that a job cannot have."""

import pytest
import yaml
from pydantic import ValidationError

from orchestrator.driver.session import worker_settings
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, dump_spec, parse_spec
from orchestrator.preflight.prepare import Prepared

CORRECTED = {"loss": {"correction": {"level": "token"}}}


def document(rollout: dict, **more) -> dict:
    return {"model": {"path": "m", "max_context": 4096}, "data": {"train": "t"}, "rollout": rollout, **more}


def settings_of(rollout: dict, **more):
    spec = JobSpec.model_validate(document(rollout, **more))
    return worker_settings(Prepared(spec, "m", (), (), None, True, 0))


def test_the_arguments_reach_the_workers():
    engine = {"enforce_eager": True, "max_num_batched_tokens": 16_384, "block_size": 32}
    settings = settings_of({"gpus": 1, "group_size": 4, "engine": engine})
    assert settings.engine.model_dump(exclude_defaults=True) == engine
    assert (settings.group_size, settings.shares_gpu, settings.dtype) == (4, False, "auto")


def test_an_engine_can_give_its_memory_up_where_the_learner_has_the_same_gpu():
    shared = {"gpus": 0.5, "weight_sync": "cuda_ipc"}
    assert settings_of(shared).shares_gpu
    evaluation = {"method": "evaluate", "data": {"evaluation": "e"}}
    assert not settings_of(shared, **evaluation).shares_gpu


def test_the_type_of_an_engine():
    assert settings_of({}).dtype == "float32"
    assert settings_of({}, learner={"dtype": "bfloat16"}).dtype == "bfloat16"
    assert settings_of({"engine": {"dtype": "bfloat16"}}).dtype == "bfloat16"
    assert settings_of({"gpus": 1, "engine": {"dtype": "float32"}}).dtype == "float32"


def test_a_job_file_keeps_the_arguments():
    spec = JobSpec.model_validate(document({"gpus": 1, "engine": {"async_scheduling": False}}))
    assert parse_spec(yaml.safe_load(dump_spec(spec)), "job.yaml") == spec


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"enforce_eager": False}, "enforce_eager false needs GPUs"),
        ({"async_scheduling": True}, "async_scheduling true needs GPUs"),
        ({"enable_chunked_prefill": True}, "enable_chunked_prefill true needs GPUs"),
        ({"max_num_batched_tokens": 9000}, "max_num_batched_tokens 9000 needs GPUs"),
        ({"attention_backend": "FLASH_ATTN"}, "attention_backend FLASH_ATTN needs GPUs"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype fp8 needs GPUs"),
        ({"quantization": "fp8"}, "quantization fp8 needs GPUs"),
        ({"disable_custom_all_reduce": True}, "disable_custom_all_reduce true needs GPUs"),
        ({"block_size": 16}, "not a multiple of 32"),
    ],
)
def test_what_cpus_do_not_have_is_refused(engine, words):
    with pytest.raises(ValidationError, match=words):
        JobSpec.model_validate(document({"engine": engine}, learner=CORRECTED))


def test_what_engines_on_cpus_do_anyway_may_be_said():
    engine = {"enforce_eager": True, "async_scheduling": False, "enable_chunked_prefill": False, "block_size": 64}
    JobSpec.model_validate(document({"engine": engine | {"enable_prefix_caching": False}}))


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"dtype": "float32", "quantization": "fp8"}, "dtype float32 excludes quantization fp8"),
        ({"dtype": "float32", "attention_backend": "FLASH_ATTN"}, "dtype float32 is not supported"),
        ({"kv_cache_dtype": "fp8_e5m2", "attention_backend": "FLASH_ATTN"}, "kv_cache_dtype fp8_e5m2 is not supported"),
        ({"block_size": 128, "attention_backend": "FLASHINFER"}, "block_size 128 is not supported"),
    ],
)
def test_arguments_that_vllm_refuses_together(engine, words):
    with pytest.raises(ValidationError, match=words):
        JobSpec.model_validate(document({"gpus": 1, "engine": engine}, learner=CORRECTED))
    for name in engine:
        JobSpec.model_validate(
            document({"gpus": 1, "engine": {k: v for k, v in engine.items() if k != name}}, learner=CORRECTED)
        )


@pytest.mark.parametrize("engine", [{"kv_cache_dtype": "fp8"}, {"quantization": "fp8"}])
def test_another_distribution_needs_the_correction(engine):
    rollout = {"gpus": 1, "engine": engine}
    with pytest.raises(ValidationError, match=r"another distribution.*correction\.level none.*token or sequence"):
        JobSpec.model_validate(document(rollout))
    JobSpec.model_validate(document(rollout, learner=CORRECTED))
    # With staleness, jobs have the correction by default. Without training nothing has to be corrected.
    JobSpec.model_validate(document(rollout | {"max_staleness": 1}))
    JobSpec.model_validate(document(rollout, method="supervised"))


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"max_num_batched_tokens": 100}, r"100\) is less than rollout.max_concurrent \(128\)"),
        ({"max_num_batched_tokens": 4000, "enable_chunked_prefill": False}, r"less than model.max_context \(4096\)"),
        ({"max_num_seqs": 8}, "set rollout.max_concurrent"),
        ({"gpu_memory_utilization": 0.5}, "set rollout.gpu_memory_fraction"),
        ({"cpu_offload_gb": 4}, "a weight update would not reach"),
        ({"speculative_config": {}}, "log-probabilities"),
        ({"attention_backend": "FAST"}, "FLASH_ATTN"),
        ({"block_size": 17}, "16, 32, 64 or 128"),
        ({"trust_remote_code": True}, "Extra inputs"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused_with_what_to_do(engine, words):
    with pytest.raises(ValidationError, match=words):
        JobSpec.model_validate(document({"gpus": 1, "engine": engine}))


def test_a_job_file_with_such_an_argument_gets_one_line():
    with pytest.raises(SpecError) as caught:
        parse_spec(document({"engine": {"max_num_seqs": 8}}), "job.yaml")
    assert "rollout.engine" in str(caught.value)
    assert "set rollout.max_concurrent" in str(caught.value)
    assert "\n" not in str(caught.value)
