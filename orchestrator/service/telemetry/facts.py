"""What a run's events say of it now: its state, its workers, its last evaluation, what went wrong.

Invariant: every event is read once; asking again reads what has come since.
"""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.run.lines import LONGEST_LINE, lines_after, size_of

# What an event of the pool says of its worker.
_STATES = {
    "worker_pending": "pending",
    "worker_started": "serving",
    "worker_draining": "draining",
    "worker_drained": "stopping",
    "worker_lost": "lost",
    "worker_restart": "restarting",
    "worker_killed": "lost",
}


@dataclass(frozen=True, slots=True)
class WorkerFact:
    """A rollout worker."""

    name: str
    state: str
    """pending (no room on the cluster yet), serving, draining, stopping, lost, restarting."""
    since: str
    """When it came to that state: ISO 8601 in UTC."""
    node: str | None = None
    pid: int | None = None
    restarts: int = 0
    cause: str | None = None
    """Why it was lost."""


@dataclass(slots=True)
class RunFacts:
    """As of the last event."""

    state: str | None = None
    """The driver's own word for it; the service's may differ."""
    target: int | None = None
    """Rollout workers that are wanted."""
    workers: dict[str, WorkerFact] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """How often each kind of event was."""
    evaluation: dict[str, Any] | None = None
    """The last: step, accuracy, silence_accuracy, …"""
    error: str | None = None
    """What ended the driver."""

    def copy(self) -> "RunFacts":
        """As of now, while this one goes on."""
        return replace(self, workers=dict(self.workers), counts=dict(self.counts))

    def take(self, event: dict[str, Any]) -> None:
        """Go on by one event; of unknown ones only the kind counts."""
        kind = str(event.get("kind"))
        self.counts[kind] = self.counts.get(kind, 0) + 1
        match kind:
            case "state":
                self.state = str(event.get("state"))
                if self.state == "starting":
                    # Another driver, and none of the workers of the one before.
                    self.workers.clear()
                    self.target, self.error = None, None
                elif self.state in {"succeeded", "failed", "cancelled"}:
                    self.workers.clear()
            case "scaled":
                self.target = event.get("target")
            case "evaluation":
                self.evaluation = {"step": event.get("step")} | dict(event.get("result") or {})
            case "error":
                self.error = f"{event.get('error')}: {event.get('message')}"
            case "worker_left":
                self.workers.pop(str(event.get("worker")), None)
            case _ if kind in _STATES:
                self._worker(kind, event)

    def _worker(self, kind: str, event: dict[str, Any]) -> None:
        name = str(event.get("worker"))
        before = self.workers.get(name)
        restarts = before.restarts if before else 0
        self.workers[name] = WorkerFact(
            name=name,
            state=_STATES[kind],
            since=str(event.get("time")),
            node=event.get("node", before.node if before else None),
            pid=event.get("pid", before.pid if before and kind not in {"worker_restart", "worker_lost"} else None),
            restarts=restarts + (kind == "worker_restart"),
            cause=event.get("cause", before.cause if before and kind == "worker_restart" else None),
        )


class Facts:
    """Of the runs that were asked for last. Safe to use from several threads."""

    def __init__(self, most: int = 2000) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, tuple[int, RunFacts]] = OrderedDict()

    def knows(self, run_dir: Path) -> bool:
        """Whether the run was asked for not long ago."""
        return run_dir / "events.jsonl" in self._kept

    def of(self, run_dir: Path) -> RunFacts:
        """What the events of a run say; nothing where there are none."""
        path = run_dir / "events.jsonl"
        with self._lock:
            place, facts = self._kept.pop(path, (0, RunFacts()))
            size = size_of(path)
            if size < place:
                place, facts = 0, RunFacts()
            while size > place:
                lines = lines_after(path, place, limit=100_000, most_bytes=LONGEST_LINE)
                if not lines:
                    break
                for line in lines:
                    facts.take(_event(line.text))
                place = lines[-1].end
            self._kept[path] = (place, facts)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return facts.copy()


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        event = None
    # One bad line must not hide what a job does: it is counted under a kind of its own.
    return event if isinstance(event, dict) else {"kind": "unreadable"}
