"""Question files and clips at URLs: s3://, gs://, https:// and all others that fsspec opens.

Invariant: a file in the cache is complete. It is written under another name first, and never fetched again.
"""

import hashlib
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from audio_qa.dataset import DatasetError
from audio_qa.errors import InputError
from audio_qa.whole_file import whole_file

_AT_ONCE = 16
"""Number of clips that are fetched concurrently; each waits for the network most of the time."""


class FetchError(InputError):
    """A file that could not be fetched. The message is one line: the URL, what is wrong, how to correct it."""


def is_url(location: str) -> bool:
    return "://" in location


def joined(base: str, path: str) -> str:
    """Return the location of a clip: `path` if it is a URL or absolute, else under `base`, a folder or a URL."""
    if is_url(path) or (Path(path).is_absolute() and not is_url(base)):
        return path
    if not is_url(base):
        return str(Path(base) / path)
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


def fetch(url: str, cache: Path) -> Path:
    """Fetch a URL's file into the cache unless it is there, and return its path.

    Raises:
        FetchError: there is no such file, or it cannot be read.
        DatasetError: fsspec, or its extension for this kind of URL, is not installed.
    """
    target = cached(url, cache)
    if target.is_file():
        return target
    try:
        # Part of the optional extra `remote`.
        import fsspec  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(f"{url!r}: URLs need fsspec; install Earshot with the extra 'remote'") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(target) as file, fsspec.open(url, "rb") as source:
            while block := source.read(2**20):
                file.write(block)
    except ImportError as error:
        raise DatasetError(f"{url!r}: {' '.join(str(error).split())}") from error
    # Each kind of store raises its own classes.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise FetchError(f"{url!r}: cannot be fetched ({reason}); check the URL and your permissions") from error
    return target


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
