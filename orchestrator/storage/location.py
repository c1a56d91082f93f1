"""A folder behind a URL, by way of fsspec: s3://, gs://, file:// and whatever else it opens.

Invariant: a file under its name is whole. An object store shows an object with its last byte; elsewhere a file is
written under another name and renamed.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.job.spec_file import SpecError
from orchestrator.job.storage_url import EXAMPLES, check_url

_PACKAGES = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs")}
"""By scheme: fsspec's package for it, and our extra that installs that."""
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"})


class StorageError(RuntimeError):
    """A storage did not do what it was asked for. The message is one line: the URL, and what the store said."""


class DamagedError(StorageError):
    """What is stored is not what was put there; asking again does not help."""


class Location:
    """A folder; it need not be there. Every method but `url_of` raises StorageError."""

    def __init__(self, url: str, filesystem: Any, path: str) -> None:
        """`open_location` makes one. `path` is what `filesystem` calls the folder of `url`."""
        self.url, self._filesystem, self._path = url.rstrip("/"), filesystem, path.rstrip("/")
        self._renames = url.partition("://")[0] not in _OBJECT_STORES

    def url_of(self, name: str) -> str:
        """The URL of a file in it."""
        return f"{self.url}/{name}"

    def put(self, file: Path, name: str) -> None:
        """Store a file, whole or not at all. Raises OSError where there is no such file here."""
        size, path = file.stat().st_size, f"{self._path}/{name}"
        with self._guarded(name, "stored"):
            if self._renames:
                self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._filesystem.put_file(str(file), f"{path}.part")
                self._filesystem.mv(f"{path}.part", path)
            else:
                # No folders are made in an object store: s3fs would make the bucket, whose owner is somebody else.
                self._filesystem.put_file(str(file), path)
            self._filesystem.invalidate_cache()
            stored = self._filesystem.info(path)["size"]
        if stored != size:
            raise StorageError(f"{self.url_of(name)!r} has {stored} bytes behind its storing, not {size}")

    def put_text(self, text: str, name: str) -> None:
        """Store a small file."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "text"
            file.write_text(text, encoding="utf-8")
            self.put(file, name)

    def get(self, name: str, to: Path) -> None:
        """Fetch a file. What is at `to` is whole only when this returns."""
        with self._guarded(name, "fetched"):
            to.parent.mkdir(parents=True, exist_ok=True)
            self._filesystem.get_file(f"{self._path}/{name}", str(to))

    def read(self, name: str) -> bytes | None:
        """A small file; None if there is none."""
        with self._guarded(name, "read"):
            try:
                return bytes(self._filesystem.cat_file(f"{self._path}/{name}"))
            except FileNotFoundError:
                return None

    def names(self, folder: str = "") -> list[str]:
        """What is directly in a folder, files and folders; empty if it is not there."""
        path = f"{self._path}/{folder}".rstrip("/")
        with self._guarded(folder, "listed"):
            # Another process may have written since it was last listed.
            self._filesystem.invalidate_cache()
            try:
                found = self._filesystem.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted({name for entry in found if (name := str(entry).rstrip("/").rpartition("/")[2])})

    def remove(self, name: str) -> None:
        """Remove a file, or a folder and all in it; nothing if it is not there."""
        with self._guarded(name, "removed"):
            self._filesystem.invalidate_cache()
            try:
                self._filesystem.rm(f"{self._path}/{name}", recursive=True)
            except FileNotFoundError:
                return

    @contextmanager
    def _guarded(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        # Each kind of store raises errors of its own.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise StorageError(f"{self.url_of(name)!r} cannot be {what} ({reason})") from error


def open_location(url: str) -> Location:
    """The folder of a URL; nothing is asked of the store yet.

    Raises:
        SpecError: the URL is none for a storage, or what it takes is not installed.
    """
    check_kind(url)
    import fsspec.core  # noqa: PLC0415

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    # What each kind of store says of its own settings.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SpecError(f"storage: {url!r} cannot be opened ({reason}); correct the URL or the access") from error
    return Location(url, filesystem, str(path))


def check_kind(url: str) -> None:
    """Raise SpecError unless `url` can name a storage, and what such URLs take is installed here."""
    try:
        check_url(url)
    except ValueError as error:
        raise SpecError(str(error)) from error
    scheme = url.partition("://")[0]
    package, extra = _PACKAGES.get(scheme, ("fsspec", "remote"))
    try:
        # Of optional extras.
        import fsspec  # noqa: PLC0415

        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise SpecError(
            f"storage: {scheme}:// URLs need the package {package}, which cannot be imported "
            f"({' '.join(str(error).split())}); install earshot[{extra}]"
        ) from error
    except ValueError as error:
        raise SpecError(f"storage: {scheme}:// URLs are not known to fsspec; name one such as {EXAMPLES}") from error
