"""Tables and sentences as lines for a terminal of any width, or for a program that reads them.

No figure, name or path is ever cut or broken. A terminal shows a table as columns if every value
fits, with sentences broken between words; otherwise it shows one block of lines for each row. A
program gets one line for each row, with at least two blanks between its cells.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.text import Text

from pipeline.core.quoting import printable

_INDENT, _GAPS = "  ", ("   ", "  ", " ")
_COMFORT = 16
"""A column of sentences is at least this wide; the blocks are easier to read otherwise."""
_PIPED = 60
"""To what width a program's lines are aligned."""
_FIGURE = re.compile(r"\d$")
_UNIT = re.compile(r"(?:%|[KMGT]?i?B|bytes|ms|s|min|h)[^\w]*$")


@dataclass(frozen=True)
class Grid:
    """A table for people.

    Attributes:
        title: empty for a table without one.
        columns: their names; empty ones if the values speak for themselves.
        right: the columns of figures, which are right-aligned.
        styles: the column whose values have a colour of their own, and these colours.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[int] = frozenset()
    styles: tuple[int, Mapping[str, str]] = field(default=(-1, {}))


@dataclass(frozen=True)
class Medium:
    """What shows the lines.

    Attributes:
        width: letters in a line; None if a program reads the lines.
        encoding: letters that it lacks are escaped.
    """

    width: int | None
    encoding: str = "utf-8"

    def shown(self, text: str) -> str:
        """A text as it is shown, with invisible letters escaped."""
        escaped = printable(text).encode(self.encoding, "backslashreplace")
        return escaped.decode(self.encoding)

    @property
    def rule(self) -> str:
        """The letter of a horizontal line."""
        return "─" if self.shown("─") == "─" else "-"


def lines(grid: Grid, medium: Medium) -> Iterator[Text]:
    """A table as lines."""
    columns = [medium.shown(column) for column in grid.columns]
    rows = [[medium.shown(cell) for cell in row] for row in grid.rows]
    if grid.title:
        yield Text(medium.shown(grid.title), style="bold")
    heads = [columns] if any(columns) else []
    if medium.width is None:
        # A long value does not push those of other rows away.
        widths = [
            max(min(cell_len(cell), _PIPED) for cell in column)
            for column in zip(columns, *rows, strict=True)
        ]
        for row in (*heads, *rows):
            yield _line(grid, row, row, widths, _GAPS[1])
        return
    fitted = _fitted(grid, [columns, *rows], medium.width)
    if fitted is None:
        yield from _blocks(grid, columns, rows, medium.width)
        return
    widths, gap = fitted
    if heads:
        yield from _rows(grid, heads, widths, gap)
        yield Text(_INDENT + medium.rule * (sum(widths) + len(gap) * (len(widths) - 1)))
    yield from _rows(grid, rows, widths, gap)


def wrapped(text: str, width: int) -> list[str]:
    """A text broken between words; a word that is longer than a line stays whole."""
    if cell_len(text) <= width:
        return [text]
    made = [""]
    for word in _words(text):
        longer = f"{made[-1]} {word}" if made[-1] else word
        if made[-1] and cell_len(longer) > width:
            made.append(word)
        else:
            made[-1] = longer
    return [line.rstrip() for line in made]


def _words(text: str) -> list[str]:
    """The parts of a text that stay whole: words, and figures with their unit."""
    found: list[str] = []
    for word in text.split(" "):
        if found and _FIGURE.search(found[-1]) and _UNIT.match(word):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def _fitted(grid: Grid, cells: list[list[str]], width: int) -> tuple[list[int], str] | None:
    """The width of each column, and the gap between them; None if the table does not fit."""
    natural = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for gap in _GAPS:
        if len(_INDENT) + sum(natural) + len(gap) * (len(natural) - 1) <= width:
            return natural, gap
    gap = _GAPS[1]
    least = [
        wide
        if number == 0 or number in grid.right
        else max(min(wide, _COMFORT), *(cell_len(w) for cell in column for w in _words(cell)))
        for number, (wide, column) in enumerate(zip(natural, zip(*cells, strict=True), strict=True))
    ]
    spare = width - len(_INDENT) - len(gap) * (len(natural) - 1) - sum(least)
    if spare < 0:
        return None
    wanted = [wide - low for wide, low in zip(natural, least, strict=True)]
    widths = [low + spare * want // sum(wanted) for low, want in zip(least, wanted, strict=True)]
    return widths, gap


def _rows(grid: Grid, rows: Sequence[Sequence[str]], widths: list[int], gap: str) -> Iterator[Text]:
    for row in rows:
        broken = [wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
        for at in range(max(map(len, broken))):
            shown = [parts[at] if at < len(parts) else "" for parts in broken]
            yield Text(_INDENT).append_text(_line(grid, row, shown, widths, gap))


def _line(
    grid: Grid, row: Sequence[str], parts: Sequence[str], widths: Sequence[int], gap: str
) -> Text:
    """One line of a row, with a part of each value."""
    line = Text()
    for number, (part, width) in enumerate(zip(parts, widths, strict=True)):
        padding = " " * (width - cell_len(part))
        before, after = (padding, "") if number in grid.right else ("", padding)
        line.append(before).append(part, _style(grid, number, row[number])).append(after + gap)
    line.rstrip()
    return line


def _blocks(
    grid: Grid, columns: list[str], rows: Sequence[Sequence[str]], width: int
) -> Iterator[Text]:
    """One block for each row, one line for each of its values."""
    label = max(map(cell_len, columns))
    for count, row in enumerate(rows):
        if count:
            yield Text()
        for number, (column, cell) in enumerate(zip(columns, row, strict=True)):
            if not cell:
                continue
            head = f"{column}{' ' * (label - cell_len(column))}  " if column else ""
            parts = wrapped(cell, width - len(_INDENT) - cell_len(head))
            for at, part in enumerate(parts):
                line = Text(_INDENT + (head if at == 0 else " " * cell_len(head)))
                yield line.append(part, _style(grid, number, cell))


def _style(grid: Grid, number: int, cell: str) -> str:
    column, styles = grid.styles
    return styles.get(cell, "") if number == column else ""
