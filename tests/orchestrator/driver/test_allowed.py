"""A driver reads only what the service admitted, whatever the files have become since, at every start."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.runs.admitting import admitted, allowing

from orchestrator.driver import driver
from orchestrator.driver import main as driver_main
from orchestrator.job.allowed import Allowed
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, dump_spec
from orchestrator.run import exit_codes
from orchestrator.run.directory import RunDirectory
from orchestrator.run.files import ALLOWED


class StartedError(SpecError):
    """The driver has passed all checks."""


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise StartedError("the driver starts the job")

    monkeypatch.setattr(driver, "ray_session", fail)


@pytest.fixture
def web(tiny_folder: Path, benchmark_home: Path) -> Iterator[tuple[str, list[str]]]:
    """A server on this machine that has a clip; its URL, and the paths that were asked for."""
    clip = next((benchmark_home / "audio").rglob("*.wav"), None) or next(benchmark_home.rglob("*.wav"))
    sound, asked = clip.read_bytes(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(sound)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(sound)

        do_HEAD = do_GET  # noqa: N815  # the name is the library's

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


class Job:
    """An admitted job, with its files under a root."""

    def __init__(self, home: Path, model: Path, benchmark: Path) -> None:
        self.home, self.root, self.outside = home, home / "root", home / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        lines = (benchmark / "train.jsonl").read_text().splitlines()
        self.items = [json.loads(line) for line in lines[:3]]
        for item in self.items:
            sound = (benchmark / item["audio"]).read_bytes()
            for folder in (self.root, self.outside):
                (folder / Path(item["audio"]).name).write_bytes(sound)
            item["audio"] = Path(item["audio"]).name
        self.write(self.items)
        (self.outside / "train.jsonl").write_text((self.root / "train.jsonl").read_text())
        self.model = model
        self.run: RunDirectory | None = None

    def write(self, items: list[dict[str, Any]]) -> None:
        (self.root / "train.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))

    def admit(self, allowed: Allowed | None = None, **changes: Any) -> None:
        """Admit the job, and make its run directory as the service does."""
        spec = JobSpec.model_validate(
            {
                "steps": 2,
                "model": {"path": str(self.model), "max_context": 256},
                "data": {"train": str(self.root / "train.jsonl"), **changes.pop("data", {})},
                "rollout": {"max_tokens": 8},
                **changes,
            }
        )
        allowed = allowed or allowing(self.root, self.model)
        found = admitted(spec, allowed)
        self.run = RunDirectory.create(self.home / "run", dump_spec(found.spec))
        (self.run.path / ALLOWED).write_text(allowed.of_job(found.spec, found.uses).dump())

    def start(self) -> tuple[int, str]:
        """Run the driver up to the start of the job; return its exit code and the message of its last event."""
        assert self.run is not None
        code = driver_main.main(self.run.path, "j-1")
        last = self.run.events()[-1]
        return code, str(last.get("message", last))

    def refused(self) -> str:
        """Start the driver, which must refuse the job; return why."""
        code, message = self.start()
        assert code == exit_codes.BAD_INPUT, message
        assert "\n" not in message
        return message

    def starts(self) -> None:
        code, message = self.start()
        assert code != exit_codes.BAD_INPUT, message


@pytest.fixture
def job(tmp_path: Path, tiny_folder: Path, benchmark_home: Path) -> Job:
    return Job(tmp_path, tiny_folder, benchmark_home)


def test_an_admitted_job_starts(job: Job) -> None:
    job.admit()
    job.starts()
    job.starts()


@pytest.mark.parametrize("restarted", [False, True])
def test_no_clip_is_fetched_that_the_questions_name_later(
    job: Job, web: tuple[str, list[str]], restarted: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EARSHOT_CACHE", str(tmp_path / "cache"))
    url, asked = web
    job.admit()
    if restarted:
        job.starts()
    job.write([item | {"audio": f"{url}/{item['audio']}"} for item in job.items])
    assert "URLs are not read here" in job.refused()
    job.write([*job.items[:2], job.items[2] | {"audio": f"{url}/1.wav"}])
    assert "URLs are not read here" in job.refused()
    assert asked == []
    # Without the service there is no such limit, so the server would have been asked.
    assert job.run is not None
    (job.run.path / ALLOWED).unlink()
    job.write([item | {"audio": f"{url}/{item['audio']}"} for item in job.items])
    job.start()
    assert asked


def test_no_clip_outside_the_roots_is_read_that_the_questions_name_later(job: Job) -> None:
    job.admit()
    for audio in (str(job.outside / job.items[0]["audio"]), f"../outside/{job.items[0]['audio']}"):
        job.write([job.items[0] | {"audio": audio}, *job.items[1:]])
        assert "not under the folders this service may read" in job.refused()
    job.write(job.items)
    clip = job.root / job.items[0]["audio"]
    clip.unlink()
    clip.symlink_to(job.outside / clip.name)
    assert "not under the folders this service may read" in job.refused()


@pytest.mark.parametrize("key", ["data.train", "data.audio_root", "data.curriculum.measured", "model.path"])
def test_no_link_leads_outside_that_was_admitted_with_another_target(job: Job, key: str) -> None:
    links = job.root / "links"
    links.mkdir()
    targets = {
        "data.train": "train.jsonl",
        "data.audio_root": "",
        "data.curriculum.measured": "samples.jsonl",
        "model.path": "model",
    }
    for folder in (job.root, job.outside):
        (folder / "samples.jsonl").write_text("")
        (folder / "model").mkdir()
        for file in job.model.iterdir():
            (folder / "model" / file.name).symlink_to(file)
    link = links / "link"
    link.symlink_to(job.root / targets[key])
    data = {"audio_root": str(job.root)} if key == "data.train" else {}
    data |= {"train": str(link)} if key == "data.train" else {}
    data |= {"audio_root": str(link)} if key == "data.audio_root" else {}
    data |= {"curriculum": {"measured": str(link)}} if key == "data.curriculum.measured" else {}
    model = {"path": str(job.root / "model") if key == "model.path" else str(job.model), "max_context": 256}
    job.admit(data=data, model=model)
    if key == "model.path":  # it is kept as the folder that it led to, whose files may still be replaced
        (job.root / "model" / "config.json").unlink()
        secret = job.outside / "secret"
        secret.write_text("password")
        (job.root / "model" / "config.json").symlink_to(secret)
    else:
        link.unlink()
        link.symlink_to(job.outside / targets[key])
    message = job.refused()
    assert message.startswith(f"{key}: ")
    assert "not under the folders this service may read" in message
    assert "password" not in message


def test_a_run_that_the_job_does_not_use_stays_closed(job: Job) -> None:
    for run in ("ours", "theirs"):
        (job.root / "service" / "runs" / run).mkdir(parents=True)
        for item in job.items:
            (job.root / "service" / "runs" / run / item["audio"]).write_bytes((job.root / item["audio"]).read_bytes())
    allowed = allowing(job.root, job.model, data_dir=job.root / "service")
    job.admit(allowed)
    job.write([item | {"audio": f"service/runs/theirs/{item['audio']}"} for item in job.items])
    assert "another owner's and not yours" in job.refused()
    assert job.run is not None
    (job.run.path / ALLOWED).write_text(replace(allowed, runs=("theirs",)).dump())
    job.starts()


def test_a_service_that_allows_less_now_ends_a_restarted_job(job: Job) -> None:
    functions = {"functions": {"support.runs.admitting:admitted": 1.0}, "allowed_modules": ["support.runs"]}
    allowed = replace(allowing(job.root, job.model), reward_modules=("support",), judge_hosts=("judge",))
    job.admit(allowed, reward=functions)
    job.starts()
    assert job.run is not None
    (job.run.path / ALLOWED).write_text(replace(allowed, reward_modules=()).dump())
    assert "reward.allowed_modules: this service does not allow 'support.runs'" in job.refused()
    (job.run.path / ALLOWED).write_text(replace(allowed, roots=(str(job.model),)).dump())
    assert "data.train: " in job.refused()


@pytest.mark.parametrize("damaged", ["", "{", "[]", "{}", '{"version": 2}', '{"version": 1, "roots": "/"}'])
def test_a_damaged_file_allows_nothing(job: Job, damaged: str) -> None:
    job.admit()
    assert job.run is not None
    (job.run.path / ALLOWED).write_text(damaged)
    assert "is damaged, so nothing is allowed" in job.refused()
