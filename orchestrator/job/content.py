"""Recognises job files and question files by their content: commands take either, and users confuse them.

Only the beginning of a file is looked at, which may be damaged: `audio_qa.files.content` tells how to read a question
file, and refuses what it cannot read.
"""

import json
import re
from typing import Any

from audio_qa.files.content import holds_objects
from orchestrator.job.spec import JobSpec

MAX_BYTES = 2**22
"""Largest job file: more than the service accepts. Most question files and models, named by mistake, are larger."""

_BOM = b"\xef\xbb\xbf"
_HEADER = re.compile(rb'[\w" .-]+(?:[,;\t|][\w" .-]*)+')
"""The first line of a table: the names of its columns."""
_SECTIONS = ("model", "data")
_KEYS = JobSpec.model_fields.keys()


def is_job(data: bytes) -> bool:
    """Return whether `data` is a job file, with or without mistakes.

    Pass at most `MAX_BYTES` + 1 bytes from the beginning of the file.
    """
    text = data.removeprefix(_BOM).lstrip()
    if len(data) > MAX_BYTES or is_questions(data):
        return False
    if text.startswith(b"{"):
        value = _json(text)
        if value is None:  # not JSON: known by its first key
            first = re.match(rb'\{\s*"?(\w+)"?\s*:', text)
            return first is not None and first[1].decode() in _KEYS
        return isinstance(value, dict) and not value.keys().isdisjoint(_SECTIONS)
    return re.search(rb"^(?:model|data)[ \t]*:", text, re.MULTILINE) is not None


def is_questions(data: bytes) -> bool:
    """Return whether `data` begins like a question file: Parquet, a list or lines of objects, or a table."""
    text = data.removeprefix(_BOM).lstrip()
    if text.startswith(b"PAR1") or re.match(rb'(?:\{\s*"[^"]*"\s*:\s*)?\[\s*\{', text):
        return True
    line = text.partition(b"\n")[0].strip()
    if b"question" in line.lower() and _HEADER.fullmatch(line):
        return True
    first = _json(line)
    if isinstance(first, dict):
        return bool(first) and _KEYS.isdisjoint(first)
    whole = _json(text) if text.startswith(b"{") and len(data) <= MAX_BYTES else None
    return isinstance(whole, dict) and any(map(holds_objects, whole.values()))


def _json(text: bytes) -> Any:
    """Return the value of JSON; None for any other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
