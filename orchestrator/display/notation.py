"""How reports and plots write things: numbers, shares, the round values on an axis, and text in HTML."""

import math
import re
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Format = Callable[[float], str]
"""Writes a value."""


def html_text(value: object) -> str:
    """Escaped for HTML. Characters that HTML forbids, or that would turn the text around, become visible signs."""
    text = "" if value is None else str(value)
    return escape(_UNSHOWABLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text))


def number(value: float) -> str:
    """Three digits, with k and M for thousands and millions; no digits that are noise."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if size <= abs(value) < size * 1e3 and abs(value) >= 1e4:
            return f"{value / size:.{0 if abs(value) >= 100 * size else 1}f}{letter}"
    return f"{value:.0f}" if 100 <= abs(value) < 1e4 else f"{value:.3g}"


def percent(value: float) -> str:
    return f"{value:.1%}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) that lie between `low` and `high`."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    apart = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / apart - 1e-9), math.floor(high / apart + 1e-9)
    digits = max(0, -math.floor(math.log10(apart) + 1e-9))
    return [round(i * apart, digits) for i in range(first, last + 1)]  # 3 * 0.2 is to be 0.6


def named(values: Sequence[float], form: Format) -> list[tuple[float, str]]:
    """The values as `form` writes them; with more digits where it would write two alike."""
    names = [form(value) for value in values]
    for digits in range(4, 16):
        if len(set(names)) == len(names):
            break
        names = [f"{value:.{digits}g}" for value in values]
    return list(zip(values, names, strict=True))


def duration(seconds: float) -> str:
    """Rounded to what one wants to know: `48s`, `3m 20s`, `2h 05m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def printable(text: str) -> str:
    """The text on one line, without characters that would steer a terminal: it may quote a model or a file."""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def sparkline(values: Sequence[float], width: int) -> str:
    """At most `width` blocks, each the mean of as many neighbouring values, between the lowest and the highest."""
    cells = min(width, len(values))
    edges = [round(i * len(values) / cells) for i in range(cells + 1)] if cells else []
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


_BLOCKS = "▁▂▃▄▅▆▇█"
