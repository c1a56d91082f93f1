"""Facts about files, which are found once and remembered between processes.

Invariant: a fact is returned only for a file whose size, times and inode are those from before the fact was found, and
only if the same version of the code found it. A memory that cannot be read or written costs time, and nothing else.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from audio_qa.errors import InputError

OnCount = Callable[[int, int], None]
"""Called with the number of files that are done, and of all."""

_SCHEMA = 1
_MOST_FACTS = 2_000_000
"""The oldest facts are forgotten beyond this number; one takes about 250 bytes."""
_YOUNG_NS = 10**9
"""A file that was changed less than this before it was looked at may change again without another time."""
_LOCKED_SECONDS = 10.0
_ASKED_AT_ONCE = 500
_PART, _KEPT_AT_ONCE = 32, 2_048
_THREADS = max(4, os.cpu_count() or 1)
"""More than cores, since files on a network are waited for. Decoders release Python's lock."""


class _Place(NamedTuple):
    """A file as it is before it is looked at."""

    path: str
    """Absolute."""
    stamp: str
    """Text that changes when the file or the code does."""
    changed: int
    """Time of the last change, in ns."""


class FileMemory:
    """Facts in a SQLite file that any number of processes share.

    It is in SQLite's default journal mode: a write-ahead log would need a writable folder even to read, and memory that
    is shared between machines where the folder is on a network.
    """

    def __init__(self, file: Path | None, version: str) -> None:
        """Open nothing yet; without a file nothing is remembered."""
        self._file, self._version = file, version

    def find(
        self,
        kind: str,
        paths: Sequence[str],
        look: Callable[[str], str | InputError],
        *,
        also: str | None = None,
        report: OnCount = lambda done, total: None,
    ) -> dict[str, str | InputError]:
        """Return what `look` finds out about each file, from memory or by looking, several files at a time.

        Errors are not remembered. What has been found is kept even if a later file raises, or the user interrupts.

        Args:
            kind: name of the fact.
            also: another kind that will do as well, if it is remembered.
        """
        distinct = list(dict.fromkeys(paths))
        places = self._places(distinct)
        found: dict[str, str | InputError] = dict(self._recalled((kind, also), places))
        missing = [path for path in distinct if path not in found]
        fresh: dict[str, str] = {}
        try:
            for path, fact in _looked(missing, look):
                found[path] = fact
                if isinstance(fact, str) and path in places:
                    fresh[path] = fact
                if len(found) % _PART == 0 or len(found) == len(distinct):
                    report(len(found), len(distinct))
                if len(fresh) >= _KEPT_AT_ONCE:
                    self._keep(kind, places, fresh)
                    fresh = {}
        finally:
            self._keep(kind, places, fresh)
        return found

    def _places(self, paths: Sequence[str]) -> dict[str, _Place]:
        """Return the state of each file that exists; of none if there is nothing to compare it with."""
        places: dict[str, _Place] = {}
        for path in paths if self._file is not None else ():
            # Without pathlib, which takes three times as long for 38,000 clips.
            place = path if path.startswith("/") else str(Path(path).absolute())
            try:
                status = os.stat(place)  # noqa: PTH116
            except (OSError, ValueError):
                continue
            modified, changed = status.st_mtime_ns, status.st_ctime_ns
            stamp = f"{self._version} {status.st_size} {modified} {changed} {status.st_ino}"
            places[path] = _Place(place, stamp, max(modified, changed))
        return places

    def _recalled(self, kinds: tuple[str, str | None], places: Mapping[str, _Place]) -> dict[str, str]:
        by_place = {place.path: place.stamp for place in places.values()}
        asked = list(by_place)
        facts: dict[str, str] = {}

        def recall(connection: sqlite3.Connection) -> None:
            for i in range(0, len(asked), _ASKED_AT_ONCE):
                part = asked[i : i + _ASKED_AT_ONCE]
                marks = ",".join("?" * len(part))
                query = f"SELECT path, stamp, fact FROM facts WHERE kind IN (?, ?) AND path IN ({marks})"
                for place, stamp, fact in connection.execute(query, (*kinds, *part)):
                    if stamp == by_place[place]:
                        facts[place] = fact

        if asked and self._file is not None and self._file.is_file():
            self._attempt(recall)
        return {path: facts[place.path] for path, place in places.items() if place.path in facts}

    def _keep(self, kind: str, places: Mapping[str, _Place], facts: Mapping[str, str]) -> None:
        now = time.time_ns()
        rows = [
            (places[path].path, kind, places[path].stamp, fact, now)
            for path, fact in facts.items()
            if now - places[path].changed >= _YOUNG_NS
        ]

        def keep(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", rows)
            (count,) = connection.execute("SELECT COUNT(*) FROM facts").fetchone()
            if count > _MOST_FACTS:
                oldest = "SELECT path, kind FROM facts ORDER BY found LIMIT ?"
                query = f"DELETE FROM facts WHERE (path, kind) IN ({oldest})"
                connection.execute(query, (count - _MOST_FACTS * 9 // 10,))

        if rows:
            self._attempt(keep)

    def _attempt(self, action: Callable[[sqlite3.Connection], None]) -> None:
        """Read or write in one transaction. If SQLite cannot, remember nothing from here on."""
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file, timeout=_LOCKED_SECONDS)) as connection, connection:
                _make_table(connection)
                action(connection)
        except (sqlite3.OperationalError, OSError):
            # The folder is not writable, the disk is full, or another process is busy for long.
            self._file = None
        except sqlite3.DatabaseError:
            # Something else wrote the file, or half of it: the next attempt starts a new one.
            self._file.unlink(missing_ok=True)


def _make_table(connection: sqlite3.Connection) -> None:
    """Make the table unless the file has it. Only then it is written to: it may be in a folder without the right to."""
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if schema == _SCHEMA:
        return
    connection.execute("BEGIN IMMEDIATE")
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if schema != _SCHEMA:
        connection.execute("DROP TABLE IF EXISTS facts")
        connection.execute(
            "CREATE TABLE facts (path TEXT, kind TEXT, stamp TEXT, fact TEXT, found INTEGER, PRIMARY KEY (path, kind)) "
            "WITHOUT ROWID"
        )
        connection.execute(f"PRAGMA user_version = {_SCHEMA}")


def _looked(paths: Sequence[str], look: Callable[[str], str | InputError]) -> Iterator[tuple[str, str | InputError]]:
    """Look at files in several threads; return what was found, in the order of the paths."""

    def several(part: Sequence[str]) -> list[tuple[str, str | InputError]]:
        return [(path, look(path)) for path in part]

    parts = [paths[i : i + _PART] for i in range(0, len(paths), _PART)]
    if len(parts) <= 1:
        yield from (found for part in parts for found in several(part))
        return
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for part in pool.map(several, parts):
            yield from part
    finally:
        pool.shutdown(cancel_futures=True)
