"""A stand-in for a container: a command that is restarted when it ends, and stopped as a pod is."""

import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil


class Container:
    """A container's main process and its descendants."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path, grace: float) -> None:
        """
        Args:
            folder: working directory, which also holds the log.
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
        """Restart it if its main process has ended, as a kubelet does."""
        if self._process is None:
            return
        self._look()
        if self._process.poll() is not None:
            self._kill_family()
            if self._wanted:
                self.start()

    def stop(self) -> int:
        """Send SIGTERM to the main process, and SIGKILL to all after the grace period; return the exit code."""
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
        """Kill every process at once, as the loss of the machine would."""
        self._wanted = False
        if self._process is not None:
            self._look()
            self._kill_family()
            self._process.wait(timeout=30)

    def says(self, words: str) -> bool:
        """Return whether its log holds this text since the last start."""
        return words in self.log_file.read_bytes()[self._begun :].decode(errors="replace")

    def runs(self) -> bool:
        """Return whether its main process is running."""
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float) -> int:
        """Wait until it ends by itself, without a restart; return the exit code."""
        assert self._process is not None
        self._wanted = False
        return self._process.wait(timeout=seconds)

    def left(self) -> list[str]:
        """Return the processes that are running."""
        return [f"{p.pid} {_command(p)}" for p in self._family if _runs(p)]

    def said(self) -> str:
        """Return the end of the log."""
        return f"{self.name}\n{self.log_file.read_text(errors='replace')[-1500:] if self.log_file.exists() else ''}"

    def _look(self) -> None:
        """Record its processes: one that has lost its parent cannot be found later."""
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
