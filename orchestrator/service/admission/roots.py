"""Which files users may name: those under the service's roots, wherever symbolic links lead."""

from collections.abc import Sequence
from pathlib import Path


class OutsideRootsError(ValueError):
    """A path that leads to no file under the roots. The message does not tell whether there is one."""


class Roots:
    """Folders under which users' files may lie."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folder.resolve() for folder in folders)

    def file(self, path: str) -> Path:
        """The regular file that `path` leads to. Raises OutsideRootsError."""
        found = self._resolved(path)
        if not found.is_file():
            raise OutsideRootsError(f"{path!r} is no file under the folders this service may read{self._named()}")
        return found

    def folder(self, path: str) -> Path:
        """The folder that `path` leads to. Raises OutsideRootsError."""
        found = self._resolved(path)
        if not found.is_dir():
            raise OutsideRootsError(f"{path!r} is no folder under those this service may read{self._named()}")
        return found

    def place(self, path: str) -> Path:
        """Where `path` leads, though nothing need be there. Raises OutsideRootsError."""
        return self._resolved(path, strict=False)

    def _resolved(self, path: str, *, strict: bool = True) -> Path:
        try:
            found = Path(path).resolve(strict=strict)
            if Path(path).is_absolute() and any(found.is_relative_to(folder) for folder in self.folders):
                return found
        except (OSError, ValueError, RuntimeError):
            # Missing, a loop of links, a name too long, a zero byte: to whoever asks, all the same.
            pass
        raise OutsideRootsError(f"{path!r} is not under the folders this service may read{self._named()}")

    def _named(self) -> str:
        return f" ({', '.join(map(str, self.folders))})" if self.folders else " (it may read none)"
