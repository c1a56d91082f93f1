"""Admission control: check that a job names nothing that the service may not use.

Invariant: an admitted job names no model, question file or clip outside the roots, no reward function, judge or
environment variable outside the allow-lists, no weights in a format that runs code when it is read, and no cluster or
storage of its own. Its model is whole.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from audio_qa.audio import is_file
from audio_qa.dataset import DatasetError
from audio_qa.errors import shown
from audio_qa.formats.registry import may_lack_clips
from audio_qa.model_folder.documents import ModelError, files_read
from audio_qa.model_folder.folder import check_folder
from orchestrator.job.marked import marked_values, replace_marked
from orchestrator.job.sections.data import SYNTHETIC, DataSection
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.questions.splits import Split, read_split
from orchestrator.service.admission.roots import OutsideRootsError, Roots
from protocol.marks import PathTo
from reward.registry import RewardError, check_name


@dataclass(frozen=True, slots=True)
class Admitted:
    """A job that may be queued."""

    spec: JobSpec
    """With its paths resolved."""
    uses: frozenset[str]
    """Ids of the jobs whose run directories it names."""


class Admission:
    """The admission rules of one service."""

    def __init__(
        self,
        roots: Roots,
        reward_modules: Sequence[str],
        data_dir: Path | None = None,
        *,
        judge_hosts: Sequence[str] = (),
        judge_keys: Sequence[str] = (),
    ) -> None:
        """
        Args:
            reward_modules: modules whose reward functions are allowed, with their submodules.
            judge_hosts: allowed judge endpoints, as HOST:PORT, or HOST for any port of it.
            judge_keys: environment variables whose values may be sent to judges.
        """
        self._roots, self._modules = roots, tuple(reward_modules)
        self._judge_hosts, self._judge_keys = tuple(host.lower() for host in judge_hosts), tuple(judge_keys)
        self._data_dir = None if data_dir is None else data_dir.resolve()

    async def admit(self, spec: JobSpec, owns: Callable[[str], Awaitable[bool]]) -> Admitted:
        """Return the job with its paths resolved. Raises SpecError: one line that names what is not allowed.

        Args:
            owns: returns whether the submitter may see the job with an id, and so name its run directory.
        """
        if spec.cluster.address is not None:
            raise SpecError("cluster.address: the service chooses the cluster; leave it out")
        if spec.storage is not None:
            raise SpecError("storage: the service chooses it (earshot serve --storage URL); leave it out")
        self._check_rewards(spec)
        self._check_judge(spec)
        spec = await asyncio.to_thread(self._resolved, spec)
        uses: set[str] = set()
        for key, path in marked_values(spec, tuple(PathTo)):
            target = await asyncio.to_thread(Path(path).resolve) if Path(path).is_absolute() else Path(path)
            if not await self._may_be_named(target, owns):
                raise SpecError(f"{key}: {shown(path)} is the service's own, or belongs to a job that is not yours")
            if self._data_dir is not None and target.is_relative_to(self._data_dir):
                uses.add(target.relative_to(self._data_dir).parts[1])
        await asyncio.to_thread(_check_model, spec.model.path)
        return Admitted(spec, frozenset(uses))

    async def _may_be_named(self, path: Path, owns: Callable[[str], Awaitable[bool]]) -> bool:
        """Return whether a path, with its links followed, is not in the data directory, or is in an own run there."""
        if self._data_dir is None or not path.is_relative_to(self._data_dir):
            return True
        parts = path.relative_to(self._data_dir).parts
        return len(parts) > 2 and parts[0] == "runs" and await owns(parts[1])

    def _check_rewards(self, spec: JobSpec) -> None:
        for module in spec.reward.allowed_modules:
            if not any(module == allowed or module.startswith(f"{allowed}.") for allowed in self._modules):
                known = ", ".join(self._modules) or "none"
                raise SpecError(
                    f"reward.allowed_modules: this service does not allow {shown(module)} (allowed: {known})"
                )
        for name in spec.reward.functions:
            try:
                check_name(name, self._modules)
            except RewardError as error:
                raise SpecError(f"reward.functions: {error}") from error

    def _check_judge(self, spec: JobSpec) -> None:
        judge = spec.reward.judge
        if judge is None:
            return
        if not {judge.host, judge.host.rpartition(":")[0]} & set(self._judge_hosts):
            known = ", ".join(self._judge_hosts) or "none"
            raise SpecError(f"reward.judge.url: this service does not allow {shown(judge.host)} (allowed: {known})")
        if judge.api_key_env is not None and judge.api_key_env not in self._judge_keys:
            known = ", ".join(self._judge_keys) or "none"
            raise SpecError(
                f"reward.judge.api_key_env: this service does not allow {shown(judge.api_key_env)} (allowed: {known})"
            )

    def _resolved(self, spec: JobSpec) -> JobSpec:
        """Return the job with every path under the roots, also after its links are followed. Raises SpecError."""
        for kind in PathTo:  # questions last: the paths of their clips start at the audio roots
            rules: dict[PathTo, Callable[[str, str], str]] = {
                PathTo.MODEL: self._model,
                PathTo.CLIPS: self._folder,
                PathTo.SOLVE_RATES: self._file,
                PathTo.QUESTIONS: partial(self._questions, spec.data),
            }
            spec = replace_marked(spec, (kind,), rules[kind])
        return spec

    def _model(self, key: str, path: str) -> str:
        if path in TINY_MODELS:
            return path
        if path.startswith("builtin:"):
            raise SpecError(f"{key}: {shown(path)} is not built in; {' and '.join(TINY_MODELS)} are")
        try:
            folder = self._roots.folder(path)
            for file in files_read(folder):
                self._roots.file(str(file))
        except (OutsideRootsError, ModelError) as error:
            raise SpecError(f"{key}: {error}") from error
        return str(folder)

    def _folder(self, key: str, path: str) -> str:
        try:
            self._roots.folder(path)
            return self._roots.kept(path)
        except OutsideRootsError as error:
            raise SpecError(f"{key}: {error}") from error

    def _file(self, key: str, path: str) -> str:
        try:
            self._roots.file(path)
            return self._roots.kept(path)
        except OutsideRootsError as error:
            raise SpecError(f"{key}: {error}") from error

    def _questions(self, data: DataSection, key: str, path: str) -> str:
        split: Split = "train" if key == "data.train" else "evaluation"
        if path == SYNTHETIC:
            return path
        if path.startswith("builtin:"):
            raise SpecError(f"{key}: {shown(path)} is not built in; {SYNTHETIC} is")
        try:
            self._roots.file(path)
            file = self._roots.kept(path)
            # Relative paths in the file start at the file's folder. URLs are not fetched: the service must not
            # make requests for a user.
            found = read_split(data.model_copy(update={split: file}), split, check_audio=False, remote=False)
            optional = may_lack_clips(found.source.format)
            for audio in {question.audio for question in found.accepted()} - found.inside:
                if optional and not is_file(audio):
                    self._roots.place(audio)
                else:
                    self._roots.file(audio)
        except (OutsideRootsError, DatasetError) as error:
            raise SpecError(f"{key}: {error}") from error
        return file


def _check_model(path: str) -> None:
    """Raise SpecError unless the model is whole. Its files must be known to be the submitter's: messages quote them."""
    if path in TINY_MODELS:
        return
    try:
        check_folder(path)
    except ModelError as error:
        raise SpecError(f"model.path: {error}") from error
