"""A fake driver that writes the files the service reads, and a runner that starts it as a process.

As a program: `fake_driver.py FOLDER RUN_DIR SUBMISSION_ID`. It ends when FOLDER contains `finish` or `finish-JOB`, with
the exit code in that file, and writes a checkpoint on command, or fails the command where FOLDER contains `evaluates`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def drive(folder: Path, run_dir: Path, submission_id: str) -> int:
    events, commands = run_dir / "events.jsonl", run_dir / "commands.jsonl"

    def append(kind, **detail):
        with events.open("a") as file:
            file.write(json.dumps({"time": "2026-01-01T00:00:00.000+00:00", "kind": kind, **detail}) + "\n")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    append("attempt", submission_id=submission_id, pid=os.getpid())
    append("state", state="starting")
    append("state", state="running")
    print(f"driver {submission_id} at work", flush=True)
    done, step = 0, 0
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = commands.read_text().splitlines() if commands.exists() else []
        for line in lines[done:]:
            command = json.loads(line)
            if command["kind"] == "checkpoint" and (folder / "evaluates").exists():
                append("command_failed", id=command["id"], command="checkpoint", reason="it writes none")
                continue
            append("command", id=command["id"], command=command["kind"], count=command["count"], by=command["by"])
            if command["kind"] == "checkpoint":
                step += 1
                append("checkpoint", step=step, path="nowhere")
            if command["kind"] in ("pause", "resume"):
                append("state", state="paused" if command["kind"] == "pause" else "running")
        done = len(lines)
        for name in ("finish", f"finish-{submission_id.rpartition('-')[0]}"):
            if (folder / name).exists():
                code = int((folder / name).read_text())
                if code == 1:
                    append("error", error="LearnerError", message="it does not learn")
                append("state", state="succeeded" if code == 0 else "failed")
                return code
        time.sleep(0.02)
    return 99


if __name__ == "__main__":
    home = Path(sys.argv[1]) / "drivers" / sys.argv[3]
    try:
        home.mkdir()
    except FileExistsError:  # this submission was started before
        sys.exit(0)
    (home / "pid.new").write_text(str(os.getpid()))
    (home / "pid.new").rename(home / "pid")
    code = 77
    try:
        code = drive(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    except SystemExit as error:
        code = error.code
    finally:
        (home / "exit.new").write_text(str(code))
        (home / "exit.new").rename(home / "exit")
else:
    import psutil

    from orchestrator.cluster.inventory import ClusterUnavailableError
    from orchestrator.service.supervision.limits import Capacity
    from orchestrator.service.supervision.runner import Driver, DriverState

    class FolderRunner:
        """Runs drivers as processes, recorded in a folder: they outlive the process that started them."""

        def __init__(self, folder: Path, *, gpus: float = 0) -> None:
            self.folder, self.gpus = folder, gpus
            self.away = False
            """The cluster does not answer."""
            (folder / "drivers").mkdir(parents=True, exist_ok=True)

        async def start(self, submission_id: str, run_dir: Path) -> None:
            self._answer()
            if (self.folder / "drivers" / submission_id).exists():
                return
            command = [sys.executable, __file__, str(self.folder), str(run_dir), submission_id]
            with (run_dir / "driver.log").open("a") as log:
                subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

        async def status(self, submission_id: str) -> Driver:
            self._answer()
            home = self.folder / "drivers" / submission_id
            if not home.exists():
                return Driver(DriverState.UNKNOWN)
            # As in Ray, a driver has ended once its process has.
            if (home / "exit").exists() and not self.alive(submission_id):
                code = int((home / "exit").read_text())
                stopped = (home / "stopped").exists()
                return Driver(DriverState.STOPPED if stopped else DriverState.ENDED, None if stopped else code)
            if not (home / "pid").exists():
                return Driver(DriverState.PENDING)
            if not self.alive(submission_id):
                if (home / "exit").exists():
                    return await self.status(submission_id)
                return Driver(DriverState.ENDED, -9)
            return Driver(DriverState.RUNNING)

        async def stop(self, submission_id: str) -> None:
            self._answer()
            home = self.folder / "drivers" / submission_id
            if self.alive(submission_id):
                (home / "stopped").touch()
                os.kill(self.pid(submission_id), signal.SIGTERM)

        async def capacity(self) -> Capacity:
            self._answer()
            return Capacity(cpus=64, gpus=self.gpus)

        def pid(self, submission_id: str) -> int:
            return int((self.folder / "drivers" / submission_id / "pid").read_text())

        def alive(self, submission_id: str) -> bool:
            try:
                return psutil.Process(self.pid(submission_id)).status() != psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return False

        def started(self) -> list[str]:
            """Return every submission that was ever started."""
            return sorted(path.name for path in (self.folder / "drivers").iterdir())

        def finish(self, code: int = 0, job: str | None = None) -> None:
            """End all drivers, or those of one job, including future ones."""
            # Atomically: a driver that read an empty file would crash.
            (self.folder / "finish.new").write_text(str(code))
            (self.folder / "finish.new").rename(self.folder / ("finish" if job is None else f"finish-{job}"))

        def kill_all(self) -> None:
            for submission in self.started():
                if (self.folder / "drivers" / submission / "pid").exists() and self.alive(submission):
                    os.kill(self.pid(submission), signal.SIGKILL)

        def _answer(self) -> None:
            if self.away:
                raise ClusterUnavailableError("it does not answer")
