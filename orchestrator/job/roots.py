"""The files that a job may name: those under given folders, and the run directories of its owner's jobs.

Invariant: a path is judged by where it leads, with its links followed, before anything is opened there. The data of the
service is closed under any name, and the answer does not depend on what exists there.
"""

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from audio_qa.errors import InputError, shown
from orchestrator.job.spec_file import absolute
from orchestrator.schemas.job_id import JOB_ID

_PARENT = re.compile(r"/+\.\.(?=/|$)")
_SYSTEM = ("/proc", "/sys")
"""Folders whose files are the kernel's: some never end, others show the environment of processes."""
_DEVICES, _MEMORY = "/dev", "/dev/shm"
"""Folder of devices, and the one in it that may be a root: files in memory."""
_Identity = tuple[int, int]
"""Device and inode of a file or folder, which its other names share."""
_NONE = (-1, -1)


class OutsideRootsError(InputError):
    """A path that a job may not name. The message does not reveal whether it exists, or what is there."""


@dataclass(frozen=True, slots=True)
class Private:
    """The service's own files, and how much of them a job may read."""

    places: tuple[str, ...] = ()
    """Files and folders that are closed, absolute."""
    runs: str | None = None
    """Folder of the run directories, which is one of them; a job may read those of its owner's jobs."""
    files_of_run: tuple[str, ...] = ()
    """Names of files in a run directory that stay closed."""


def _owns_none(_: str) -> bool:
    return False


class Roots:
    """The folders under which a job may name files."""

    def __init__(
        self,
        folders: Sequence[Path],
        private: Private | None = None,
        owns: Callable[[str], bool] = _owns_none,
        *,
        remember: bool = False,
        purpose: str = "this service may read",
    ) -> None:
        """
        Args:
            owns: returns whether the job's owner may read the run directory of a name.
            remember: follow the links of each folder once: for one check of many files, not for longer.
            purpose: what messages say that the folders are for.
        """
        self.folders = tuple(folder.resolve() for folder in folders)
        self._as_named = tuple(absolute(folder) for folder in folders)
        self._texts = tuple(map(str, self.folders))
        self._private, self._owns = private or Private(), owns
        self._closed = tuple(dict.fromkeys(os.path.realpath(place) for place in self._private.places))
        self._runs = None if self._private.runs is None else os.path.realpath(self._private.runs)
        self._identities = {identity: place for place in self._closed if (identity := _identity(place)) is not None}
        devices = () if any(_is_under(root, _MEMORY) for root in self._texts) else (_DEVICES,)
        self._system = (*_SYSTEM, *devices)
        self._parents: dict[str, str] | None = {} if remember else None
        self._closed_folders: dict[str, str | None] = {}
        self._owned: dict[str, bool] = {}
        self._purpose = purpose + (f" ({', '.join(self._texts)})" if self._texts else " (there are none)")

    @property
    def used(self) -> frozenset[str]:
        """Names of the run directories that paths led to so far."""
        return frozenset(name for name, owned in self._owned.items() if owned)

    def file(self, path: str) -> Path:
        """Return the regular file that `path` leads to. Raises OutsideRootsError."""
        found = self.place(path)
        if not _is_kind(found, stat.S_ISREG):
            raise OutsideRootsError(f"{shown(path)} is not a file under the folders {self._purpose}")
        return found

    def folder(self, path: str) -> Path:
        """Return the folder that `path` leads to. Raises OutsideRootsError."""
        found = self.place(path)
        if not _is_kind(found, stat.S_ISDIR):
            raise OutsideRootsError(f"{shown(path)} is not a folder under those {self._purpose}")
        return found

    def kept(self, path: str) -> str:
        """Return the path under which a job keeps a file or folder that was found: the user's own, with its links.

        The names on it matter: clips lie next to a link, and its suffix says what it is. A path that only leads into
        the roots, from outside of them, becomes that of its target: others could change where it leads. Raises
        OutsideRootsError.
        """
        found = self.place(path)
        own = absolute(Path(path))
        inside = any(own.is_relative_to(folder) for folder in (*self._as_named, *self.folders))
        return str(own if inside else found)

    def place(self, path: str) -> Path:
        """Return where `path` leads; nothing needs to exist there. Raises OutsideRootsError."""
        if "://" in path:
            raise OutsideRootsError(f"{shown(path)} is not under the folders {self._purpose}; URLs are not read here")
        # The system follows `..` only from a folder that exists: nobody must learn that of folders outside.
        for above in _PARENT.finditer(path):
            self._judged(f"{path[: above.start()]}/ ", path)  # as for files in it: a run directory itself is closed
        return self._judged(path, path)

    def _judged(self, path: str, named: str) -> Path:
        """Return where `path` leads. Raises OutsideRootsError, about the path as it was `named`."""
        found = self._target(path)
        if found is not None and (closed := self._closed_place(found)) is not None:
            if self._is_in_own_run(closed):
                return Path(found)
            raise OutsideRootsError(f"{shown(named)} is the service's own, or another owner's and not yours")
        if (
            found is None
            or not any(_is_under(found, root) for root in self._texts)
            or any(_is_under(found, folder) for folder in self._system)
        ):
            raise OutsideRootsError(f"{shown(named)} is not under the folders {self._purpose}")
        return Path(found)

    def _target(self, path: str) -> str | None:
        """Return where an absolute path leads; None for one that no file can have."""
        if not path.startswith("/"):
            return None
        try:
            if self._parents is None or path.endswith(("/", "/.", "/..")):
                return str(Path(path).resolve())
            head, _, name = path.rpartition("/")
            parent = self._parents.get(head)
            if parent is None:
                parent = self._parents[head] = str(Path(head or "/").resolve())
            found = f"{parent.rstrip('/')}/{name}"
            return str(Path(found).resolve()) if Path(found).is_symlink() else found
        except (OSError, ValueError, RuntimeError):
            # A loop of links, a name too long, a zero byte: the caller learns no difference.
            return None

    def _closed_place(self, found: str) -> str | None:
        """Return the path in the service's data that `found` is, also through another mount or a hard link."""
        if any(_is_under(found, place) for place in self._closed):
            return found
        if not self._identities:
            return None
        head, _, name = found.rpartition("/")
        above = self._closed_folder(head)
        return self._identities.get(_identity(found) or _NONE) if above is None else f"{above}/{name}"

    def _closed_folder(self, folder: str) -> str | None:
        """Return the path in the service's data that a folder is; None for any other."""
        if folder in self._closed_folders:
            return self._closed_folders[folder]
        closed, place, rest = None, folder, ""
        while place and closed is None:
            known = self._identities.get(_identity(place) or _NONE)
            closed = None if known is None else f"{known}{rest}"
            place, _, name = place.rpartition("/")
            rest = f"/{name}{rest}"
        if self._parents is not None:
            self._closed_folders[folder] = closed
        return closed

    def _is_in_own_run(self, closed: str) -> bool:
        if self._runs is None or not _is_under(closed, self._runs):
            return False
        name, _, rest = closed[len(self._runs) + 1 :].partition("/")
        if not rest or rest.partition("/")[0] in self._private.files_of_run or not re.fullmatch(JOB_ID, name):
            return False
        if name not in self._owned:
            self._owned[name] = self._owns(name)
        return self._owned[name]


def _is_under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _identity(path: str) -> _Identity | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # many times for each file
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _is_kind(path: Path, is_kind: Callable[[int], bool]) -> bool:
    try:
        return is_kind(path.stat().st_mode)
    except (OSError, ValueError):
        return False
