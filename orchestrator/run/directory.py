"""A run directory: the files of one run, which scripts may read (`orchestrator.run.files` has their names).

Invariant: every file is complete at any moment, except for the last line of a `.jsonl`, also when the writer is killed.
A line is one write to a file opened for appending; other files are replaced by renaming. JSON is strict (null instead
of NaN and Infinity), floats are written with `repr` and keys in a fixed order, so equal runs leave equal bytes.

One process writes a run directory at a time; any number may read it at the same time.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.run.events import EventKind
from orchestrator.run.files import EVALUATED, EVALUATION, EVENTS, INPUTS, JOB, METRICS, REPORT, SAMPLES, SUMMARY
from orchestrator.run.lines import LineReader
from orchestrator.run.metrics import METRIC_NAMES
from orchestrator.run.records import (
    RunDirectoryError,
    current_steps,
    json_text,
    record_of,
    replace_file,
    torn_bytes,
)
from orchestrator.run.samples import EvaluatedSample, Sample
from protocol.checkpoint import CHECKPOINTS_FOLDER, step_folder

_LONGEST_TEXT = 4000
"""Most characters of a text in an event."""
_BY_STEP = (METRICS, SAMPLES, EVALUATED)
"""Files whose lines belong to learner steps, and are written again with them."""


class RunDirectory:
    """The directory of one run. The constructor opens an existing one; `create` makes a new one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises RunDirectoryError if there is no run at `path`."""
        self.path = Path(path)
        if not self.job_file.is_file():
            raise RunDirectoryError(self.path, f"not a run directory (it has no {JOB}); correct the path")
        self._repaired: set[str] = set()

    @classmethod
    def create(cls, path: str | os.PathLike[str], job_yaml: str) -> "RunDirectory":
        """Create the run directory of a new job. Raises RunDirectoryError if `path` is a file or not empty."""
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RunDirectoryError(path, "is a file; name a new directory")
        if path.is_dir() and any(path.iterdir()):
            raise RunDirectoryError(path, "is not empty; name a new directory, or resume the run in it (--resume)")
        path.mkdir(parents=True, exist_ok=True)
        replace_file(path / JOB, job_yaml)
        return cls(path)

    def write_job(self, job_yaml: str) -> None:
        """Replace the resolved job file: a resumed job may change settings that do not make it another job."""
        replace_file(self.job_file, job_yaml)

    @property
    def job_file(self) -> Path:
        return self.path / JOB

    @property
    def inputs_file(self) -> Path:
        """File with the digests of the job's inputs; missing in a run of an earlier version of Earshot."""
        return self.path / INPUTS

    @property
    def report_file(self) -> Path:
        return self.path / REPORT

    @property
    def summary_file(self) -> Path:
        return self.path / SUMMARY

    @property
    def evaluation_file(self) -> Path:
        """File with the result of a job that only evaluates, with every answer."""
        return self.path / EVALUATION

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a learner step's checkpoint; it need not exist."""
        return self.path / CHECKPOINTS_FOLDER / step_folder(step)

    def offsets(self) -> dict[str, int]:
        """Return the sizes of the files with one record per step or completion, as a checkpoint stores them."""
        return {name: path.stat().st_size for name in _BY_STEP if (path := self.path / name).is_file()}

    def roll_back(self, offsets: Mapping[str, int]) -> None:
        """Truncate these files to `offsets`: the steps after them are done again. Events stay."""
        for name in _BY_STEP:
            path = self.path / name
            if path.is_file() and path.stat().st_size > offsets.get(name, 0):
                os.truncate(path, offsets.get(name, 0))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run against writing by other processes. Raises RunDirectoryError if one holds the lock."""
        with self.job_file.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunDirectoryError(self.path, "another process runs this job; stop it first") from error
            yield

    def is_locked(self) -> bool:
        """Return whether a process of this machine, this one included, holds the lock (`lock`)."""
        with self.job_file.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def append_metrics(self, metrics: Mapping[str, float | None]) -> None:
        """Append the metrics of a learner step. Raises ValueError without a whole-numbered `step`."""
        step = metrics.get("step")
        if step is None or step != int(step):
            raise ValueError(f"metrics need a whole-numbered step, not {step!r}")
        order = [name for name in METRIC_NAMES if name in metrics] + sorted(set(metrics) - set(METRIC_NAMES))
        self._append(METRICS, [{name: metrics[name] for name in order} | {"step": int(step)}])

    def append_samples(self, samples: Sequence[Sample]) -> None:
        """Append completions. Pass those of one group in one call, so that their lines are adjacent."""
        self._append(
            SAMPLES, [{field.name: getattr(sample, field.name) for field in fields(Sample)} for sample in samples]
        )

    def append_evaluated(self, samples: Sequence[EvaluatedSample]) -> None:
        """Append the completions of an evaluation."""
        self._append(EVALUATED, [asdict(sample) for sample in samples])

    def append_event(self, kind: EventKind, /, **fields: object) -> None:
        """Append an event with the current time: `{"time": ISO 8601 in UTC, "kind": …, **fields}`.

        Of long texts only the beginning is kept: an error may quote a file.
        """
        reserved = fields.keys() & {"time", "kind"}
        if reserved:
            raise ValueError(f"a field of an event cannot be named {sorted(reserved)}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        kept = {key: value[:_LONGEST_TEXT] if isinstance(value, str) else value for key, value in fields.items()}
        self._append(EVENTS, [{"time": now, "kind": kind} | kept])

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Replace the summary."""
        replace_file(self.summary_file, json_text(summary, indent=2) + "\n")

    def write_inputs(self, inputs: Mapping[str, object]) -> None:
        """Replace the digests of the job's inputs."""
        replace_file(self.inputs_file, json_text(inputs, indent=2) + "\n")

    def write_evaluation(self, result: Mapping[str, object]) -> None:
        """Write the result of a job that only evaluates, in the form that `earshot compare` reads."""
        replace_file(self.evaluation_file, json_text(result) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return one object per learner step, steps ascending; empty if there are none.

        A run that resumed from a checkpoint repeats steps: the replaced ones are left out.
        """
        return current_steps(self._records(METRICS))

    def samples(self) -> Iterator[dict[str, Any]]:
        """Yield every sample in file order, without reading all of the file into memory."""
        return self._records(SAMPLES)

    def evaluated(self) -> Iterator[dict[str, Any]]:
        """Yield the completions of all evaluations in file order."""
        return self._records(EVALUATED)

    def events(self) -> list[dict[str, Any]]:
        """Return every event in file order."""
        return list(self._records(EVENTS))

    def evaluations(self) -> list[tuple[int, dict[str, Any]]]:
        """Return step and result of the evaluations, steps ascending, without those a resumed run replaced."""
        found = current_steps(event for event in self.events() if event["kind"] == EventKind.EVALUATION)
        return [(event["step"], event["result"]) for event in found]

    def summary(self) -> dict[str, Any] | None:
        """Return the summary, or None if there is none yet."""
        return self._object(self.summary_file)

    def inputs(self) -> dict[str, Any] | None:
        """Return the digests of the job's inputs, or None if they were not recorded."""
        return self._object(self.inputs_file)

    def torn(self) -> tuple[str, ...]:
        """Return the names of files whose last line is incomplete: its writer was killed. Readers skip that line."""
        return tuple(name for name in (*_BY_STEP, EVENTS) if torn_bytes(self.path / name))

    def _object(self, path: Path) -> dict[str, Any] | None:
        return record_of(path, 1, path.read_bytes()) if path.is_file() else None

    def _records(self, name: str) -> Iterator[dict[str, Any]]:
        path = self.path / name
        for number, line in enumerate(LineReader(path).lines(), start=1):
            yield record_of(path, number, line)

    def _append(self, name: str, records: Sequence[Mapping[str, object]]) -> None:
        path = self.path / name
        if name not in self._repaired:
            # A line appended to a torn one would be lost with it.
            torn = torn_bytes(path)
            if torn:
                os.truncate(path, path.stat().st_size - torn)
            self._repaired.add(name)
            if torn:
                self.append_event(EventKind.TORN_LINE, file=name, bytes=torn)
        data = "".join(json_text(record) + "\n" for record in records).encode()
        with path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            written = file.write(data)
            if written != len(data):
                os.truncate(path, before)
                raise OSError(f"{str(path)!r}: only {written} of {len(data)} bytes could be written; the disk is full")
