"""Plots as inline SVG: lines over steps, stacked bars over steps, bars by category.

A plot needs no script and no network. Colours are the classes `c0` … `c3` and `axis`, which the page's style sheet
defines for light and dark. Every mark carries a `<title>`, which browsers show under the pointer. A value that is
missing (None) leaves a gap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from audio_qa.scoring.intervals import interval
from orchestrator.display.markup import html_text
from orchestrator.display.notation import Format, named, number, percent, ticks

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 12, 12, 40
# More marks than this cannot be distinguished on 490 pixels, and each costs bytes.
_MOST_POINTS = 250
_MOST_BARS = 80


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one layer of bars."""

    name: str
    points: Sequence[tuple[float, float | None]]
    """Pairs (step, value), steps ascending."""
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """One category: its accuracy, between 0 and 1, with and without the clip."""

    name: str
    value: float | None
    control: float | None
    """With silence instead of the clip."""
    chance: float | None
    count: int
    """Number of questions, which determines the 95 % interval of the whisker."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""

    def __call__(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.1f}"


def line_plot(
    title: str,
    series: Sequence[Series],
    form: Format | None = None,
    *,
    unit: str = "",
    from_zero: bool = False,
    if_none: str = "",
) -> Markup:
    """Draw lines over learner steps.

    Args:
        form: of values, by default `number`.
        unit: label of the axis.
        if_none: reason shown if there are no values.
    """
    form = form or number
    drawn = [_thinned(line, _MOST_POINTS) for line in series]
    values = [value for line in drawn for _, _, value in line if value is not None]
    if not values:
        return _empty(title, if_none)
    marks: list[str] = []
    x = _step_scale([last for line in drawn for _, last, _ in line])
    y, frame = _frame(x, min(0.0, *values) if from_zero else min(values), max(values), form, unit)
    few = max(len(line) for line in drawn) <= 60
    for index, (line, spans) in enumerate(zip(series, drawn, strict=True)):
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        for present, run in groupby(spans, key=lambda span: span[2] is not None):
            pixels = [f"{x((a + b) / 2)},{y(value)}" for a, b, value in run if value is not None]
            if present and len(pixels) > 1:
                marks.append(f'<polyline class="line c{index}"{dash} points="{" ".join(pixels)}"/>')
        for first, last, value in spans:
            if value is not None:
                at = f'cx="{x((first + last) / 2)}" cy="{y(value)}"'
                hover = html_text(f"{line.name}, {_steps(first, last)}: {form(value)}")
                # A wide invisible disc to point at, and a dot where there is room for dots.
                dot = f'<circle class="dot c{index}" {at} r="2.5"/>' if few or len(values) == 1 else ""
                marks.append(f'<g>{dot}<circle class="hit" {at} r="7"/><title>{hover}</title></g>')
    label = "; ".join(_summary(line, form) for line in series)
    return _figure(title, label, _HEIGHT, frame + marks, _legend(series))


def stacked_plot(title: str, series: Sequence[Series], form: Format | None = None, *, unit: str = "") -> Markup:
    """Draw bars over learner steps, the series stacked in their order. Values below zero count as zero."""
    form = form or number
    bars = [_thinned(layer, _MOST_BARS) for layer in series]
    if not any(value is not None for spans in bars for _, _, value in spans):
        return _empty(title)
    totals: dict[tuple[float, float], float] = {}
    for spans in bars:
        for first, last, value in spans:
            totals[first, last] = totals.get((first, last), 0.0) + max(0.0, value or 0.0)
    x = _step_scale([last for _, last in totals], first=min(first for first, _ in totals), pad=0.5)
    y, marks = _frame(x, 0.0, max(totals.values()), form, unit)
    gap = 1.0 if len(totals) <= 60 else 0.0
    floor = dict.fromkeys(totals, 0.0)
    for index, (layer, spans) in enumerate(zip(series, bars, strict=True)):
        for first, last, value in spans:
            if value is None or value <= 0:
                continue
            base = floor[first, last]
            floor[first, last] = base + value
            left, right = float(x(first - 0.5)), float(x(last + 0.5))
            top, bottom = float(y(base + value)), float(y(base))
            marks.append(
                f'<rect class="fill c{index}" x="{left:.1f}" y="{top:.1f}" width="{max(0.5, right - left - gap):.1f}" '
                f'height="{bottom - top:.1f}"><title>'
                f"{html_text(f'{layer.name}, {_steps(first, last)}: {form(value)}')}</title></rect>"
            )
    label = "; ".join(_summary(layer, form) for layer in series)
    return _figure(title, label, _HEIGHT, marks, _legend(series, filled=True))


def category_plot(title: str, bars: Sequence[Bar]) -> Markup:
    """Draw horizontal bars from 0 to 100 %: with the clip, with silence, and a mark at chance."""
    if not bars:
        return _empty(title)
    row, top, left, right = 40, 6, 160, _WIDTH - 52
    height = top + row * len(bars) + 40
    bottom = top + row * len(bars)
    x = _Scale(0.0, 1.0, left, right)
    marks = [
        f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{bottom}"/>'
        f'<text class="tick" x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:.0%}</text>'
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    for index, bar in enumerate(bars):
        y = top + index * row + 6
        name = bar.name if len(bar.name) <= 20 else bar.name[:19] + "…"
        marks.append(
            f'<text class="name" x="{left - 8}" y="{y + 18}" text-anchor="end">{html_text(name)}'
            f"<title>{html_text(bar.name)}: {bar.count} questions</title></text>"
        )
        for offset, value, style, condition in ((0, bar.value, "c0", "audio"), (15, bar.control, "c1", "silence")):
            if value is not None:
                width = float(x(value)) - left
                hover = html_text(f"{bar.name}, {condition}: {percent(value)} of {bar.count}")
                marks.append(
                    f'<g><rect class="fill {style}" x="{left}" y="{y + offset}" width="{max(1.0, width):.1f}" '
                    f'height="13" rx="2"/><title>{hover}</title></g>'
                )
        if bar.value is not None:
            low, high = interval(bar.value, bar.count)
            marks.append(f'<line class="whisker" x1="{x(low)}" x2="{x(high)}" y1="{y + 6.5}" y2="{y + 6.5}"/>')
            marks.append(f'<text class="tick" x="{right + 6}" y="{y + 11}">{percent(bar.value)}</text>')
        if bar.chance is not None:
            at = x(bar.chance)
            marks.append(
                f'<g><line class="chance" x1="{at}" x2="{at}" y1="{y - 3}" y2="{y + 31}"/>'
                f"<title>{html_text(bar.name)}, chance: {percent(bar.chance)}</title></g>"
            )
    marks.append(f'<text class="tick" x="{(left + right) / 2}" y="{height - 6}" text-anchor="middle">accuracy</text>')
    label = "; ".join(
        f"{bar.name} {_or_none(bar.value, percent)}, silence {_or_none(bar.control, percent)}" for bar in bars
    )
    legend = _keys([("c0", "audio", "fill"), ("c1", "silence", "fill"), ("chance", "chance", "line")])
    return _figure(title, label, height, marks, legend)


def _thinned(series: Series, most: int) -> list[tuple[float, float, float | None]]:
    """Return at most `most` triples (first step, last step, mean value); each covers as many neighbouring points."""
    points = series.points
    size = math.ceil(len(points) / most) or 1
    spans: list[tuple[float, float, float | None]] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [value for _, value in part if value is not None]
        spans.append((part[0][0], part[-1][0], math.fsum(values) / len(values) if values else None))
    return spans


def _step_scale(steps: Sequence[float], first: float | None = None, pad: float = 0.0) -> _Scale:
    low = (min(steps) if first is None else first) - pad
    high = max(steps) + pad
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return _Scale(low, high, _LEFT, _WIDTH - _RIGHT)


def _frame(x: _Scale, low: float, high: float, form: Format, unit: str) -> tuple[_Scale, list[str]]:
    """Return the y axis for these values, and the grid with ticks and labels."""
    if low >= 0 and low <= 0.5 * high:
        low = 0.0
    if high - low <= max(1e-9 * abs(high), 1e-100):
        room = max(0.1 * abs(high), 1e-6)
        low, high = (low - room if low else 0.0), high + room
    room = 0.05 * (high - low)
    y = _Scale(low if low == 0 else low - room, high + room, _HEIGHT - _BOTTOM, _TOP)
    marks = []
    for tick, name in named(ticks(y.low, y.high), form):
        at = y(tick)
        marks.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{float(at) + 4:.1f}" text-anchor="end">{html_text(name)}</text>'
        )
    whole = [tick for tick in ticks(x.low, x.high, 8) if tick == int(tick)]
    marks += [
        f'<text class="tick" x="{x(tick)}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{tick:.0f}</text>'
        for tick in whole
    ]
    foot = _HEIGHT - _BOTTOM
    marks.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{foot}" y2="{foot}"/>')
    marks.append(f'<text class="tick" x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">step</text>')
    if unit:
        middle = (_TOP + foot) / 2
        marks.append(
            f'<text class="tick" x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})">'
            f"{html_text(unit)}</text>"
        )
    return y, marks


def _figure(title: str, label: str, height: int, marks: Sequence[str], legend: str) -> Markup:
    return Markup(
        f'<figure class="plot"><figcaption>{html_text(title)}</figcaption>{legend}'
        f'<svg role="img" aria-label="{html_text(f"{title}: {label}")}" viewBox="0 0 {_WIDTH} {height}">'
        f"{''.join(marks)}</svg></figure>"
    )


def _empty(title: str, reason: str = "") -> Markup:
    text = html_text(f"No values. {reason}".strip())
    return Markup(
        f'<figure class="plot"><figcaption>{html_text(title)}</figcaption><p class="none">{text}</p></figure>'
    )


def _legend(series: Sequence[Series], *, filled: bool = False) -> str:
    if len(series) == 1:
        return ""  # The title names it.
    kinds = ["fill" if filled else "dashed" if line.dashed else "line" for line in series]
    return _keys([(f"c{i}", line.name, kind) for i, (line, kind) in enumerate(zip(series, kinds, strict=True))])


def _keys(keys: Sequence[tuple[str, str, str]]) -> str:
    items = "".join(f'<li><i class="key {kind} {style}"></i>{html_text(name)}</li>' for style, name, kind in keys)
    return f'<ul class="legend">{items}</ul>'


def _summary(series: Series, form: Format) -> str:
    values = [(step, value) for step, value in series.points if value is not None]
    if not values:
        return f"{series.name} has no values"
    (first, start), (last, end) = values[0], values[-1]
    return f"{series.name} from {form(start)} at step {first:.0f} to {form(end)} at step {last:.0f}"


def _steps(first: float, last: float) -> str:
    return f"step {first:.0f}" if first == last else f"mean of steps {first:.0f} to {last:.0f}"


def _or_none(value: float | None, form: Format) -> str:
    return "unknown" if value is None else form(value)
