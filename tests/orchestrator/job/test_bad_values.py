"""Every key of a job file, with values that nobody means: exit code 2 or 4xx with one short line, or a job."""

import json
import math
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from support.service import SPEC, check_problem, service

from orchestrator.cli.job_file import read_job
from orchestrator.cli.outcome import exit_codes
from orchestrator.job.marked import section_of
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, dump_spec, parse_spec, read_spec
from protocol.settings import LARGEST, Settings

SMALLEST: dict[str, Any] = {"model": {"path": "m"}, "data": {"train": "t.jsonl"}}
DEEP: Any = "x"
for _ in range(150):
    DEEP = [DEEP]
VALUES = {
    "long text": "x" * 20_000,
    "control characters": "a\n\x1b[31mred\x07\u202e",
    "long list": ["x" * 500] * 60,
    "long keys": {"k" * 3000 + str(i): "v" * 500 for i in range(20)},
    "long unknown key": {"\x1b]0;title\x07" * 300: {"y" * 900: 1}},
    "deep": DEEP,
    "infinite": math.inf,
    "not a number": math.nan,
    "many digits": 10**300,
    "negative": -(10**30),
    "true": True,
    "null": None,
    "zero byte": "a\0b",
}


def keys(model: type[Settings] = JobSpec, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the place of every key, sections included."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        section = section_of(field.annotation)
        if section is not None:
            yield from keys(section, (*above, name))


def kinds_at(key: tuple[str, ...]) -> set[Any]:
    """Return the types in the annotation of a key."""
    model: type[Settings] = JobSpec
    for name in key[:-1]:
        found = section_of(model.model_fields[name].annotation)
        assert found is not None
        model = found
    annotation = model.model_fields[key[-1]].annotation
    return {annotation, *get_args(annotation)}


KEYS = sorted(keys())


def with_value(key: tuple[str, ...], value: Any, job: Mapping[str, Any] = SMALLEST) -> dict[str, Any]:
    """Return a job with one value at a key."""
    job = json.loads(json.dumps(job))
    section: Any = job
    for name in key[:-1]:
        section = section.setdefault(name, {})
    section[key[-1]] = value
    return dict(job)


def outcome(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the line that a command prints for a job file; empty if it is accepted."""
    try:
        with exit_codes():
            read_job(path)
    except SystemExit as ended:
        assert ended.code == 2, (path.read_text()[:500], capsys.readouterr().err)
    line = capsys.readouterr().err.removeprefix("earshot: ")
    assert len(line) <= 1001
    assert not line or (line.endswith("\n") and line[:-1].isprintable()), line
    return line


@pytest.mark.parametrize("name", VALUES)
def test_a_value_in_every_place(name, tmp_path, capsys):
    refused = 0
    for key in KEYS:
        path = tmp_path / "job.json"
        path.write_text(json.dumps(with_value(key, VALUES[name])))
        refused += bool(outcome(path, capsys))
    assert refused > len(KEYS) / 4


def test_a_number_is_finite_and_a_number(tmp_path, capsys):
    numbers = [key for key in KEYS if kinds_at(key) & {int, float} and bool not in kinds_at(key)]
    assert len(numbers) > 70
    path = tmp_path / "job.json"
    for key in numbers:
        for name in ("infinite", "not a number", "true", "many digits", "negative"):
            path.write_text(json.dumps(with_value(key, VALUES[name])))
            assert f"'{'.'.join(key)}" in outcome(path, capsys), (key, name)


@pytest.mark.parametrize("name", ["long text", "control characters", "infinite", "long unknown key", "zero byte"])
def test_a_value_in_some_places_of_a_yaml_file(name, tmp_path, capsys):
    for key in KEYS[::7]:
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(with_value(key, VALUES[name])))
        outcome(path, capsys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: 1e3", ""),
        ("learner: {optimizer: {learning_rate: 1e-6}}", ""),
        ("steps: 1_000", ""),
        ("\ufeffsteps: 1000\r\nseed: 2\r", ""),
        ("data: {train: t, shuffle: yes}", ""),
        ("learner: &l {beta: 0.1}\nwarm_start:", ""),
        ("learner: # {beta: 0.1}", "'learner': a section with keys is needed; remove it if it has none"),
        ("reward: [accuracy, format]", "'reward': a section with keys is needed"),
        ("steps: 1.5", "'steps': a whole number is needed, such as 1000 (got 1.5)"),
        ("steps: many", "'steps': a whole number is needed, such as 1000 (got 'many')"),
        ("steps: yes", "'steps': a number is needed, not true or false (got True)"),
        ("seed: 0100", "'0100' would be read as 64: write a number without a colon or a zero before it"),
        ("rollout: {limits: {start_seconds: 15:00}}", "'15:00' would be read as 900"),
        ("name: 123", "'name': text is needed; put it in quotes (got 123)"),
        ("name: 1e3", "'name': text is needed; put it in quotes (got 1000.0)"),
        ("name: 2026-01-01", "'name': text is needed; put it in quotes"),
        ("name: 2026-13-01", "not valid YAML: month must be in 1..12 in line 3, column 7"),
        ("name: !!python/object:os.system x", "could not determine a constructor"),
        ("learner: {optimizer: {learning_rate: .inf}}", "'learner.optimizer.learning_rate': Input should be a finite"),
        ("learner: {beta: .nan}", "'learner.beta': Input should be a finite number (got nan)"),
        ("reward: {functions: {accuracy: .inf}}", "'reward.functions.accuracy': Input should be a finite number"),
        ("reward: {functions: {accuracy: yes}}", "'reward.functions': a number is needed, not true or false"),
        ("data: {train: [a.jsonl, b.jsonl]}", "'data.train': one question file is needed: join several into one"),
        ("name: my first run", "'name': use letters, digits, dot, dash and underscore"),
        ("steps: " + "9" * 5000, "a number of 5,000 digits: write a smaller one in line 3"),
        ("steps: 0x" + "f" * 5000, "a number of 5,002 digits"),
        ("a: &a [*a]", "its aliases make it endless or too large"),
        ("x: " + "[" * 600, "not valid YAML: nested too deep"),
        ("rollout:\n\tworkers: 2", "in line 4, column 1: workers: 2 ^ (indent with spaces)"),
        ("name: \x07", "not valid YAML: the character '\\x07' in line 3, column 7"),
        ("\n".join(f"{letter}: 1" for letter in "abcdefgh"), "; and 3 more"),
    ],
)  # fmt: skip
def test_a_yaml_file(text, words, tmp_path, capsys):
    path = tmp_path / "job.yaml"
    start = "" if text.startswith(("data", "\ufeff")) else "data: {train: t}\n"
    end = "\ndata: {train: t}\n" if text.startswith("\ufeff") else "\n"
    head, body = ("\ufeff", text[1:]) if text.startswith("\ufeff") else ("", text)
    path.write_text(f"{head}model: {{path: m}}\n{start}{body}{end}", newline="")
    line = outcome(path, capsys)
    assert words in line
    assert bool(words) == bool(line)


def test_aliases_that_stand_for_very_much(tmp_path, capsys):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "job.yaml").write_text("\n".join(lines))
    assert "its aliases make it endless or too large" in outcome(tmp_path / "job.yaml", capsys)


def test_text_that_looks_like_a_number_survives_the_round_trip(tmp_path):
    spec = parse_spec(SMALLEST | {"name": "1e3"}, "job")
    (tmp_path / "job.yaml").write_text(dump_spec(spec))
    assert read_spec(tmp_path / "job.yaml") == spec


def test_the_largest_number():
    assert parse_spec(SMALLEST | {"steps": LARGEST}, "job").steps == LARGEST
    with pytest.raises(SpecError, match="'steps': the number is larger than 4,294,967,296"):
        parse_spec(SMALLEST | {"steps": LARGEST + 1}, "job")


ACCEPTED = 201


def was_refused(response):
    """Check a response, and return whether the job was refused."""
    if response.status_code == ACCEPTED:
        return False
    document = check_problem(response, 400, 413, 422)
    assert len(document["detail"]) <= 1000
    assert document["detail"].isprintable()
    return True


@pytest.mark.anyio
@pytest.mark.parametrize("name", VALUES)
async def test_a_value_in_every_place_over_rest(name, tmp_path):
    refused = 0
    async with service(tmp_path) as made:
        client = made.client()
        for key in KEYS[:: 4 if name == "control characters" else 20]:
            job = with_value(key, VALUES[name], SPEC)
            refused += was_refused(await client.post("/v1/jobs", content=json.dumps(job)))
            if key in KEYS[::40]:
                headers = {"content-type": "application/yaml"}
                was_refused(await client.post("/v1/jobs", content=yaml.safe_dump(job), headers=headers))
    assert refused > len(KEYS) / 80


NAMES = ("limit", "priority", "max_restarts", "points", "since_step", "step", "tail", "cursor")
NUMBERS = ("inf", "nan", "1e400", "9" * 5000, "-0.0", "1e3", "0x10", "true", "9" * 30, "\u0663", "%00", "x" * 3000)


@pytest.mark.anyio
async def test_a_number_in_a_query(tmp_path):
    async with service(tmp_path) as made:
        job, _ = await made.running()
        client = made.client()
        paths = [f"/v1/jobs/{job.id}/{part}" for part in ("metrics", "samples", "events", "logs")]
        for name, value, path in product(NAMES, NUMBERS, ["/v1/jobs", *paths]):
            response = await client.get(path, params={name: value}, headers={"accept": "application/json"})
            if response.status_code != 200:
                document = check_problem(response, 400, 404, 414, 422)
                assert len(document["detail"]) <= 1000
                assert document["detail"].isprintable()
