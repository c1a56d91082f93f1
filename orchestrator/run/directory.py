"""A run directory: what a run leaves behind, in files that other people's scripts read.

Invariant: every file but the last line of a `.jsonl` is whole at any moment, also when the writer is killed. A line is
one write to a file opened for appending; other files are replaced by renaming. JSON is strict (no NaN, no Infinity:
null), floats are written with `repr` and keys in a fixed order, so equal runs leave equal bytes.

One process writes a run directory at a time; any number may read it meanwhile.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.run.metrics import METRIC_NAMES
from orchestrator.run.records import (
    RunDirectoryError,
    current_steps,
    json_text,
    record_of,
    replace_file,
    torn_bytes,
    whole_lines,
)
from orchestrator.run.samples import Sample

_METRICS, _SAMPLES, _EVENTS = "metrics.jsonl", "samples.jsonl", "events.jsonl"


class RunDirectory:
    """A directory that holds a run. Creating the object opens it; `create` makes a new one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises RunDirectoryError if there is no run at `path`."""
        self.path = Path(path)
        if not self.job_file.is_file():
            raise RunDirectoryError(self.path, "no run directory (it holds no job.yaml); correct the path")
        self._repaired: set[str] = set()

    @classmethod
    def create(cls, path: str | os.PathLike[str], job_yaml: str) -> "RunDirectory":
        """The run directory of a new job. Raises RunDirectoryError if `path` is a file or holds anything."""
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RunDirectoryError(path, "is a file; name a new directory")
        if path.is_dir() and any(path.iterdir()):
            raise RunDirectoryError(
                path, "is not empty; name a new directory, or go on with the run it holds (--resume)"
            )
        path.mkdir(parents=True, exist_ok=True)
        replace_file(path / "job.yaml", job_yaml)
        return cls(path)

    def write_job(self, job_yaml: str) -> None:
        """Replace the resolved job file: a resumed job may change what does not make it another one."""
        replace_file(self.job_file, job_yaml)

    @property
    def job_file(self) -> Path:
        return self.path / "job.yaml"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def evaluation_file(self) -> Path:
        """The result of a job that only evaluates, with every answer."""
        return self.path / "evaluation.json"

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a learner step belongs; it need not exist."""
        return self.path / "checkpoints" / f"step-{step}"

    def offsets(self) -> dict[str, int]:
        """Bytes of the files that hold one record for each step or completion, as a checkpoint notes them."""
        return {name: path.stat().st_size for name in (_METRICS, _SAMPLES) if (path := self.path / name).is_file()}

    def roll_back(self, offsets: Mapping[str, int]) -> None:
        """Take away what was written behind `offsets`: the steps from there on are done again. Events stay."""
        for name in (_METRICS, _SAMPLES):
            path = self.path / name
            if path.is_file() and path.stat().st_size > offsets.get(name, 0):
                os.truncate(path, offsets.get(name, 0))

    @contextmanager
    def written(self) -> Iterator[None]:
        """Keep other processes from writing this run meanwhile. Raises RunDirectoryError if one already does."""
        with self.job_file.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunDirectoryError(self.path, "another process runs this job; stop it first") from error
            yield

    def is_written(self) -> bool:
        """Whether a process, here or on this machine, has this run open for writing (`written`)."""
        with self.job_file.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def append_metrics(self, metrics: Mapping[str, float | None]) -> None:
        """Add a learner step. Raises ValueError without a whole-numbered `step`."""
        step = metrics.get("step")
        if step is None or step != int(step):
            raise ValueError(f"metrics need a whole-numbered step, not {step!r}")
        order = [name for name in METRIC_NAMES if name in metrics] + sorted(set(metrics) - set(METRIC_NAMES))
        self._append(_METRICS, [{name: metrics[name] for name in order} | {"step": int(step)}])

    def append_samples(self, samples: Sequence[Sample]) -> None:
        """Add completions. Those of one group come in one call, so that they stand together."""
        self._append(
            _SAMPLES, [{field.name: getattr(sample, field.name) for field in fields(Sample)} for sample in samples]
        )

    def append_event(self, kind: str, /, **detail: object) -> None:
        """Add what happened now: `{"time": ISO 8601 in UTC, "kind": …, **detail}`.

        Kinds the report knows: `state` with `state`; `evaluation` with `step` and `result`. Any other is listed.
        """
        reserved = detail.keys() & {"time", "kind"}
        if reserved:
            raise ValueError(f"an event's detail cannot be named {sorted(reserved)}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._append(_EVENTS, [{"time": now, "kind": kind} | detail])

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Replace the final result."""
        replace_file(self.summary_file, json_text(summary, indent=2) + "\n")

    def write_evaluation(self, result: Mapping[str, object]) -> None:
        """Write the result of a job that only evaluates, as `earshot compare` reads it."""
        replace_file(self.evaluation_file, json_text(result) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """One object per learner step, steps ascending; empty if there is none.

        A run that resumed from a checkpoint repeats steps: what the repetition replaces is left out.
        """
        return current_steps(self._records(_METRICS))

    def samples(self) -> Iterator[dict[str, Any]]:
        """Every line of the file in its order, read as it is asked for: the file may be larger than the memory."""
        return self._records(_SAMPLES)

    def events(self) -> list[dict[str, Any]]:
        """Every line of the file in its order."""
        return list(self._records(_EVENTS))

    def evaluations(self) -> list[tuple[int, dict[str, Any]]]:
        """Step and result of the evaluations, steps ascending, without what a resumed run replaced."""
        found = current_steps(event for event in self.events() if event["kind"] == "evaluation")
        return [(event["step"], event["result"]) for event in found]

    def summary(self) -> dict[str, Any] | None:
        """The final result, or None while there is none."""
        if not self.summary_file.is_file():
            return None
        return record_of(self.summary_file, 1, self.summary_file.read_bytes())

    def torn(self) -> tuple[str, ...]:
        """Names of the files whose last line was cut off by a killed writer. Readers leave that line out."""
        return tuple(name for name in (_METRICS, _SAMPLES, _EVENTS) if torn_bytes(self.path / name))

    def _records(self, name: str) -> Iterator[dict[str, Any]]:
        path = self.path / name
        if not path.is_file():
            return
        with path.open("rb") as file:
            for number, line in enumerate(whole_lines(file), start=1):
                yield record_of(path, number, line)

    def _append(self, name: str, records: Sequence[Mapping[str, object]]) -> None:
        path = self.path / name
        if name not in self._repaired:
            # A line that follows a torn one would be lost with it.
            torn = torn_bytes(path)
            if torn:
                os.truncate(path, path.stat().st_size - torn)
            self._repaired.add(name)
            if torn:
                self.append_event("torn_line", file=name, bytes=torn)
        data = "".join(json_text(record) + "\n" for record in records).encode()
        with path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            written = file.write(data)
            if written != len(data):
                os.truncate(path, before)
                raise OSError(f"{str(path)!r}: only {written} of {len(data)} bytes could be written; the disk is full")
