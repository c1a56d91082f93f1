"""Checks of clips: each is fetched and checked once, however many questions are about it."""

from collections.abc import Iterable
from pathlib import Path

from audio_qa.audio import AudioError, is_file, probe
from audio_qa.dataset import DatasetError
from audio_qa.files.remote import cached, fetch_all, is_url
from audio_qa.formats.question_set import ProblemKind


class Clips:
    """The clips of a question file."""

    def __init__(self, cache: Path | None, check: bool) -> None:
        self._cache, self._check = cache, check
        self._not_fetched: dict[str, str] = {}
        self._checked: dict[str, tuple[str, ProblemKind | None, str]] = {}
        self.seconds: dict[str, float] = {}
        """Length of each usable clip, by its path on this machine."""

    def fetch(self, audio: Iterable[str]) -> None:
        """Fetch the clips that have URLs."""
        urls = [place for place in audio if is_url(place)]
        if urls and self._cache is None:
            raise DatasetError(f"{urls[0]!r}: URLs are not read here; name a file")
        if urls and self._cache is not None and self._check:
            self._not_fetched = fetch_all(urls, self._cache)

    def check(self, audio: str) -> tuple[str, ProblemKind | None, str]:
        """Return a clip's path on this machine; for an unusable clip also the kind of problem and its description."""
        if audio not in self._checked:
            self._checked[audio] = self._inspect(audio)
        return self._checked[audio]

    def _inspect(self, audio: str) -> tuple[str, ProblemKind | None, str]:
        path = str(cached(audio, self._cache)) if is_url(audio) and self._cache is not None else audio
        if not self._check:
            return path, None, ""
        if audio in self._not_fetched:
            return path, ProblemKind.MISSING_AUDIO, self._not_fetched[audio]
        try:
            self.seconds[path] = probe(path).seconds
        except AudioError as error:
            missing = not is_file(path)
            return path, ProblemKind.MISSING_AUDIO if missing else ProblemKind.UNREADABLE_AUDIO, str(error)
        return path, None, ""
