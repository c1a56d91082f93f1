"""Which jobs the service takes: everything a job names must be the service's to use.

Invariant: a job that is admitted names no model, question file or clip outside of the roots, no reward function, judge
or environment variable outside of the allow-lists, no weights in a format that runs code when it is read, and no
cluster or storage of its own choice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from audio_qa.audio import is_file
from audio_qa.dataset import DatasetError
from audio_qa.formats.registry import may_lack_clips
from orchestrator.job.sections.data import SYNTHETIC, DataSection
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.questions.splits import Split, read_split
from orchestrator.service.admission.roots import OutsideRootsError, Roots
from reward.registry import RewardError, check_name


class Admission:
    """The rules of one service."""

    def __init__(
        self,
        roots: Roots,
        reward_modules: Sequence[str],
        data_dir: Path | None = None,
        *,
        judge_hosts: Sequence[str] = (),
        judge_keys: Sequence[str] = (),
    ) -> None:
        """The allow-lists.

        Args:
            judge_hosts: HOST:PORT of endpoints that may judge, or HOST for any port of it.
            judge_keys: environment variables whose content may be sent to them.
        """
        self._roots, self._modules = roots, tuple(reward_modules)
        self._judge_hosts, self._judge_keys = tuple(host.lower() for host in judge_hosts), tuple(judge_keys)
        self._data_dir = None if data_dir is None else data_dir.resolve()

    async def admit(self, spec: JobSpec, owns: Callable[[str], Awaitable[bool]]) -> JobSpec:
        """The job with its paths resolved. Raises SpecError: one line that says what is not allowed.

        Args:
            owns: whether whoever submits sees the job of an id, whose run directory the job may then name.
        """
        if spec.cluster.address is not None:
            raise SpecError("cluster.address: the service chooses the cluster; leave it out")
        if spec.storage is not None:
            raise SpecError("storage: the service chooses it (earshot serve --storage URL); leave it out")
        self._check_rewards(spec)
        self._check_judge(spec)
        spec = await asyncio.to_thread(self._resolved, spec)
        data = spec.data
        named = {
            "model.path": spec.model.path,
            "data.train": data.train,
            "data.evaluation": data.evaluation,
            "data.audio_root": data.audio_root,
            "data.evaluation_audio_root": data.evaluation_audio_root,
            "data.curriculum.measured": None if data.curriculum is None else data.curriculum.measured,
        }
        for key, path in named.items():
            if path is not None and not await self._may_be_named(Path(path), owns):
                raise SpecError(f"{key}: {path!r} is the service's own, or belongs to a job that is not yours")
        return spec

    async def _may_be_named(self, path: Path, owns: Callable[[str], Awaitable[bool]]) -> bool:
        if self._data_dir is None or not path.is_relative_to(self._data_dir):
            return True
        parts = path.relative_to(self._data_dir).parts
        return len(parts) > 2 and parts[0] == "runs" and await owns(parts[1])

    def _check_rewards(self, spec: JobSpec) -> None:
        for module in spec.reward.allowed_modules:
            if not any(module == allowed or module.startswith(f"{allowed}.") for allowed in self._modules):
                known = ", ".join(self._modules) or "none"
                raise SpecError(f"reward.allowed_modules: this service does not allow {module!r} (allowed: {known})")
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
            raise SpecError(f"reward.judge.url: this service does not allow {judge.host!r} (allowed: {known})")
        if judge.api_key_env is not None and judge.api_key_env not in self._judge_keys:
            known = ", ".join(self._judge_keys) or "none"
            raise SpecError(
                f"reward.judge.api_key_env: this service does not allow {judge.api_key_env!r} (allowed: {known})"
            )

    def _resolved(self, spec: JobSpec) -> JobSpec:
        model = spec.model.path
        if model not in TINY_MODELS:
            model = str(self._model(model))
        data = spec.data
        for key in ("audio_root", "evaluation_audio_root"):
            data = data.model_copy(update={key: self._audio_root(f"data.{key}", getattr(data, key))})
        if data.curriculum is not None and data.curriculum.measured is not None:
            measured = self._file("data.curriculum.measured", data.curriculum.measured)
            curriculum = data.curriculum.model_copy(update={"measured": measured})
            data = data.model_copy(update={"curriculum": curriculum})
        data = data.model_copy(update={"train": self._questions(data, "train", data.train)})
        if data.evaluation is not None:
            data = data.model_copy(update={"evaluation": self._questions(data, "evaluation", data.evaluation)})
        return spec.model_copy(update={"data": data, "model": spec.model.model_copy(update={"path": model})})

    def _model(self, path: str) -> Path:
        if path.startswith("builtin:"):
            raise SpecError(f"model.path: {path!r} is not built in; {' and '.join(TINY_MODELS)} are")
        try:
            folder = self._roots.folder(path)
            weights = list(folder.glob("*.safetensors"))
            for file in weights:
                self._roots.file(str(file))
        except OutsideRootsError as error:
            raise SpecError(f"model.path: {error}") from error
        if not weights:
            raise SpecError(f"model.path: {path!r} holds no *.safetensors, the only weights that are read here")
        return folder

    def _audio_root(self, key: str, path: str | None) -> str | None:
        try:
            return None if path is None else str(self._roots.folder(path))
        except OutsideRootsError as error:
            raise SpecError(f"{key}: {error}") from error

    def _file(self, key: str, path: str) -> str:
        try:
            return str(self._roots.file(path))
        except OutsideRootsError as error:
            raise SpecError(f"{key}: {error}") from error

    def _questions(self, data: DataSection, split: Split, path: str) -> str:
        key = f"data.{split}"
        if path == SYNTHETIC:
            return path
        if path.startswith("builtin:"):
            raise SpecError(f"{key}: {path!r} is not built in; {SYNTHETIC} is")
        try:
            file = self._roots.file(path)
            # Where the file's folder is named, the paths in it start. Nothing is fetched: what a URL leads to is not
            # the service's to read.
            found = read_split(data.model_copy(update={split: str(file)}), split, check_audio=False, remote=False)
            optional = may_lack_clips(found.source.format)
            for audio in {question.audio for question in found.accepted()}:
                if optional and not is_file(audio):
                    self._roots.place(audio)
                else:
                    self._roots.file(audio)
        except (OutsideRootsError, DatasetError) as error:
            raise SpecError(f"{key}: {error}") from error
        return str(file)
