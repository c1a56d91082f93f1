"""The paths of a job, checked against the folders that it may read and write.

Invariant: it is decided whether a job may name a file before the file is opened, and its messages quote files that the
job may name only.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from audio_qa.audio import is_file
from audio_qa.errors import InputError, shown
from audio_qa.formats.registry import may_lack_clips
from audio_qa.model_folder.folder import check_folder
from orchestrator.job.allowed import Allowed, is_built_in
from orchestrator.job.marked import marked_values, replace_marked
from orchestrator.job.roots import OutsideRootsError, Roots
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.questions.splits import Split, read_split
from protocol.marks import PathTo

_BUILT_IN = "builtin:"
_MOST_FILES = 10_000
"""Most files in the folder of a model: a folder with more is another one."""
_TEMPLATES = "additional_chat_templates"
"""Folder in a model's folder whose files transformers reads."""

_SPLITS: Mapping[str, Split] = {"data.train": "train", "data.evaluation": "evaluation"}

Rule = Callable[[str, str], str]
"""Takes the key of a job file and the path under it; returns the path that the job keeps. Raises InputError."""


class JobPaths:
    """The rules for the paths of one job."""

    def __init__(self, spec: JobSpec, readable: Roots, writable: Roots) -> None:
        self._spec, self._readable, self._writable = spec, readable, writable
        self._read: set[tuple[object, ...]] = set()
        self.rules: Mapping[PathTo, Rule] = {
            PathTo.MODEL: self._model,
            PathTo.CLIPS: self._folder,
            PathTo.SOLVE_RATES: self._file,
            PathTo.CACHE: self._cache,
            PathTo.QUESTIONS: self._file,
        }
        """The rule of each kind of path."""

    def resolved(self) -> JobSpec:
        """Return the job with its paths as it keeps them. Reads no file. Raises SpecError."""

        def replaced(kind: PathTo) -> Rule:
            def replace(key: str, path: str) -> str:
                if is_built_in(path):
                    return path
                if path.startswith(_BUILT_IN):
                    known = SYNTHETIC if kind is PathTo.QUESTIONS else " and ".join(TINY_MODELS)
                    raise SpecError(f"{key}: {shown(path)} is not built in; {known} may be")
                with _naming(key):
                    return self.rules[kind](key, path)

            return replace

        for kind in PathTo:
            self._spec = replace_marked(self._spec, (kind,), replaced(kind))
        return self._spec

    def check_content(self, report: Callable[[str], None]) -> None:
        """Read the model's headers and the questions of the resolved job, and judge the path of every clip.

        Args:
            report: called with the key of the job file whose content is read next.

        Raises:
            SpecError: a model that is not whole, a question file that cannot be used, or a clip that may not be read.
        """
        reading: Mapping[PathTo, Callable[[str, str], None]] = {
            PathTo.MODEL: lambda _, path: check_folder(path),
            PathTo.QUESTIONS: self._read_questions,
        }
        for kind, read in reading.items():
            for key, path in marked_values(self._spec, (kind,)):
                if not is_built_in(path):
                    report(key)
                    with _naming(key):
                        read(key, path)

    def _model(self, key: str, path: str) -> str:
        folder = self._readable.folder(path)
        for place in (folder, folder / _TEMPLATES):
            if place.is_dir():
                self._check_entries(place)
        return str(folder)

    def _check_entries(self, folder: Path) -> None:
        """Raise InputError if an entry of a folder leads to what may not be read, or is neither a file nor a folder."""
        try:
            for number, entry in enumerate(folder.iterdir()):
                if number >= _MOST_FILES:
                    raise OutsideRootsError(f"{shown(str(folder))} has more than {_MOST_FILES:,} files; name the model")
                found = self._readable.place(str(entry))
                if found.exists() and not found.is_file() and not found.is_dir():
                    raise OutsideRootsError(f"{shown(str(entry))} is neither a file nor a folder; remove it")
        except OSError as error:
            raise OutsideRootsError(f"{shown(str(folder))} cannot be read: {error.strerror}") from error

    def _folder(self, key: str, path: str) -> str:
        self._readable.folder(path)
        return self._readable.kept(path)

    def _file(self, key: str, path: str) -> str:
        self._readable.file(path)
        return self._readable.kept(path)

    def _cache(self, key: str, path: str) -> str:
        return str(self._writable.place(path))

    def _read_questions(self, key: str, path: str) -> None:
        data, split = self._spec.data, _SPLITS[key]
        training = split == "train"
        read = (
            path,
            data.format if training else data.evaluation_format,
            data.columns if training else data.evaluation_columns,
            data.audio_root if training else data.evaluation_audio_root,
        )
        if read in self._read:  # an evaluation alone has the same file twice
            return
        self._read.add(read)
        # URLs are not fetched: the service must not make requests for a user.
        found = read_split(data, split, check_audio=False, remote=False, guard=self._readable.place)
        optional = may_lack_clips(found.source.format)
        for audio in {question.audio for question in found.accepted()} - found.inside:
            if not optional or is_file(audio):
                self._readable.file(audio)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Name the key of the job file in the message of an error."""
    try:
        yield
    except SpecError:
        raise
    except InputError as error:
        raise SpecError(f"{key}: {error}") from error


def check_paths(spec: JobSpec, allowed: Allowed) -> Roots:
    """Check the paths of a job again, before its driver reads any, and return what it may read.

    Raises SpecError.
    """
    roots = allowed.readable()
    JobPaths(spec, roots, allowed.writable()).resolved()
    return roots
