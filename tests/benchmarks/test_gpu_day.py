"""The check of a machine with a GPU: its parts really run, with a tiny model, as far as a CPU allows."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from audio_qa.chat import banned_token_ids
from benchmarks.gpu_day import process
from benchmarks.gpu_day.__main__ import main, reason_to_skip, run_parts
from benchmarks.gpu_day.inputs import widened
from benchmarks.gpu_day.job import job_document
from benchmarks.gpu_day.plan import PARTS, Home, Part, Plan, findings_file
from benchmarks.gpu_day.process import BARE, has_ray, run_part
from benchmarks.support.learner_workload import small_processor
from orchestrator.driver.session import worker_settings
from orchestrator.job.spec_file import parse_spec

ROOT = BARE.parents[2]


def check(*arguments: object, code: int = 0, bare: bool = False) -> dict[str, dict]:
    """Run the check with a tiny model; return what it says of each part."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    if bare:
        environment["PYTHONPATH"] = str(BARE)
    command = [sys.executable, "-m", "benchmarks.gpu_day", "--small", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    print(done.stderr)
    parts = document["details"]["parts"]
    assert document["value"] == sum(part["status"] == "passed" for part in parts.values())
    assert document["details"]["passed"] == (code == 0)
    return parts


def assert_update(found: dict) -> None:
    """Fail unless an update met requests in flight, and the engine has the learner's weights."""
    assert found["status"] == "passed", found["cause"]
    assert set(found["measured"]["tokens_by_version"]) == {"0", "1"}
    assert found["measured"]["completions_of_both_versions"] > 0
    assert found["measured"]["gap_nats"]["maximum"] < 1e-4 < found["measured"]["moved_nats"]["mean"]
    assert found["checks"]["wrong_bytes_refused"]


@pytest.mark.timeout(300)
def test_an_update_in_flight_where_ray_is_not_installed(tmp_path):
    """The engine and the learner run with a stand-in for Ray; what needs it, or a GPU, is skipped with the reason."""
    output = tmp_path / "result.json"
    parts = check("--parts", "sleep,shared_memory,cuda_ipc,job", "--output", output, bare=True)
    assert_update(parts["shared_memory"])
    assert {name: part["cause"] for name, part in parts.items() if part["status"] == "skipped"} == {
        "sleep": "it needs a GPU",
        "cuda_ipc": "it needs a GPU",
        "job": "it needs Ray, which is not installed",
    }
    assert json.loads(output.read_text())["details"]["parts"].keys() == parts.keys()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_check_on_a_cpu():
    parts = check("--steps", 3)
    passed = {name for name, part in parts.items() if part["status"] == "passed"}
    assert passed == {"model", "engine", "gaps", "shared_memory", "job", "rates"}
    assert_update(parts["shared_memory"])
    assert parts["gaps"]["measured"]["nats"]["maximum"] < 1e-4
    assert parts["engine"]["measured"]["arguments"]["max_model_len"] == "384"
    cases = parts["rates"]["measured"]["cases"]
    assert {(case["sequences"], case["seeded"]) for case in cases} == {(n, s) for n in (1, 8) for s in (True, False)}
    phases = parts["job"]["measured"]["phases"]
    assert all(len(values) == 3 for values in phases.values())
    assert min(phases["time/learn"]) > 0


def test_a_part_that_hangs_is_ended_at_its_deadline(tmp_path):
    Plan(small=True, device="cpu").write(tmp_path)
    started = time.monotonic()
    outcome = run_part(PARTS[0], tmp_path, 0.3, print)
    assert (outcome.status, outcome.cause) == ("failed", "not done after 0 s")
    assert time.monotonic() - started < 20


def test_a_part_that_fails_names_its_error(tmp_path):
    Plan(small=True, device="cpu").write(tmp_path)
    outcome = run_part(Part("nothing", "", 60), tmp_path, 60, print)
    assert (outcome.status, outcome.cause) == ("failed", "KeyError: 'nothing'")
    assert any("Traceback" in line for line in outcome.log)


def test_a_part_whose_process_dies_names_its_exit_code(tmp_path, monkeypatch):
    Plan(small=True, device="cpu").write(tmp_path)
    # What an earlier run left in the folder is not this one's.
    findings_file(tmp_path, "model").write_text(json.dumps({"checks": {"written": True}, "measured": {}}))
    monkeypatch.setattr(process.sys, "executable", "false")
    outcome = run_part(PARTS[0], tmp_path, 60, print)
    assert (outcome.status, outcome.cause) == ("failed", "its process ended with exit code 1")


def test_without_a_model_nothing_else_is_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(process.sys, "executable", "false")
    with pytest.raises(SystemExit) as ended:
        main(["--small", "--parts", "gaps,rates", "--home", str(tmp_path)])
    assert ended.value.code == 1
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    parts = document["details"]["parts"]
    assert (document["value"], document["details"]["passed"]) == (0, False)
    assert parts["model"]["cause"] == "its process ended with exit code 1"
    assert [parts[name]["cause"] for name in ("gaps", "rates")] == ["there is no model"] * 2


def test_parts_that_do_not_fit_into_the_deadline_are_not_started(tmp_path):
    plan = Plan(small=True, device="cpu")
    started = time.monotonic()
    outcomes = run_parts(PARTS[:2], plan, tmp_path, 1, print)
    assert time.monotonic() - started < 1
    assert [outcome.cause for outcome in outcomes] == ["not started: the 1 s in all were over", "there is no model"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "engines"], "unknown part engines"),
        (["--engine", "max_num_seqs=3"], "set rollout.max_concurrent"),
        (["--engine", "enforce_eager"], "has no '='"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--small", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_on_a_gpu_with_ray_every_part_runs():
    assert has_ray()
    plan = Plan(small=False, device="cuda")
    assert not [part.name for part in PARTS if reason_to_skip(part, plan, ray=True)]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_engines_are_those_of_the_job(tmp_path, device):
    """Parts without Ray start engines with the settings that the driver makes from the job file."""
    engine = {"enforce_eager": True, "dtype": "float16"} if device == "cuda" else {}
    home = Home(tmp_path, Plan(small=True, device=device, engine=engine), "job")
    spec = parse_spec(job_document(home), "job")
    made = worker_settings(SimpleNamespace(spec=spec, model_folder=str(home.model)))
    ours = home.worker_settings()
    # The driver divides the machine's cores among the workers, unless the job says otherwise.
    assert (made.threads == ours.threads) == (device == "cpu")
    assert {name: getattr(made, name) for name in made.__slots__ if name != "threads"} == {
        name: getattr(ours, name) for name in ours.__slots__ if name != "threads"
    }


def test_every_row_of_a_published_head_has_a_token():
    tokenizer = small_processor().tokenizer
    wide = widened(tokenizer, 2000)
    assert len(wide) == 2000
    text = "Which instrument is playing? <answer>flute</answer>"
    assert wide(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (wide.eos_token_id, wide.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert banned_token_ids(wide, 2000, [wide.eos_token_id]) == banned_token_ids(
        tokenizer, len(tokenizer), [tokenizer.eos_token_id]
    )
    assert len(wide.decode([1500, 1501, 1502]).split()) == 2
