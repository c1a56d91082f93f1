"""A folder at a URL, through fsspec: s3://, gs://, file:// and every other kind that it opens.

Invariant: a file under its name is complete. An object store shows an object after its last byte; elsewhere a file is
written under another name and renamed.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audio_qa.errors import EarshotError, cause_of, shown
from orchestrator.job.spec_file import SpecError
from orchestrator.job.storage_url import EXAMPLES, check_url

_PACKAGES = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs")}
"""By scheme: fsspec's package for it, and our extra that installs the package."""
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"})


class StorageError(EarshotError):
    """A storage did not carry out a request. The message is one line: the URL, and the store's answer."""


class DamagedError(StorageError):
    """A stored file differs from what was put there; retrying does not help."""


class Location:
    """A folder; it need not exist. Every method but `url_of` raises StorageError."""

    def __init__(self, url: str, filesystem: Any, path: str) -> None:
        """Use `open_location`. `path` is the folder of `url` in `filesystem`."""
        self.url, self._filesystem, self._path = url.rstrip("/"), filesystem, path.rstrip("/")
        self._renames = url.partition("://")[0] not in _OBJECT_STORES

    def url_of(self, name: str) -> str:
        """Return the URL of a file in it."""
        return f"{self.url}/{name}"

    def put(self, file: Path, name: str) -> None:
        """Store a file, completely or not at all. Raises OSError if there is no such local file."""
        size, path = file.stat().st_size, f"{self._path}/{name}"
        with self._translated_errors(name, "stored"):
            if self._renames:
                self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._filesystem.put_file(str(file), f"{path}.part")
                self._filesystem.mv(f"{path}.part", path)
            else:
                # Create no folders in an object store: s3fs would create the bucket, which is not ours to create.
                self._filesystem.put_file(str(file), path)
            self._filesystem.invalidate_cache()
            stored = self._filesystem.info(path)["size"]
        if stored != size:
            raise StorageError(f"{shown(self.url_of(name))} has {stored} bytes after it was stored, not {size}")

    def put_text(self, text: str, name: str) -> None:
        """Store a small file."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "text"
            file.write_text(text, encoding="utf-8")
            self.put(file, name)

    def get(self, name: str, to: Path) -> None:
        """Fetch a file. The file at `to` is complete only when this returns."""
        with self._translated_errors(name, "fetched"):
            to.parent.mkdir(parents=True, exist_ok=True)
            self._filesystem.get_file(f"{self._path}/{name}", str(to))

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None if it does not exist."""
        with self._translated_errors(name, "read"):
            try:
                return bytes(self._filesystem.cat_file(f"{self._path}/{name}"))
            except FileNotFoundError:
                return None

    def names(self, folder: str = "") -> list[str]:
        """Return the names of the files and folders in a folder; empty if it does not exist."""
        path = f"{self._path}/{folder}".rstrip("/")
        with self._translated_errors(folder, "listed"):
            # Another process may have written since the last listing.
            self._filesystem.invalidate_cache()
            try:
                found = self._filesystem.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted({name for entry in found if (name := str(entry).rstrip("/").rpartition("/")[2])})

    def remove(self, name: str) -> None:
        """Remove a file, or a folder and its content; does nothing if it does not exist."""
        with self._translated_errors(name, "removed"):
            self._filesystem.invalidate_cache()
            try:
                self._filesystem.rm(f"{self._path}/{name}", recursive=True)
            except FileNotFoundError:
                return

    @contextmanager
    def _translated_errors(self, name: str, action: str) -> Iterator[None]:
        try:
            yield
        # Each kind of store raises its own errors.
        except Exception as error:
            raise StorageError(f"{shown(self.url_of(name))} cannot be {action} ({cause_of(error)})") from error


def open_location(url: str) -> Location:
    """Return the folder of a URL, without a request to the store.

    Raises:
        SpecError: the URL does not name a storage, or its package is not installed.
    """
    check_kind(url)
    import fsspec.core  # noqa: PLC0415

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    # Each kind of store raises its own errors about its settings.
    except Exception as error:
        raise SpecError(
            f"storage: {shown(url)} cannot be opened ({cause_of(error)}); check the URL and your permissions"
        ) from error
    return Location(url, filesystem, str(path))


def check_kind(url: str) -> None:
    """Raise SpecError unless `url` can name a storage, and the package for such URLs is installed."""
    try:
        check_url(url)
    except ValueError as error:
        raise SpecError(str(error)) from error
    scheme = url.partition("://")[0]
    package, extra = _PACKAGES.get(scheme, ("fsspec", "remote"))
    try:
        # An optional extra.
        import fsspec  # noqa: PLC0415

        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise SpecError(
            f"storage: {scheme}:// URLs need the package {package}, which cannot be imported "
            f"({' '.join(str(error).split())}); install earshot[{extra}]"
        ) from error
    except ValueError as error:
        raise SpecError(f"storage: {scheme}:// URLs are not known to fsspec; name one such as {EXAMPLES}") from error
