"""Question files and clips at URLs: s3://, gs://, https:// and all others that fsspec opens.

Invariant: a file in the cache is complete: it is written under another name first. A question file is that of its
source as it is now, and is fetched again if it has changed there; a clip is fetched once.
"""

import hashlib
import json
import logging
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from audio_qa.dataset import DatasetError
from audio_qa.errors import InputError, cause_of
from audio_qa.whole_file import whole_file

_AT_ONCE = 16
"""Number of clips that are fetched concurrently; each waits for the network most of the time."""
_NOTE = ".source"
"""File next to a cached one, with the digest of what its source said about it when it was fetched."""
_CHANGING = (
    *("size", "created", "mtime", "updated", "generation", "md5Hash", "VersionId"),
    *("ETag", "etag", "Content-MD5", "Digest", "Last-Modified", "LastModified", "last_modified"),
)
"""Properties of a file, by the names that different stores give them, of which one changes with its content."""
_log = logging.getLogger(__name__)


class FetchError(InputError):
    """A file that could not be fetched. The message is one line: the URL, what is wrong, how to correct it."""


def is_url(location: str) -> bool:
    return "://" in location


def joined(base: str, path: str) -> str:
    """Return the location of a clip: `path` if it is a URL or absolute, else under `base`, a folder or a URL."""
    if is_url(path):
        return path
    if not is_url(base):
        if path.startswith("/"):
            return path
        # pathlib leaves out empty and "." parts; most paths have none, and there are many.
        plain = not any(part in ("", ".") for part in path.split("/"))
        return f"{base.rstrip('/')}/{path}" if plain else str(Path(base) / path)
    scheme, _, rest = base.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(rest, path.lstrip('/')))}"


def parent(url: str) -> str:
    """Return the URL of the folder of a URL's file."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{posixpath.dirname(rest)}"


def cached(url: str, cache: Path) -> Path:
    """Return the path of a URL's file in the cache, where it may not exist yet."""
    name = posixpath.basename(url.partition("://")[2].partition("?")[0])
    return cache / hashlib.sha256(url.encode()).hexdigest()[:32] / name


def fetch(url: str, cache: Path, *, current: bool = False) -> Path:
    """Fetch a URL's file into the cache unless it is there, and return its path.

    Args:
        current: ask the source, and fetch the file again if it has changed there. If the source does not answer, the
            file in the cache is used, with a warning.

    Raises:
        FetchError: there is no such file, or it cannot be read.
        DatasetError: fsspec, or its extension for this kind of URL, is not installed.
    """
    target = cached(url, cache)
    if target.is_file() and not (current and _changed(url, target)):
        return target
    try:
        # Part of the optional extra `remote`.
        import fsspec  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(f"{url!r}: URLs need fsspec; install Earshot with the extra 'remote'") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Before the file: if it changes in between, the next check finds a difference.
        said = _said_by_source(url) if current else ""
        with whole_file(target) as file, fsspec.open(url, "rb") as source:
            while block := source.read(2**20):
                file.write(block)
    except ImportError as error:
        raise DatasetError(f"{url!r}: {' '.join(str(error).split())}") from error
    # Each kind of store raises its own classes.
    except Exception as error:
        problem = f"cannot be fetched ({cause_of(error)})"
        raise FetchError(f"{url!r}: {problem}; check the URL and your permissions") from error
    if current:
        with whole_file(target.parent / _NOTE) as note:
            note.write(said.encode())
    return target


def _changed(url: str, target: Path) -> bool:
    """Return whether the source of a cached file has another one now."""
    note = target.parent / _NOTE
    try:
        said = _said_by_source(url)
    # Each kind of store raises its own classes, and a machine without network continues with what it has.
    except Exception as error:
        problem = f"cannot be compared with its source ({cause_of(error)})"
        _log.warning("%r: %s; the copy in %s is used", url, problem, target.parent)
        return False
    return not said or not note.is_file() or note.read_text() != said


def _said_by_source(url: str) -> str:
    """Return the digest of what a file's source says about it, without reading the file; empty if it says nothing."""
    import fsspec  # noqa: PLC0415

    filesystem, path = fsspec.core.url_to_fs(url)
    filesystem.invalidate_cache()
    said = {key: str(value) for key, value in filesystem.info(path).items() if key in _CHANGING and value}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest() if said else ""


def fetch_all(urls: Iterable[str], cache: Path) -> dict[str, str]:
    """Fetch files concurrently; return the problem of each file that could not be fetched, by URL."""

    def attempt(url: str) -> tuple[str, str]:
        try:
            fetch(url, cache)
        except FetchError as error:
            return url, str(error)
        return url, ""

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return {url: problem for url, problem in pool.map(attempt, dict.fromkeys(urls)) if problem}
