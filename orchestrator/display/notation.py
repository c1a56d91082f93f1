"""Number formats of reports, plots and progress: numbers, shares, durations, ticks of an axis, sparklines."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

Format = Callable[[float], str]
"""Returns a value as text."""


def number(value: float) -> str:
    """Return three significant digits, with k and M for thousands and millions."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if size <= abs(value) < size * 1e3 and abs(value) >= 1e4:
            return f"{value / size:.{0 if abs(value) >= 100 * size else 1}f}{letter}"
    return f"{value:.0f}" if 100 <= abs(value) < 1e4 else f"{value:.3g}"


def percent(value: float) -> str:
    return f"{value:.1%}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round values (1, 2 or 5 times a power of ten apart) between `low` and `high`."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    apart = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / apart - 1e-9), math.floor(high / apart + 1e-9)
    digits = max(0, -math.floor(math.log10(apart) + 1e-9))
    return [round(i * apart, digits) for i in range(first, last + 1)]  # 0.6, not 3 * 0.2


def named(values: Sequence[float], form: Format) -> list[tuple[float, str]]:
    """Pair values with their texts; with more digits where `form` gives two values the same text."""
    names = [form(value) for value in values]
    for digits in range(4, 16):
        if len(set(names)) == len(names):
            break
        names = [f"{value:.{digits}g}" for value in values]
    return list(zip(values, names, strict=True))


def duration(seconds: float) -> str:
    """Return a rounded duration: `48s`, `3m 20s`, `2h 05m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def printable(text: str) -> str:
    """Return the text on one line, without control characters: it may quote a model or a file."""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def sparkline(values: Sequence[float], width: int) -> str:
    """Return at most `width` blocks, each the mean of as many neighbouring values, scaled from lowest to highest."""
    cells = min(width, len(values))
    edges = [round(i * len(values) / cells) for i in range(cells + 1)] if cells else []
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


_BLOCKS = "▁▂▃▄▅▆▇█"
