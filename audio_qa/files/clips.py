"""Checks of clips: each is fetched and checked once, however many questions are about it."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from audio_qa.audio import AudioError, AudioInfo, is_file, probe
from audio_qa.dataset import DatasetError
from audio_qa.errors import InputError
from audio_qa.files.guard import Guard
from audio_qa.files.memory import FileMemory, OnCount
from audio_qa.files.remote import cached, fetch_all, is_url
from audio_qa.formats.question_set import ProblemKind

_VERSION = f"1/{soundfile.__libsndfile_version__}"
"""Version of the check: a change in what it accepts or returns needs another number."""
_HEADER, _DECODED = "header", "decoded"


@dataclass(frozen=True, slots=True)
class ClipCheck:
    """The thoroughness of a check, and who hears about its progress."""

    decode: bool = False
    """Decode every clip to its end, not only those whose header cannot be trusted."""
    report: Callable[[str, int, int], None] = lambda activity, done, total: None
    """Called with an activity, the number of clips that are done, and of all."""

    @property
    def counted(self) -> OnCount:
        """The function to call with the two numbers."""
        return lambda done, total: self.report("decoding clips" if self.decode else "checking clips", done, total)


QUICK = ClipCheck()
"""Decodes the clips whose header cannot be trusted, in silence."""


def clip_memory(cache: Path | None) -> FileMemory:
    """Return the memory of earlier checks in a cache folder; one that forgets if there is no folder."""
    return FileMemory(None if cache is None else cache / "checked.sqlite", _VERSION)


def probe_all(paths: Sequence[str], memory: FileMemory, check: ClipCheck = QUICK) -> dict[str, AudioInfo | AudioError]:
    """Return the result of `probe` for each clip, from memory or by reading it."""

    def look(path: str) -> str | InputError:
        try:
            info = probe(path, decode=check.decode)
        except AudioError as error:
            return error
        return f"{info.seconds!r} {info.rate} {info.channels} {info.format} {int(info.decoded)}"

    kinds = (_DECODED, None) if check.decode else (_HEADER, _DECODED)
    found = memory.find(kinds[0], paths, look, also=kinds[1], report=check.counted)
    results: dict[str, AudioInfo | AudioError] = {}
    for path, fact in found.items():
        results[path] = _info(fact) if isinstance(fact, str) else AudioError(str(fact))
    return results


def _info(fact: str) -> AudioInfo:
    seconds, rate, channels, container, decoded = fact.split()
    return AudioInfo(float(seconds), int(rate), int(channels), container, decoded == "1")


class Clips:
    """The clips of a question file."""

    def __init__(
        self,
        cache: Path | None,
        check: bool,
        how: ClipCheck = QUICK,
        *,
        guard: Guard | None = None,
        inside: Collection[str] = (),
    ) -> None:
        """
        Args:
            guard: called with each clip before any is read, except those `inside` the question file.
        """
        self._guard, self._inside = guard, inside
        self._cache, self._check, self._how = cache, check, how
        self._not_fetched: dict[str, str] = {}
        self._probed: dict[str, AudioInfo | AudioError] = {}
        self.seconds: dict[str, float] = {}
        """Length of each usable clip, by its path on this machine."""

    def fetch(self, audio: Iterable[str]) -> None:
        """Fetch the clips that have URLs, and check all."""
        places = list(dict.fromkeys(audio))
        if self._guard is not None:
            for place in places:
                if place not in self._inside:
                    self._guard(place)
        urls = [place for place in places if is_url(place)]
        if urls and self._cache is None:
            raise DatasetError(f"{urls[0]!r}: URLs are not read here; name a file")
        if not self._check:
            return
        if urls and self._cache is not None:
            self._not_fetched = fetch_all(urls, self._cache)
        paths = [self._path(place) for place in places if place not in self._not_fetched]
        self._probed = probe_all(paths, clip_memory(self._cache), self._how)
        self.seconds = {path: found.seconds for path, found in self._probed.items() if isinstance(found, AudioInfo)}

    def check(self, audio: str) -> tuple[str, ProblemKind | None, str]:
        """Return a fetched clip's path on this machine; if it is unusable also the kind and the text of the problem."""
        path = self._path(audio)
        if not self._check:
            return path, None, ""
        if audio in self._not_fetched:
            return path, ProblemKind.MISSING_AUDIO, self._not_fetched[audio]
        found = self._probed[path]
        if isinstance(found, AudioError):
            missing = not is_file(path)
            return path, ProblemKind.MISSING_AUDIO if missing else ProblemKind.UNREADABLE_AUDIO, str(found)
        return path, None, ""

    def _path(self, audio: str) -> str:
        return str(cached(audio, self._cache)) if is_url(audio) and self._cache is not None else audio
