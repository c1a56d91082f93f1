"""A small job with every kind of input, which begins and is resumed in this process, up to where Ray starts."""

import io
import json
import shutil
from pathlib import Path

import pytest
import soundfile
import yaml
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.driver import driver
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import read_spec, resolve_paths
from orchestrator.preflight.inputs import RecordedInputs, recorded_inputs
from orchestrator.questions.solve_rates import SolveRate
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.training.state import RunState

RULE = "def rule(question, completion_text, template):\n    return {}\n"
INPUTS = [
    "data.train",
    "clips of data.train",
    "data.evaluation",
    "clips of data.evaluation",
    "data.curriculum.measured",
    "model.path",
    "reward code my_rules",
]


class StoppedError(Exception):
    """Raised where Ray would start."""


@pytest.fixture(autouse=True)
def stops_before_ray(monkeypatch) -> None:
    def stop(_: object) -> None:
        raise StoppedError

    monkeypatch.setattr(driver, "ray_session", stop)


@pytest.fixture
def home(tiny_folder, benchmark_home, tmp_path, monkeypatch) -> Path:
    """A folder with a model, questions, solve rates, reward code and a job file that names them by relative paths."""
    home = tmp_path / "home"
    shutil.copytree(benchmark_home, home / "data")
    shutil.copytree(tiny_folder, home / "model")
    for name, count in (("train", 6), ("heldout", 3)):
        file = home / "data" / f"{name}.jsonl"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:count]))
    questions = [json.loads(line) for line in (home / "data" / "train.jsonl").read_text().splitlines()]
    answers = [{"id": q["id"], "completions": [q["answer"], "?"]} for q in questions]
    (home / "measured.json").write_text(json.dumps({"answers": answers}))
    code = home / "code" / "my_rules"
    code.mkdir(parents=True)
    (code / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (code / "words.py").write_text(RULE.format(1.0))
    monkeypatch.syspath_prepend(home / "code")
    job = {
        "steps": 4,
        "model": {"path": "model", "max_context": 256},
        "data": {
            "train": "data/train.jsonl",
            "evaluation": "data/heldout.jsonl",
            "curriculum": {"measured": "measured.json"},
        },
        "rollout": {"max_tokens": 8},
        "reward": {"functions": {"accuracy": 1.0, "my_rules.words:rule": 1.0}, "allowed_modules": ["my_rules"]},
    }
    (home / "job.yaml").write_text(yaml.safe_dump(job))
    return home


def job_of(home: Path) -> JobSpec:
    return resolve_paths(read_spec(home / "job.yaml"), home)


def begun(home: Path) -> RunDirectory:
    """Begin the run and stop it where Ray starts; then write what two steps would have left."""
    result = CliRunner().invoke(app, ["run", str(home / "job.yaml"), "--run-dir", str(home / "run")])
    assert "earshot: StoppedError" in result.output
    run = RunDirectory(home / "run")
    for step in (1, 2, 3):
        run.append_metrics({"step": step})
        if step == 2:
            checkpoints = checkpoints_of(run, job_of(home))
            checkpoints.begin(2)
            rates = {"train:0": SolveRate(3, 4)}
            state = RunState(step=2, position=4, offsets=run.offsets(), solve_rates=rates)
            checkpoints.commit(2, state.to_dict())
    return run


def resumed(home: Path, *options: str) -> tuple[int | None, str]:
    """Resume the run. Returns the exit code, None if it came to the point where Ray starts, and what it printed."""
    arguments = ["run", str(home / "job.yaml"), "--resume", "--run-dir", str(home / "run"), *options]
    result = CliRunner().invoke(app, arguments)
    return None if "earshot: StoppedError" in result.output else result.exit_code, result.output


def recorded(run: RunDirectory) -> RecordedInputs:
    found = recorded_inputs(run)
    assert found is not None
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def other_answers(home: Path) -> None:
    """Replace the training questions by as many others about the same clips, under the same ids."""
    file = home / "data" / "train.jsonl"
    questions = [json.loads(line) for line in file.read_text().splitlines()]
    for q in questions:
        q |= {"answer": next(choice for choice in q["choices"] if choice != q["answer"])}
    file.write_text("".join(json.dumps(q) + "\n" for q in questions))


def one_more(home: Path) -> None:
    file = home / "data" / "train.jsonl"
    last = json.loads(file.read_text().splitlines()[-1])
    with file.open("a") as lines:
        lines.write(json.dumps(last | {"id": "another"}) + "\n")


def other_sound(home: Path) -> None:
    """Give a clip another sound of the same length."""
    train = json.loads((home / "data" / "train.jsonl").read_text().splitlines()[2])
    file = home / "data" / train["audio"]
    sound = file.read_bytes()
    file.write_bytes(sound[:44] + sound[:43:-1])
    assert file.stat().st_size == len(sound)
    assert soundfile.read(file)[0].shape == soundfile.read(io.BytesIO(sound))[0].shape


def other_weights(home: Path) -> None:
    """Train one matrix: all files keep their sizes and headers."""
    file = home / "model" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("layers.1.self_attn.q_proj.weight"))
    tensors[name] = tensors[name] + 1e-3
    save_file(tensors, file, metadata={"format": "pt"})


def other_template(home: Path) -> None:
    file = home / "model" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 99}))


def first_question_out(home: Path) -> None:
    file = home / "data" / "heldout.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


def other_rates(home: Path) -> None:
    file = home / "measured.json"
    file.write_text(file.read_text().replace('"?"', '"!", "?"', 1))


def other_code(home: Path) -> None:
    (home / "code" / "my_rules" / "words.py").write_text(RULE.format(0.5))


def other_code_beside(home: Path) -> None:
    (home / "code" / "my_rules" / "parts.py").write_text("WEIGHT = 2\n")
