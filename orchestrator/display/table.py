"""Tables and facts for a terminal, and the console that prints them.

Invariant: an id, a state or another key is never cut, wrapped or left out, and outside of a terminal nothing is: there,
each row is one line, as long as it needs to be, without colours.

In a terminal that is too narrow for a table (COLUMNS sets another width than the terminal's):

1. columns of text wrap, down to 12 cells;
2. figures are left out, one after the other, in the order that their table gives;
3. columns of text wrap down to 8 cells, then those that may be missing are left out;
4. keys that are wider than the terminal all the same are printed in full, and the terminal breaks the line.

A line below the table names the columns that were left out.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from orchestrator.display.notation import printable

_GAP = 2
"""Cells between two columns."""
_NARROW, _NARROWEST = 12, 8
"""Least width of a column of text, while figures can be left out and when none is left."""
_ENDLESS = 2**31
"""Width of an output that is not a terminal."""


def output_console() -> Console:
    """Return the console for the results of a command: stdout, with the width of the terminal if it is one."""
    if sys.stdout.isatty():
        return Console()
    return Console(width=_ENDLESS, force_terminal=False, color_system=None)


def show(console: Console, *parts: "Table | Facts | str") -> None:
    """Print tables, facts and sentences. Sentences are not broken into lines: they may end with an id or a path."""
    for part in parts:
        if isinstance(part, str):
            console.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(part, crop=False)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; `key`, `text` and `figure` make one."""

    title: str
    wraps: bool = False
    """Its text may wrap."""
    right: bool = False
    """Its content is aligned to the right."""
    leaves: int | None = None
    """Place in the order in which columns are left out, the lowest first; None: it always stays."""


def key(title: str) -> Column:
    """Return a column that is always shown in full: ids, states, names of workers."""
    return Column(title)


def text(title: str, leaves: int | None = None) -> Column:
    """Return a column with texts of any length, which wrap."""
    return Column(title, wraps=True, leaves=leaves)


def figure(title: str, leaves: int, *, right: bool = False) -> Column:
    """Return a column with short values, which do not wrap."""
    return Column(title, right=right, leaves=leaves)


class Table:
    """Rows under the titles of their columns."""

    def __init__(self, *columns: Column, title: str = "", note: bool = True) -> None:
        """`note` adds the line that names the columns left out."""
        self._columns, self._title, self._note = columns, printable(title), note
        self._rows: list[tuple[list[Text], str]] = []

    def add(self, *cells: str | Text, style: str = "") -> None:
        """Add a row; cells that are missing at its end stay empty. Control characters become spaces."""
        texts = [cell if isinstance(cell, Text) else Text(printable(cell)) for cell in cells]
        self._rows.append(([*texts, *(Text() for _ in range(len(self._columns) - len(texts)))], style))

    def __len__(self) -> int:
        return len(self._rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render within the width of the options, but for keys that are wider."""
        titles = [Text(column.title, style="dim") for column in self._columns]
        rows = [(titles, ""), *self._rows] if any(column.title for column in self._columns) else self._rows
        natural = [max((cells[i].cell_len for cells, _ in rows), default=0) for i in range(len(self._columns))]
        widths = fit(self._columns, natural, options.max_width)
        if self._title:
            yield _line(Text(self._title, style="bold"))
        for cells, style in rows:
            yield from self._row(console, cells, widths, style)
        left_out = [column.title for column, width in zip(self._columns, widths, strict=True) if width is None]
        if left_out and self._note:
            yield _line(Text(f"not shown for lack of width: {', '.join(left_out)}; --json has all", style="dim"))

    def _row(self, console: Console, cells: Sequence[Text], widths: Sequence[int | None], style: str) -> Iterator[Text]:
        """Yield the lines of one row."""
        parts: list[tuple[Column, int, list[Text]]] = []
        for column, cell, width in zip(self._columns, cells, widths, strict=True):
            if width is not None:
                wraps = column.wraps and cell.cell_len > width
                lines = list(cell.wrap(console, width, overflow="fold")) if wraps else [cell]
                parts.append((column, width, lines))
        for i in range(max((len(lines) for _, _, lines in parts), default=0)):
            line, gap = Text(style=style), 0
            for column, width, lines in parts:
                piece = lines[i].copy() if i < len(lines) else Text()
                piece.rstrip()
                room = " " * (width - piece.cell_len)
                before = room if column.right else ""
                if piece.cell_len:
                    line.append(" " * gap + before).append_text(piece)
                    gap = 0 if column.right else len(room)
                else:
                    gap += width
                gap += _GAP
            yield _line(line)


def fit(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int | None]:
    """Return the width of each column, None for one that is left out, from the width that each would need."""
    shown = set(range(len(columns)))

    def needed(least: int) -> int:
        sizes = [min(natural[i], least) if columns[i].wraps else natural[i] for i in shown]
        return sum(sizes) + _GAP * (len(sizes) - 1)

    for wraps, least in ((False, _NARROW), (True, _NARROWEST)):
        leaving = [i for i in shown if columns[i].leaves is not None and columns[i].wraps == wraps]
        for i in sorted(leaving, key=lambda i: columns[i].leaves or 0):
            if needed(least) <= width:
                break
            shown.remove(i)
    fixed = sum(natural[i] for i in shown if not columns[i].wraps) + _GAP * (len(shown) - 1)
    widths = {i: natural[i] for i in shown}
    room, left = width - fixed, sorted((i for i in shown if columns[i].wraps), key=lambda i: natural[i])
    while left:
        # The shortest text first: what it does not need is for the longer ones.
        i, share = left[0], max(room // len(left), _NARROWEST)
        widths[i] = min(natural[i], share)
        room -= widths[i]
        left = left[1:]
    return [widths.get(i) for i in range(len(columns))]


class Facts:
    """Facts about one thing, one in each row: its name, and a value that wraps between words only."""

    def __init__(self, title: str = "") -> None:
        self._title = printable(title)
        self._rows: list[tuple[str, list[str], str]] = []

    def add(self, name: str, value: str, style: str = "") -> None:
        """Add a fact. Its value may have several lines; control characters become spaces."""
        self._rows.append((printable(name), [printable(line) for line in value.split("\n")], style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render with words in full: an id or path that is wider than its room continues beyond it."""
        width = max((cell_len(name) for name, _, _ in self._rows), default=0)
        if self._title:
            yield _line(Text(self._title, style="bold"))
        for name, paragraphs, style in self._rows:
            head = name + " " * (width - cell_len(name) + _GAP)
            room = max(options.max_width - cell_len(head), _NARROWEST)
            for line in (line for paragraph in paragraphs for line in _lines(paragraph, room)):
                yield _line(Text.assemble((head, "dim"), (line, style)))
                head = " " * cell_len(head)


def _lines(paragraph: str, width: int) -> Iterator[str]:
    """Yield the lines of a paragraph, broken between words."""
    if cell_len(paragraph) <= width:
        yield paragraph
        return
    line = ""
    for word in paragraph.split(" "):
        if line and cell_len(line) + 1 + cell_len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line


def _line(line: Text) -> Text:
    """Return a text as one line that is not cut, without spaces at its end."""
    line.rstrip()
    line.no_wrap, line.overflow = True, "ignore"
    return line
