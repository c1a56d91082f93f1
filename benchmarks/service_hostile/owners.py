"""Two owners with folders, jobs and runs, all of which hold strings that nobody else may see."""

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.service_hostile.values import SPEC
from orchestrator.job.spec import JobSpec
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.files import DRIVER_LOG
from orchestrator.run.samples import Sample
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.access import Role
from orchestrator.service.store.credentials import new_token, token_hash
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import Store
from orchestrator.service.telemetry.samples import Samples


@dataclass(slots=True)
class Owner:
    """A user of the service: what an attacker knows of them, and the strings that they must not learn."""

    name: str
    token: str
    folder: Path
    """Their root. Others know its path, and the names of the files in it that have no secret."""
    jobs: dict[str, str] = field(default_factory=dict)
    """Ids of their jobs by state. Others know them."""
    run: Path = Path()
    """Run directory of the running job."""
    samples: list[str] = field(default_factory=list)
    """Ids of the samples of that job. Others know them."""
    key: str = ""
    """Idempotency key of the queued job. Others know it."""
    canaries: list[str] = field(default_factory=list)

    def secret(self) -> str:
        """Return a string that nobody else may see."""
        self.canaries.append(f"canary{secrets.token_hex(8)}")
        return self.canaries[-1]

    def paths(self) -> list[str]:
        """Return the paths of theirs that others know."""
        names = ("", "train.jsonl", "train.json", "secret.txt", "model", "clip.wav", "missing.jsonl")
        runs = ("", "samples.jsonl", DRIVER_LOG, "events.jsonl", "checkpoints/step-1", "job.yaml", "allowed.json")
        return [str(self.folder / name) for name in names] + [str(self.run / name) for name in runs]


async def make_owner(store: Store, name: str, folder: Path) -> Owner:
    """Create an owner with a token, files, and a job in each of some states."""
    owner = Owner(name, new_token(), folder)
    await store.create_token(name=name, owner=name, role=Role.SUBMITTER, token_hash=token_hash(owner.token))
    _write_files(owner)
    owner.key = f"key-of-{name}"
    queued = await _submit(store, owner, priority=-100, idempotency_key=owner.key)
    failed = await _submit(store, owner)
    await store.transition(failed.id, JobState.QUEUED, JobState.FAILED, cause=f"the model {owner.secret()} is broken")
    running = await _submit(store, owner)
    await store.transition(running.id, JobState.QUEUED, JobState.STARTING, attempt=1)
    await store.transition(running.id, JobState.STARTING, JobState.RUNNING)
    owner.jobs = {"queued": queued.id, "failed": failed.id, "running": running.id}
    owner.run = Path(running.run_dir)
    _write_run(owner)
    return owner


async def _submit(store: Store, owner: Owner, **more: Any) -> JobRecord:
    spec = JobSpec.model_validate({**SPEC, "name": owner.secret()})
    job, _ = await store.submit(spec, owner=owner.name, **more)
    return job


def question(clip: str, text: str = "What is heard?") -> dict[str, Any]:
    """Return one question of a question file."""
    return {"id": "q", "question": text, "choices": ["a", "b"], "answer": "a", "audio": clip}


def _write_files(owner: Owner) -> None:
    folder = owner.folder
    folder.mkdir(parents=True)
    name = f"{owner.secret()}.wav"
    for clip in (name, "clip.wav"):
        soundfile.write(folder / clip, np.zeros(16_000), 16_000)
    item = question(name, f"What does {owner.secret()} say?")
    (folder / "train.jsonl").write_text(json.dumps(item) + "\n")
    (folder / "train.json").write_text(json.dumps([item]))
    (folder / "secret.txt").write_text(owner.secret() + "\n")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": owner.secret()}))
    (folder / "model" / "model.safetensors").write_bytes(b"")
    os.mkfifo(folder / "pipe.jsonl")
    os.mkfifo(folder / "pipe.wav")
    with (folder / "huge.jsonl").open("wb") as file:
        file.truncate(3 * 2**30)


def _write_run(owner: Owner) -> None:
    run = RunDirectory.create(owner.run, "name: small\n")
    run.append_event(EventKind.STATE, state="running")
    run.append_event(EventKind.SCALED, before=0, target=2, reason=owner.secret())
    run.append_event(EventKind.DATA, note=owner.secret())
    run.append_metrics({"step": 1, "reward/mean": 0.5})
    text = owner.secret()
    run.append_samples(
        [
            Sample(
                1, f"{text}#{i}", i, f"Is it {text}?", ("a", text), "a", str(owner.folder / "clip.wav"), text,
                {"accuracy": 1.0}, 1.0, 0.0, True, None, "stop", 1, 1, "rollout-0",
            )
            for i in range(5)
        ]
    )  # fmt: skip
    owner.samples = [str(item["id"]) for item in Samples(owner.run).page(None, 10).items]
    (owner.run / DRIVER_LOG).write_text(f"starting {owner.secret()}\n")
    (owner.run / "checkpoints" / "step-1").mkdir(parents=True)
    (owner.run / "checkpoints" / "step-1" / "config.json").write_text(json.dumps({"x": owner.secret()}))


def write_traps(owner: Owner, other: Owner, data_dir: Path) -> list[str]:
    """Write question files into an owner's root that lead to what they may not read; return the paths."""
    targets = [
        *other.paths(), "/etc/passwd", "/proc/self/environ", "/proc/self/mem", "/dev/zero", "/dev/stdin",
        "http://127.0.0.1:1/clip.wav", "file:///etc/passwd", "pipe.wav", "../../../etc/passwd", "a" * 5000,
        str(data_dir / "earshot.db"), str(data_dir / "service.lock"), "\x00", "huge.jsonl",
    ]  # fmt: skip
    traps = []
    for number, target in enumerate(targets):
        trap = owner.folder / f"trap{number}.jsonl"
        trap.write_text(json.dumps(question(target)) + "\n")
        traps.append(str(trap))
        if "\x00" not in target and len(target) < 200:
            link = owner.folder / f"link{number}.jsonl"
            link.symlink_to(target)
            traps.append(str(link))
    own = ("pipe.jsonl", "huge.jsonl", "clip.wav", "model", "secret.txt", "trap0.jsonl/../../x")
    outside = (
        "/proc/self/environ",
        "/dev/zero",
        "/etc/passwd",
        "/etc",
        "/",
        "//etc/passwd",
        "http://127.0.0.1:1/x.jsonl",
    )
    databases = [str(data_dir / name) for name in ("earshot.db", "earshot.db-wal", "service.lock", "runs", "")]
    return [*traps, *(str(owner.folder / name) for name in own), *outside, *databases, *other.paths()]
