"""The marks at the fields of the specification: which fields resume freely, and which hold paths."""

from typing import Annotated

from orchestrator.job.marked import marked_names, marked_values, replace_marked
from orchestrator.job.spec import JobSpec
from protocol.marks import PathTo, Resume
from protocol.settings import Settings

FREE = {
    "steps",
    "evaluation.every",
    "checkpoint",
    "storage",
    "cluster",
    "tracking",
    "learner.timeout_seconds",
    "learner.start_seconds",
    "learner.max_restarts",
    "learner.max_nonfinite_steps",
    "learner.audio_cache",
    "rollout.limits",
    "rollout.weight_sync",
    "rollout.weight_checksums",
    "reward.max_restarts",
    "reward.max_unscored_in_row",
    "reward.judge.url",
    "reward.judge.api_key_env",
    "reward.judge.timeout_seconds",
    "reward.judge.deadline_seconds",
    "reward.judge.concurrency",
    "reward.judge.max_attempts",
}
FREE_UNLESS_DETERMINISTIC = {
    "learner.ranks",
    "learner.zero_stage",
    "learner.offload_optimizer",
    "learner.offload_parameters",
    "learner.micro_batch_tokens",
    "learner.share_prefix",
    "learner.activation_checkpointing",
    "learner.threads",
    "rollout.workers",
    "rollout.autoscale",
    "rollout.max_staleness",
    "rollout.threads",
    "rollout.gpus",
    "rollout.tensor_parallel",
    "rollout.gpu_memory_fraction",
    "rollout.cpu_kv_gib",
    "rollout.max_concurrent",
    *(
        f"rollout.engine.{name}"
        for name in (
            "enforce_eager",
            "async_scheduling",
            "max_num_batched_tokens",
            "enable_chunked_prefill",
            "enable_prefix_caching",
            "block_size",
            "attention_backend",
            "disable_custom_all_reduce",
        )
    ),
}
PATHS = {
    PathTo.MODEL: ["model.path"],
    PathTo.CLIPS: ["data.audio_root", "data.evaluation_audio_root"],
    PathTo.SOLVE_RATES: ["data.curriculum.measured"],
    PathTo.QUESTIONS: ["data.train", "data.evaluation"],
    PathTo.CACHE: ["learner.audio_cache.folder"],
}


class Inner(Settings):
    plain: int = 1
    marked: Annotated[int, Resume.FREE] = 2
    path: Annotated[str | None, PathTo.MODEL] = None


class Outer(Settings):
    inner: Inner = Inner()
    optional: Inner | None = None
    whole: Annotated[Inner, Resume.FREE] = Inner()


def test_the_fields_that_resume_freely():
    names = list(marked_names(JobSpec, (Resume.FREE,)))
    assert set(names) == FREE
    assert len(names) == len(FREE)


def test_the_fields_that_resume_freely_unless_the_job_is_deterministic():
    assert set(marked_names(JobSpec, (Resume.FREE_UNLESS_DETERMINISTIC,))) == FREE_UNLESS_DETERMINISTIC


def test_the_fields_that_hold_paths():
    assert {kind: list(marked_names(JobSpec, (kind,))) for kind in PathTo} == PATHS


def test_a_field_without_a_mark_is_not_free_and_a_marked_section_is_free_as_a_whole():
    assert list(marked_names(Outer, tuple(Resume))) == ["inner.marked", "optional.marked", "whole"]


def test_the_values_of_marked_fields_leave_out_what_is_not_given():
    settings = Outer(inner=Inner(path="a"), whole=Inner(path="b"))
    assert list(marked_values(settings, (PathTo.MODEL,))) == [("inner.path", "a"), ("whole.path", "b")]


def test_replacing_marked_values_names_each_field_and_changes_no_other():
    settings = Outer(inner=Inner(path="a"), optional=Inner(path="b", plain=5))
    replaced = replace_marked(settings, tuple(PathTo), lambda name, path: f"{name}={path}")
    assert replaced == Outer(inner=Inner(path="inner.path=a"), optional=Inner(path="optional.path=b", plain=5))
    assert replace_marked(settings, tuple(PathTo), lambda _, path: path) == settings
