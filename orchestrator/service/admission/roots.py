"""The files that users may name: those under the service's roots after following symbolic links."""

from collections.abc import Sequence
from pathlib import Path

from audio_qa.errors import InputError, shown
from orchestrator.job.spec_file import absolute


class OutsideRootsError(InputError):
    """A path that does not lead to a file under the roots. The message does not reveal whether it exists."""


class Roots:
    """The folders under which users may name files."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folder.resolve() for folder in folders)
        self._as_named = tuple(absolute(folder) for folder in folders)

    def file(self, path: str) -> Path:
        """Return the regular file that `path` leads to. Raises OutsideRootsError."""
        found = self._resolved(path)
        if not found.is_file():
            raise OutsideRootsError(
                f"{shown(path)} is not a file under the folders this service may read{self._named()}"
            )
        return found

    def folder(self, path: str) -> Path:
        """Return the folder that `path` leads to. Raises OutsideRootsError."""
        found = self._resolved(path)
        if not found.is_dir():
            raise OutsideRootsError(f"{shown(path)} is not a folder under those this service may read{self._named()}")
        return found

    def kept(self, path: str) -> str:
        """Return the path under which a job keeps a file or folder that was found: the user's own, with its links.

        The names on it matter: clips lie next to a link, and its suffix says what it is. A path that only leads into
        the roots, from outside of them, becomes that of its target: others could change where it leads. Raises
        OutsideRootsError.
        """
        found = self._resolved(path)
        own = absolute(Path(path))
        inside = any(own.is_relative_to(folder) for folder in (*self._as_named, *self.folders))
        return str(own if inside else found)

    def place(self, path: str) -> Path:
        """Return where `path` leads; nothing needs to exist there. Raises OutsideRootsError."""
        return self._resolved(path, strict=False)

    def _resolved(self, path: str, *, strict: bool = True) -> Path:
        try:
            found = Path(path).resolve(strict=strict)
            if Path(path).is_absolute() and any(found.is_relative_to(folder) for folder in self.folders):
                return found
        except (OSError, ValueError, RuntimeError):
            # Missing, a loop of links, a name too long, a zero byte: the caller learns no difference.
            pass
        raise OutsideRootsError(f"{shown(path)} is not under the folders this service may read{self._named()}")

    def _named(self) -> str:
        return f" ({', '.join(map(str, self.folders))})" if self.folders else " (it may read none)"
