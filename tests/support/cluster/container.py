"""A container without a container: a command that is started again when it ends, and ends as a pod does."""

import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil


class Container:
    """Its first process, and whatever that started."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path, grace: float) -> None:
        """
        Args:
            folder: where it runs, and where its log is.
            grace: seconds between SIGTERM and SIGKILL.
        """
        self.name, self.grace = name, grace
        self._command, self._environment, self._folder = command, environment, folder
        self.log_file = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._family: set[psutil.Process] = set()
        self._wanted = False
        self._begun = 0

    def start(self) -> None:
        self._wanted = True
        self._begun = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )

    def tend(self) -> None:
        """As a kubelet does: when its first process has ended, all of it has, and it is started again."""
        if self._process is None:
            return
        self._look()
        if self._process.poll() is not None:
            self._kill_family()
            if self._wanted:
                self.start()

    def stop(self) -> int:
        """SIGTERM to its first process, and SIGKILL to all of it when the grace is over; the exit code."""
        assert self._process is not None
        self._wanted = False
        self._look()
        self._process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self.grace
        while self._process.poll() is None and time.monotonic() < deadline:
            self._look()
            time.sleep(0.1)
        self.kill()
        return self._process.wait(timeout=30)

    def kill(self) -> None:
        """All of it at once, as the loss of its machine."""
        self._wanted = False
        if self._process is not None:
            self._look()
            self._kill_family()
            self._process.wait(timeout=30)

    def says(self, words: str) -> bool:
        """Whether it has said something since it was started last."""
        return words in self.log_file.read_bytes()[self._begun :].decode(errors="replace")

    def runs(self) -> bool:
        """Whether its first process does."""
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float) -> int:
        """The exit code with which it ends by itself; it is not started again."""
        assert self._process is not None
        self._wanted = False
        return self._process.wait(timeout=seconds)

    def left(self) -> list[str]:
        """Whatever runs of it."""
        return [f"{p.pid} {_command(p)}" for p in self._family if _runs(p)]

    def said(self) -> str:
        """The end of its log."""
        return f"{self.name}\n{self.log_file.read_text(errors='replace')[-1500:] if self.log_file.exists() else ''}"

    def _look(self) -> None:
        """Note who belongs to it: who has lost its parent is found no more later."""
        assert self._process is not None
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            self._family |= {first, *first.children(recursive=True)}

    def _kill_family(self) -> None:
        for process in self._family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        deadline = time.monotonic() + 30
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, left


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:200]
    except psutil.Error:
        return ""


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
