"""Every number of a job, a query and a body, with other values: one line that says what to write."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from fastapi.routing import APIRoute
from support.service import SPEC, check_problem, service

from orchestrator.cli.job_file import read_job
from orchestrator.cli.outcome import exit_codes
from orchestrator.job.marked import section_of
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, parse_spec
from protocol.settings import Settings

NO_NUMBERS = [
    "1e999", "-1e999", "NaN", "Infinity", "1e400", str(10**30), str(2**63), str(10**399), "true", "false",
    '"1"', '"1_0"', '" 5 "', '"0x10"', '"1e3"', '"\u0665"', '"nan"', '"inf"', '""', "{}", "[]",
]  # fmt: skip
"""As JSON."""
NO_BOOLEANS = ["0", "1", "1.0", '"yes"', '"true"', '"0"', '"on"']
FREE = {("reward", "functions", "accuracy")}
"""A weight may be negative: a penalty."""
OTHERS: dict[tuple[str, ...], dict[str, Any]] = {
    ("reward", "judge"): {"url": "http://h/v1", "model": "m"},
    ("reward", "length"): {"target": 10, "tolerance": 5},
    ("rollout", "autoscale"): {"max": 2},
    ("warm_start",): {"steps": 1},
}
"""Required keys of optional sections."""


def leaves(model: type[Settings] = JobSpec, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], set[Any]]]:
    """Yield place and kinds of every value in the job file, sections left out."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            yield from leaves(section, (*above, name))
        else:
            yield from inside(field.annotation, (*above, name))


def inside(annotation: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], set[Any]]]:
    options = list(members(annotation))
    for option in options:
        origin = get_origin(option)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            yield from inside(get_args(option)[1], (*place, "accuracy"))
        elif isinstance(origin, type) and issubclass(origin, tuple):
            yield from inside(get_args(option)[0], (*place, "0"))
    yield place, {option if isinstance(option, type) else type(option) for option in options}


def members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType, Literal):
        for part in get_args(annotation):
            yield from members(part)
    else:
        yield annotation


NUMBERS = sorted(place for place, kinds in leaves() if kinds & {int, float} and bool not in kinds)
BOOLEANS = sorted(place for place, kinds in leaves() if bool in kinds)


def text_of(place: tuple[str, ...], value: str) -> str:
    """Return a job in JSON with a value, which is JSON itself, at a place."""
    job: dict[str, Any] = json.loads(json.dumps(SPEC))
    section: Any = job
    for i, name in enumerate(place[:-1], start=1):
        section = section.setdefault(name, dict(OTHERS.get(place[:i], {})))
    section[place[-1]] = "HERE"
    if place[:2] in (("reward", "judge"), ("reward", "length")):
        job["reward"]["functions"] = {"accuracy": 1, place[1]: 1}
    return json.dumps(job).replace('"HERE"', value)


def refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the line that a command prints for a job file; empty if it takes the file."""
    try:
        with exit_codes():
            read_job(path)
    except SystemExit as ended:
        assert ended.code == 2
    line = capsys.readouterr().err
    assert not line or (line.count("\n") == 1 and line[:-1].isprintable() and len(line) < 1040)
    return line


def test_the_places_are_found():
    assert len(NUMBERS) > 75
    assert {("reward", "functions", "accuracy"), ("learner", "zero_stage"), ("learner", "loss", "clip_low")} <= {
        *NUMBERS
    }
    assert len(BOOLEANS) > 10
    assert {("learner", "loss", "mask_truncated"), ("deterministic",)} <= {*BOOLEANS}


@pytest.mark.parametrize("value", [*NO_NUMBERS, "-1"])
def test_a_number_of_a_job_file(value, tmp_path, capsys):
    for i, place in enumerate(NUMBERS):
        if value == "-1" and place in FREE:
            continue
        for name in ("job.json", "job.yaml")[: 1 if i % 5 else 2]:
            (tmp_path / name).write_text(text_of(place, value))
            line = refusal(tmp_path / name, capsys)
            assert line, (place, value, name)
            assert "not valid YAML" in line or f"'{'.'.join(place[:2])}" in line, line


def test_what_to_write_instead(tmp_path, capsys):
    wanted = {
        "1": "a whole number is needed, such as 1000; remove the quotes (got '1')",
        "1_0": "a whole number is needed, such as 1000; remove the quotes (got '1_0')",
        "many": "a whole number is needed, such as 1000 (got 'many')",
    }
    for value, words in wanted.items():
        with pytest.raises(SpecError, match=f"'steps': {words}".replace("(", r"\(").replace(")", r"\)")):
            parse_spec({**SPEC, "steps": value}, "job")
    with pytest.raises(SpecError, match=r"'learner.beta': a number is needed, such as 0\.001; remove the quotes"):
        parse_spec({**SPEC, "learner": {"beta": "0.1"}}, "job")
    with pytest.raises(SpecError, match=r"'reward\.functions': a number is needed, such as 0"):
        parse_spec({**SPEC, "reward": {"functions": {"accuracy": "1"}}}, "job")
    assert parse_spec({**SPEC, "steps": 5.0}, "job").steps == 5


@pytest.mark.parametrize("value", NO_BOOLEANS)
def test_true_or_false_of_a_job_file(value, tmp_path, capsys):
    for place in BOOLEANS:
        (tmp_path / "job.json").write_text(text_of(place, value))
        line = refusal(tmp_path / "job.json", capsys)
        assert f"'{'.'.join(place)}': true or false is needed, without quotes" in line, (place, line)


@pytest.mark.parametrize("value", ["1e999", "[-1e999]", '{"a": NaN}', str(2**63), str(10**399)])
def test_a_number_where_any_value_is_allowed(value, tmp_path, capsys):
    (tmp_path / "job.json").write_text(text_of(("reward", "judge", "extra_body", "x"), value))
    assert "'reward.judge.extra_body'" in refusal(tmp_path / "job.json", capsys)


@pytest.mark.anyio
async def test_a_number_of_a_job_over_rest(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        free = [("reward", "judge", "extra_body", "x")]
        for place, value in [
            *itertools.product(NUMBERS[::27], NO_NUMBERS),
            *itertools.product(BOOLEANS[::8], NO_BOOLEANS),
            *itertools.product(free, ["1e999", str(2**63), "NaN"]),
        ]:
            for kind in ("application/json", "application/yaml"):
                response = await client.post("/v1/jobs", content=text_of(place, value), headers={"content-type": kind})
                document = check_problem(response, 400, 422)
                assert document["detail"].isprintable()
                assert len(document["detail"]) <= 1000
        assert (await client.get("/v1/jobs")).json()["items"] == []


NO_WHOLE_NUMBERS = [
    "1_0", "+5", " 5", "5 ", "\u0665", "5.0", "5e0", "0x5", "", "true", "None", "nan", "inf", "1e999", "9" * 19,
    str(10**30), str(2**63), "-" + "9" * 5000, "--5",
]  # fmt: skip


def is_number(annotation: Any) -> bool:
    return bool({int, float} & {*members(annotation)})


@pytest.mark.anyio
async def test_a_number_of_every_query_and_header(tmp_path):
    async with service(tmp_path) as made:
        job, _ = await made.running()
        client, tried = made.client(), 0
        for route in made.app.routes:
            if not isinstance(route, APIRoute):
                continue
            parameters = [*route.dependant.query_params, *route.dependant.header_params]
            for parameter in parameters:
                if not is_number(parameter.field_info.annotation):
                    continue
                tried += 1
                method = min(route.methods)
                for value in NO_WHOLE_NUMBERS:
                    response = await client.request(
                        method,
                        route.path.replace("{job_id}", job.id),
                        params={parameter.alias: value},
                        json=SPEC if method == "POST" else None,
                    )
                    document = check_problem(response, 400, 414, 422)
                    assert document["detail"].isprintable(), document
        assert tried >= 9


@pytest.mark.anyio
async def test_a_number_of_a_body(tmp_path):
    async with service(tmp_path) as made:
        job, _ = await made.running()
        client = made.client()
        for value in [*NO_NUMBERS, "-1", "2.5", "4097", "null"]:
            response = await client.patch(f"/v1/jobs/{job.id}/rollout-workers", content=f'{{"count": {value}}}')
            check_problem(response, 400, 422)
