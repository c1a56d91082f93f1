"""The state of a run, folded from its events: the one reading of `events.jsonl` that driver, supervisor and API share.

Invariants: `fold` is pure, and ignores kinds and fields it does not know. `HistoryReader` folds every event once, and
starts over when the file is truncated or replaced (a run directory that was lost and fetched from its storage).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.run.commands import CommandKind
from orchestrator.run.events import PREEMPTION, EventKind
from orchestrator.run.files import EVENTS
from orchestrator.run.lines import LineReader
from orchestrator.run.records import RunDirectoryError
from orchestrator.schemas.job_state import ENDED, JobState

Event = Mapping[str, Any]

UNREADABLE = "unreadable"
"""Kind under which lines that are not events are counted."""

_WORKER_STATES = {
    EventKind.WORKER_PENDING: "pending",
    EventKind.WORKER_WITHDRAWN: "pending",
    EventKind.WORKER_STARTED: "serving",
    EventKind.WORKER_DRAINING: "draining",
    EventKind.WORKER_DRAINED: "stopping",
    EventKind.WORKER_LOST: "lost",
    EventKind.WORKER_RESTART: "restarting",
    EventKind.WORKER_KILLED: "lost",
}
_WITHOUT_PROCESS = frozenset({EventKind.WORKER_RESTART, EventKind.WORKER_LOST, EventKind.WORKER_WITHDRAWN})


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """A rollout worker after its last event."""

    name: str
    state: str
    """pending (no room on the cluster yet), serving, draining, stopping, lost, restarting."""
    since: str
    """Time of the event that led to the state: ISO 8601 in UTC."""
    node: str | None = None
    pid: int | None = None
    restarts: int = 0
    cause: str | None = None
    """Why it was lost."""


@dataclass(frozen=True, slots=True)
class RunHistory:
    """A run after its last event."""

    attempts: int = 0
    """Drivers that started under the service."""
    unproductive: int = 0
    """Those of them that started after the last checkpoint."""
    submission_id: str | None = None
    """Ray job of the last driver."""
    pid: int | None = None
    state: str | None = None
    """State that the last driver reported; None before its first."""
    error: str | None = None
    """Error that ended the last driver, in one line."""
    recoveries: int = 0
    """Times that learner ranks were lost and restarted."""
    target: int | None = None
    """Rollout workers wanted."""
    workers: Mapping[str, WorkerSnapshot] = field(default_factory=dict)
    """Rollout workers by name."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Number of events by kind."""
    evaluation: Mapping[str, Any] | None = None
    """Last evaluation: step, accuracy, silence_accuracy, …"""
    step: int = 0
    """Step of the last checkpoint."""
    saving: Mapping[str, str] = field(default_factory=dict)
    """Sender by id of the checkpoint commands whose checkpoint is due."""
    saved: frozenset[str] = frozenset()
    """Ids of checkpoint commands whose checkpoint has been written."""
    commands: frozenset[str] = frozenset()
    """Ids of all commands that were carried out or failed."""
    failed: frozenset[str] = frozenset()
    """Ids of those that failed."""
    refused: frozenset[str] = frozenset()
    """Lines of the command file that were refused."""
    requested_workers: int | None = None
    """Rollout workers last requested by a command."""
    pause_requested: bool = False
    """The last pause or resume command was a pause; those of a preemption do not count."""
    pausing: str | None = None
    """Id of a pause command that was carried out while the job has not paused yet."""

    @property
    def due(self) -> Mapping[str, CommandKind]:
        """Kind by id of the commands that were carried out and whose effect has not come yet."""
        checkpoints = dict.fromkeys(self.saving, CommandKind.CHECKPOINT)
        return checkpoints if self.pausing is None else {**checkpoints, self.pausing: CommandKind.PAUSE}


def fold(history: RunHistory, events: Iterable[Event]) -> RunHistory:
    """Return the history after some more events."""
    counts = dict(history.counts)
    # Sets that grow with every command are joined once: a job may be sent thousands.
    commands, failed, refused = set[str](), set[str](), set[str]()
    for event in events:
        kind = str(event.get("kind"))
        counts[kind] = counts.get(kind, 0) + 1
        match event:
            case {"kind": EventKind.COMMAND, "id": str(identifier)}:
                commands.add(identifier)
            case {"kind": EventKind.COMMAND_FAILED, "id": str(identifier)}:
                commands.add(identifier)
                failed.add(identifier)
            case {"kind": EventKind.BAD_COMMAND, "line": str(line)}:
                refused.add(line)
        history = _after(history, kind, event)
    return replace(
        history,
        counts=counts,
        commands=history.commands | commands,
        failed=history.failed | failed,
        refused=history.refused | refused,
    )


def history_of(events: Iterable[Event]) -> RunHistory:
    """Return the history after all of some events."""
    return fold(RunHistory(), events)


def _after(history: RunHistory, kind: str, event: Event) -> RunHistory:
    """Return the history after one event, without its count."""
    match event:
        case {"kind": EventKind.ATTEMPT, "submission_id": str(submission), "pid": int(pid)}:
            history = replace(history, attempts=history.attempts + 1, submission_id=submission, pid=pid)
            history = replace(history, unproductive=history.unproductive + 1)
            # A preemption ends with the driver that it stops.
            saving = {id_: by for id_, by in history.saving.items() if by != PREEMPTION}
            history = replace(history, state=None, error=None, saving=saving)
        case {"kind": EventKind.STATE, "state": str(state)}:
            history = _enter(history, state)
        case {"kind": EventKind.ERROR, "error": str(error), "message": str(message)}:
            history = replace(history, error=f"{error}: {message}")
        case {"kind": EventKind.COMMAND, "id": str(identifier)}:
            history = _command(history, identifier, event)
        case {"kind": EventKind.COMMAND_FAILED, "id": str(identifier)}:
            saving = {id_: by for id_, by in history.saving.items() if id_ != identifier}
            history = replace(history, saving=saving)
            if history.pausing == identifier:
                history = replace(history, pausing=None, pause_requested=False)
        case {"kind": EventKind.CHECKPOINT, "step": int(step)}:
            history = _checkpoint(history, step, event.get("commands"))
        case {"kind": EventKind.EVALUATION}:
            found = event.get("result")
            result = found if isinstance(found, dict) else {}
            history = replace(history, evaluation={"step": event.get("step"), **result})
        case {"kind": EventKind.SCALED, "target": int(target)}:
            history = replace(history, target=target)
        case {"kind": EventKind.WORKER_LEFT}:
            left = str(event.get("worker"))
            history = replace(history, workers={name: w for name, w in history.workers.items() if name != left})
        case _ if kind in _WORKER_STATES:
            history = _worker(history, EventKind(kind), event)
    return history


class HistoryReader:
    """Follows the events of one run."""

    def __init__(self, run_dir: Path, *, strict: bool) -> None:
        """
        Args:
            strict: raise RunDirectoryError for a line that is not JSON, at each read; otherwise count it.
        """
        self._strict = strict
        self._history = RunHistory()
        self._reader = LineReader(run_dir / EVENTS, on_restart=self._start_over)

    def read(self) -> RunHistory:
        """Return the current history; the empty one while there is no file."""
        for block in self._reader.blocks():
            self._history = fold(self._history, map(self._parse, block[:-1].split(b"\n")))
        return self._history

    def _start_over(self) -> None:
        self._history = RunHistory()

    def _parse(self, line: bytes) -> Event:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            if self._strict:
                raise RunDirectoryError(self._reader.path, f"has a line that is not an event ({error})") from error
            event = None
        # A bad line must not hide what a job does.
        return event if isinstance(event, dict) else {"kind": UNREADABLE}


def _enter(history: RunHistory, state: str) -> RunHistory:
    history = replace(history, state=state, recoveries=history.recoveries + (state == JobState.RECOVERING))
    if state == JobState.STARTING:
        # A new driver has none of the workers of the one before.
        return replace(history, workers={}, target=None, error=None)
    if state == JobState.PAUSED:
        return replace(history, pausing=None)
    return replace(history, workers={}) if state in ENDED else history


def _command(history: RunHistory, identifier: str, event: Event) -> RunHistory:
    match event:
        case {"command": CommandKind.CHECKPOINT}:
            return replace(history, saving={**history.saving, identifier: str(event.get("by"))})
        case {"by": by} if by == PREEMPTION:
            return history
        case {"command": CommandKind.SCALE, "count": int(count)}:
            return replace(history, requested_workers=count)
        case {"command": CommandKind.PAUSE}:
            pausing = None if history.state == JobState.PAUSED else identifier
            return replace(history, pause_requested=True, pausing=pausing)
        case {"command": CommandKind.RESUME}:
            return replace(history, pause_requested=False, pausing=None)
    return history


def _checkpoint(history: RunHistory, step: int, commands: object) -> RunHistory:
    """Return the history after a checkpoint. One of an earlier version of Earshot answers all commands."""
    named = {id_ for id_ in commands if isinstance(id_, str)} if isinstance(commands, list) else set(history.saving)
    saving = {id_: by for id_, by in history.saving.items() if id_ not in named}
    return replace(history, saved=history.saved | named, saving=saving, step=step, unproductive=0)


def _worker(history: RunHistory, kind: EventKind, event: Event) -> RunHistory:
    name = str(event.get("worker"))
    before = history.workers.get(name)
    restart, ended = kind is EventKind.WORKER_RESTART, kind in _WITHOUT_PROCESS
    worker = WorkerSnapshot(
        name=name,
        state=_WORKER_STATES[kind],
        since=str(event.get("time")),
        node=event.get("node", before.node if before else None),
        pid=event.get("pid", before.pid if before and not ended else None),
        restarts=(before.restarts if before else 0) + restart,
        cause=event.get("cause", before.cause if before and restart else None),
    )
    return replace(history, workers={**history.workers, name: worker})
