"""Every text of a job file says what it leads to, and each of these kinds has a rule."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import JsonValue, create_model

from orchestrator.job.allowed import NAME_RULES, Allowed, check_names
from orchestrator.job.marked import marked_names, marked_values, replace_marked, text_kinds, texts
from orchestrator.job.spec import PLACEHOLDER_PREFIX, JobSpec
from orchestrator.job.spec_file import SpecError, parse_spec, resolve_paths
from orchestrator.preflight.plan import to_fill_in
from orchestrator.questions.job_paths import JobPaths
from protocol.frozen_mapping import Frozen
from protocol.marks import KINDS, Names, PathTo
from protocol.settings import Settings

JOB: dict[str, Any] = {
    "model": {"path": "m"},
    "data": {
        "train": "t",
        "evaluation": "e",
        "audio_root": "r",
        "evaluation_audio_root": "s",
        "columns": {"id": "i", "audio": "a", "question": "q", "choices": ["x", "y"], "answer": "z"},
        "curriculum": {"measured": "c"},
    },
    "reward": {
        "functions": {"judge": 1, "mine.own:reward": 1},
        "allowed_modules": ["mine"],
        "judge": {"url": "http://h:1/v1", "model": "n", "api_key_env": "KEY", "extra_body": {"a": [{"b": "text"}]}},
    },
    "learner": {"audio_cache": {"folder": "f"}},
    "tracking": {"wandb": {}, "mlflow": {}},
    "storage": "s3://b/f",
    "cluster": {"address": "auto"},
}


class Choice(StrEnum):
    A = "a"


def unclassified(model: type[Settings]) -> list[str]:
    return [name for name, kind in text_kinds(model) if kind is None]


def test_every_free_text_of_a_job_file_says_what_it_leads_to() -> None:
    assert unclassified(JobSpec) == []


@pytest.mark.parametrize(
    "annotation",
    [
        str,
        str | None,
        Path,
        bytes,
        Any,
        JsonValue,
        tuple[str, ...],
        tuple[Annotated[str, Names.NOTHING], str],
        Literal["a"] | str,
        Annotated[str, Names.NOTHING] | tuple[str, ...],
        Mapping[str, float],
        Mapping[Annotated[str, Names.NOTHING], str],
        Frozen[Mapping[Annotated[str, Names.NOTHING], tuple[str, ...] | float]],
    ],
)
def test_a_new_text_without_a_mark_is_found_wherever_it_is(annotation: Any) -> None:
    section = create_model("Section", __base__=Settings, new=(annotation, None))
    job = create_model("Job", __base__=JobSpec, section=(section | None, None), sections=(tuple[section, ...], ()))
    assert set(unclassified(job)) == {"section.new", "sections.new"}


@pytest.mark.parametrize(
    "annotation",
    [int, float | None, bool, Choice, Literal["a", "b"], Annotated[str, Names.NOTHING], Mapping[Choice, int]],
)
def test_what_is_no_free_text_needs_no_mark(annotation: Any) -> None:
    assert unclassified(create_model("Section", __base__=Settings, new=(annotation, None))) == []


def test_every_text_of_a_job_is_visited_with_its_kind() -> None:
    spec = parse_spec(JOB, "job")
    by_kind: dict[Any, set[str]] = {}
    for _, kind, text in texts(spec):
        by_kind.setdefault(kind, set()).add(text)
    assert set(by_kind) == set(KINDS)
    assert by_kind[Names.MODULE] == {"mine"}
    assert by_kind[Names.REWARD] == {"judge", "mine.own:reward"}
    assert by_kind[Names.SECRET] == {"KEY"}
    assert by_kind[PathTo.CACHE] == {"f"}
    assert {"x", "y", "choices", "text", "b", "job"} < by_kind[Names.NOTHING]
    assert replace_marked(spec, KINDS, lambda _, text: text) is spec
    renamed = replace_marked(spec, (Names.REWARD,), lambda _, text: f"{text}2")
    assert list(renamed.reward.functions) == ["judge2", "mine.own:reward2"]


def test_every_kind_has_a_rule() -> None:
    assert set(NAME_RULES) == set(Names)
    allowed = Allowed()
    assert set(JobPaths(parse_spec(JOB, "job"), allowed.readable(), allowed.writable()).rules) == set(PathTo)
    # A path is found by its key where its value is replaced.
    assert len(list(marked_names(JobSpec, tuple(PathTo)))) == len(list(marked_values(parse_spec(JOB, "job"), PathTo)))


def test_a_text_without_a_rule_is_refused() -> None:
    class WithNew(JobSpec):
        new: str = "anything"

    spec = WithNew.model_validate({"model": {"path": "m"}, "data": {"train": "t"}})
    with pytest.raises(SpecError, match=r"^new: 'anything' is not allowed"):
        check_names(spec, Allowed())


def test_a_placeholder_of_any_path_is_shown_as_to_fill_in() -> None:
    names = list(marked_names(JobSpec, tuple(PathTo)))
    spec = replace_marked(parse_spec(JOB, "job"), tuple(PathTo), lambda key, _: f"{PLACEHOLDER_PREFIX}{key}")
    assert to_fill_in(spec) == {name: name for name in names}


def test_every_relative_path_starts_at_the_job_file() -> None:
    spec = resolve_paths(parse_spec(JOB, "job"), Path("/home/of/job"))
    found = dict(marked_values(spec, tuple(PathTo)))
    assert set(found) == set(marked_names(JobSpec, tuple(PathTo)))
    assert all(path.startswith("/home/of/job/") for path in found.values())
