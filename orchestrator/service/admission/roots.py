"""The files that users may name: those under the service's roots after following symbolic links."""

from collections.abc import Sequence
from pathlib import Path

from audio_qa.errors import InputError


class OutsideRootsError(InputError):
    """A path that does not lead to a file under the roots. The message does not reveal whether it exists."""


class Roots:
    """The folders under which users may name files."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folder.resolve() for folder in folders)

    def file(self, path: str) -> Path:
        """Return the regular file that `path` leads to. Raises OutsideRootsError."""
        found = self._resolved(path)
        if not found.is_file():
            raise OutsideRootsError(f"{path!r} is not a file under the folders this service may read{self._named()}")
        return found

    def folder(self, path: str) -> Path:
        """Return the folder that `path` leads to. Raises OutsideRootsError."""
        found = self._resolved(path)
        if not found.is_dir():
            raise OutsideRootsError(f"{path!r} is not a folder under those this service may read{self._named()}")
        return found

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
        raise OutsideRootsError(f"{path!r} is not under the folders this service may read{self._named()}")

    def _named(self) -> str:
        return f" ({', '.join(map(str, self.folders))})" if self.folders else " (it may read none)"
