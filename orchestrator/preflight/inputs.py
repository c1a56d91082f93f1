"""A job's inputs: everything that its result depends on besides the job file, each with a digest of its content.

A run records them before it starts, and compares them when it is resumed (`orchestrator.driver.resume`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from audio_qa.question import Question
from audio_qa.synthetic.benchmark import RECIPE
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import JobSpec, Method
from orchestrator.preflight.digests import clips_digest, code_digest, model_digest, questions_digest
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.copies import digest_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import RunDirectoryError

TRAIN, EVALUATION = "data.train", "data.evaluation"
_RULE = 1
"""Version of how digests are computed: those of another version are not compared."""
_OWN = frozenset({"audio_qa", "learner", "orchestrator", "protocol", "reward", "rollout_workers"})
"""Packages of Earshot, whose version is recorded instead."""


@dataclass(frozen=True, slots=True)
class InputDigest:
    """The content of one input."""

    digest: str | None
    """None for the code of a reward function that is not found on this machine."""
    location: str
    """Path or name, as the job has it."""
    size: str = ""
    """Number of its parts, in words."""

    def __str__(self) -> str:
        short = "not found" if self.digest is None else self.digest[:12]
        return f"{short} ({self.size})" if self.size else short


@dataclass(frozen=True, slots=True)
class InputChange:
    """One input that differs from the recorded one."""

    name: str
    """Key of the job file, or a description."""
    was: InputDigest | None
    """None if the run had no such input."""
    now: InputDigest | None

    def __str__(self) -> str:
        places = [repr(given.location) for given in (self.now, self.was) if given is not None]
        if len({Path(place).name for place in places}) == 1:
            del places[1:]
        return f"{self.name} ({', was '.join(places)}) was {self.was or 'none'}, is {self.now or 'none'}"

    def as_event(self) -> dict[str, Any]:
        """Return the change as its event holds it."""
        return {
            "input": self.name,
            "was": self.was and self.was.digest,
            "now": self.now and self.now.digest,
            "location": self.now and self.now.location,
        }


@dataclass(frozen=True, slots=True)
class RecordedInputs:
    """The inputs that a run directory has recorded."""

    earshot: str
    """Version of Earshot that recorded them."""
    inputs: Mapping[str, InputDigest]


def inputs_of(prepared: Prepared) -> dict[str, InputDigest]:
    """Return the inputs of a job. Takes a few seconds for tens of thousands of clips.

    Raises:
        SpecError: a clip cannot be read any more.
    """
    spec = prepared.spec
    found = file_inputs(spec, prepared.train, prepared.held_out)
    if spec.model.path in TINY_MODELS:
        # The folder is named after the recipe's digest and the seed. Other machines build other last bits.
        found["model.path"] = InputDigest(_digest(Path(prepared.model_folder).name), spec.model.path)
    modules = {name.partition(":")[0].partition(".")[0] for name in spec.reward.functions if ":" in name}
    for package in sorted(modules - _OWN):
        code = code_digest(package)
        found[f"reward code {package}"] = InputDigest(None, package) if code is None else InputDigest(*code)
    return found


def file_inputs(spec: JobSpec, train: Sequence[Question], held_out: Sequence[Question]) -> dict[str, InputDigest]:
    """Return the inputs of a job that are files of the user, and its built-in questions.

    Args:
        train, held_out: the questions of the job, as it asks them.
    """
    data = spec.data
    found: dict[str, InputDigest] = {}
    if spec.method is not Method.EVALUATE:
        found |= _questions(TRAIN, data.train, train)
    if data.evaluation is not None:
        found |= _questions(EVALUATION, data.evaluation, held_out)
    if data.curriculum is not None and data.curriculum.measured is not None:
        _, digest = digest_of(Path(data.curriculum.measured))
        found["data.curriculum.measured"] = InputDigest(digest, data.curriculum.measured)
    if spec.model.path not in TINY_MODELS:
        found["model.path"] = InputDigest(model_digest(Path(spec.model.path)), spec.model.path)
    return found


def _questions(name: str, location: str, questions: Sequence[Question]) -> dict[str, InputDigest]:
    digest, size = questions_digest(questions), f"{len(questions)} questions"
    if location == SYNTHETIC:
        return {name: InputDigest(_digest(f"{RECIPE} {digest}"), location, size)}
    clips = [question.audio for question in questions]
    return {
        name: InputDigest(digest, location, size),
        f"clips of {name}": InputDigest(clips_digest(clips), location, f"{len(set(clips))} clips"),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def differences(
    recorded: Mapping[str, InputDigest], now: Mapping[str, InputDigest]
) -> tuple[list[InputChange], list[str]]:
    """Return the inputs that differ, and the names of those that cannot be compared on this machine."""
    changes, unknown = [], []
    for name in [*recorded, *(name for name in now if name not in recorded)]:
        before, after = recorded.get(name), now.get(name)
        if before is not None and after is not None and None in (before.digest, after.digest):
            unknown.append(name)
        elif before is None or after is None or before.digest != after.digest:
            changes.append(InputChange(name, before, after))
    return changes, unknown


def write_inputs(run: RunDirectory, inputs: Mapping[str, InputDigest]) -> None:
    """Record a run's inputs."""
    recorded = {name: asdict(value) for name, value in inputs.items()}
    run.write_inputs({"rule": _RULE, "earshot": version("earshot"), "inputs": recorded})


def recorded_inputs(run: RunDirectory) -> RecordedInputs | None:
    """Return the inputs that a run has recorded; None if it has not, or with digests of another kind.

    Raises RunDirectoryError if the file is damaged.
    """
    record = run.inputs()
    if record is None or record.get("rule") != _RULE:
        return None
    try:
        inputs = {name: InputDigest(**value) for name, value in record["inputs"].items()}
        return RecordedInputs(str(record["earshot"]), inputs)
    except (LookupError, TypeError, AttributeError) as error:
        raise RunDirectoryError(
            run.inputs_file, "lacks digests; restore the file, or remove it to resume without a comparison"
        ) from error
