"""Rules for what a job of the service may read, write and call. Admission and the job's driver apply them.

Invariant: each text in a job is judged by the rule of its kind (`protocol.marks`); one without a rule is refused.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from audio_qa.errors import shown
from orchestrator.job.marked import marked_values, texts
from orchestrator.job.roots import Private, Roots
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.places import cache_directory
from protocol.marks import Names, PathTo
from reward.judge_settings import host_of
from reward.registry import RewardError, check_name

_VERSION = 1


def is_built_in(path: str) -> bool:
    """Return whether a path of a job names built-in data, for which no file of the user is read."""
    return path == SYNTHETIC or path in TINY_MODELS


@dataclass(frozen=True, slots=True)
class Allowed:
    """Everything that a job may name. Paths are absolute, as the service got them; links are followed each time."""

    roots: tuple[str, ...] = ()
    """Folders that may be read; besides them, built-in models and questions."""
    owner_roots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Folders that only the jobs of one owner may read, by owner; see `of_owner`."""
    caches: tuple[str, ...] = ()
    """Folders that may hold a cache which the job writes to."""
    private: Private = field(default_factory=Private)
    """Files and folders of the service itself."""
    runs: tuple[str, ...] = ()
    """Names of the run directories that the job may read."""
    reward_modules: tuple[str, ...] = ()
    """Modules whose reward functions may be used, with their submodules."""
    judge_hosts: tuple[str, ...] = ()
    """Judge endpoints, as HOST:PORT, or HOST for any port of it."""
    judge_keys: tuple[str, ...] = ()
    """Environment variables whose values may be sent to judges."""

    def readable(self, owns: Callable[[str], bool] | None = None) -> Roots:
        """Return the files that may be read, for one check of a job; by default with the run directories in `runs`."""
        folders = [*map(Path, self.roots), cache_directory()]
        return Roots(folders, self.private, owns or self.runs.__contains__, remember=True)

    def writable(self) -> Roots:
        """Return the folders that may be written to."""
        return Roots([*map(Path, self.caches)], self.private, remember=True, purpose="jobs may keep caches in")

    def of_owner(self, owner: str) -> "Allowed":
        """Return what the jobs of one owner are allowed: their own roots too, and nothing under those of others."""
        own = self.owner_roots.get(owner, ())
        others = [root for roots in self.owner_roots.values() for root in roots if root not in own]
        private = replace(self.private, places=(*self.private.places, *others))
        return replace(self, roots=(*self.roots, *own), private=private, owner_roots={})

    def of_job(self, spec: JobSpec, runs: Iterable[str]) -> "Allowed":
        """Return what one job is allowed, which may also read the run directories with the names `runs`.

        Those that its own paths name are among them: it was admitted with them, maybe by an earlier version, which did
        not record them.
        """
        folder = f"{self.private.runs}/"
        named = [path.removeprefix(folder) for _, path in marked_values(spec, tuple(PathTo)) if path.startswith(folder)]
        return replace(self, runs=tuple(sorted({*runs, *(path.partition("/")[0] for path in named)})))

    def dump(self) -> str:
        """Return it as a JSON document, which `load` reads."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1) + "\n"


_ADAPTER = TypeAdapter(Allowed)


def load(text: str, source: str) -> Allowed:
    """Return what `dump` wrote. Raises SpecError: a damaged file allows nothing."""
    try:
        value: Any = json.loads(text)
        if not isinstance(value, dict) or value.pop("version", None) != _VERSION:
            raise ValueError("unknown version")
        return _ADAPTER.validate_python(value)
    except (ValidationError, ValueError, RecursionError) as error:
        raise SpecError(f"{shown(source)} is damaged, so nothing is allowed; start the job's service again") from error


Rule = Callable[[str, str, Allowed], None]
"""Takes the key of a job file, a text under it, and what is allowed. Raises SpecError."""


def check_names(spec: JobSpec, allowed: Allowed, rules: Mapping[Names, Rule] | None = None) -> None:
    """Raise SpecError for the first text that leads to what is not allowed; paths are not judged here.

    Args:
        rules: rules in place of those of `NAME_RULES`.
    """
    chosen = {**NAME_RULES, **(rules or {})}
    # Modules first: a function whose module is not allowed is refused for its module.
    for key, kind, text in sorted(texts(spec), key=lambda found: found[1] is not Names.MODULE):
        if isinstance(kind, Names):
            chosen.get(kind, _refuse)(key, text, allowed)
        elif not isinstance(kind, PathTo):
            _refuse(key, text, allowed)


def _refuse(key: str, text: str, allowed: Allowed) -> None:
    raise SpecError(f"{key}: {shown(text)} is not allowed by this service; leave it out")


def _allow(key: str, text: str, allowed: Allowed) -> None:
    pass


def _check_judge(key: str, url: str, allowed: Allowed) -> None:
    host = host_of(url)
    if not {host, host.rpartition(":")[0]} & {known.lower() for known in allowed.judge_hosts}:
        raise SpecError(
            f"{key}: this service does not allow {shown(host)} (allowed: {', '.join(allowed.judge_hosts) or 'none'})"
        )


def _check_secret(key: str, name: str, allowed: Allowed) -> None:
    if name not in allowed.judge_keys:
        raise SpecError(
            f"{key}: this service does not allow {shown(name)} (allowed: {', '.join(allowed.judge_keys) or 'none'})"
        )


def _check_module(key: str, module: str, allowed: Allowed) -> None:
    if not any(module == known or module.startswith(f"{known}.") for known in allowed.reward_modules):
        known = ", ".join(allowed.reward_modules) or "none"
        raise SpecError(f"{key}: this service does not allow {shown(module)} (allowed: {known})")


def _check_reward(key: str, name: str, allowed: Allowed) -> None:
    try:
        check_name(name, allowed.reward_modules)
    except RewardError as error:
        raise SpecError(f"{key}: {error}") from error


NAME_RULES: Mapping[Names, Rule] = {
    Names.JUDGE: _check_judge,
    Names.SECRET: _check_secret,
    Names.MODULE: _check_module,
    Names.REWARD: _check_reward,
    # The service's own choice in the job file of a run directory; admission has other rules.
    Names.STORAGE: _allow,
    Names.CLUSTER: _allow,
    # The address and the key of a tracker are in the environment of the driver, which the operator chooses.
    Names.TRACKED: _allow,
    Names.NOTHING: _allow,
}
"""The rule of each kind of name."""
