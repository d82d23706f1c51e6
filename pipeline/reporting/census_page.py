"""The census of a source as a page, as a table for Dagster and as data for programs."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.core import private
from pipeline.core.quoting import printable, size
from pipeline.reporting import evidence_page
from pipeline.reporting.layout import Grid
from pipeline.scaffold.census import Census, ColumnReport, TableReport

_MOST_COLUMNS = 150
"""Up to this many columns, a summary lists each."""
HIDDEN = "(not shown)"
"""Stands for the examples of a column whose values are not shown."""
STATES = {"does not fit": "red", "not declared": "yellow"}
"""Colours of states."""


def write(folder: Path, census: Census, *, run_id: str) -> Path:
    """Write the page of a census.

    Raises:
        FilesError: the file cannot be written.
    """
    private.folder(folder)
    page = folder / "census.html"
    run = {"run_id": run_id, "census": census, "hidden": HIDDEN}
    private.replace_text(page, evidence_page.render(run, template="census.html.j2"))
    return page


def as_json(census: Census) -> dict[str, Any]:
    """A census for programs."""
    return asdict(census)


def grids(census: Census, *, verbose: bool) -> list[Grid]:
    """A census for the terminal: each column, or of many columns those to look at.

    Args:
        verbose: list each column in any case, with its type in the source and examples.
    """
    every = verbose or _columns(census) <= _MOST_COLUMNS
    rows = [
        _row(table, column)
        for table in census.declared
        for column in table.columns
        if every or column.note
    ]
    found = [Grid("Tables", _TABLE, [_table_row(each) for each in census.tables], _FIGURES)]
    if rows:
        numbers = range(len(_COLUMN)) if verbose else _SHORT
        title = "Columns" if every else "Columns to look at"
        cells = [[row[number] for number in numbers] for row in rows]
        names = [_COLUMN[number] for number in numbers]
        found.append(Grid(title, names, cells, styles=(names.index("state"), STATES)))
    return found


def summary(census: Census) -> str:
    """A census in Markdown: each column, or each table if there are many."""
    if _columns(census) > _MOST_COLUMNS:
        lines = [_line(_TABLE), "| --- | --- | ---: | ---: | ---: | ---: |"]
        return "\n".join([*lines, *(_line(_table_row(table)) for table in census.declared)])
    lines = [_line(_COLUMN), "| --- " * len(_COLUMN) + "|"]
    rows = (_row(table, column) for table in census.declared for column in table.columns)
    return "\n".join([*lines, *map(_line, rows)])


_TABLE = ("table", "state", "rows", "size", "columns", "to look at")
_FIGURES = frozenset((2, 3, 4, 5))
_COLUMN = ("column", "type in SQLite", "found", "for example", "declared type", "state", "look at")

_SHORT = (0, 2, 4, 5, 6)
"""The columns of a table that fits a terminal."""


def _columns(census: Census) -> int:
    return sum(len(table.columns) for table in census.declared)


def _table_row(table: TableReport) -> list[str]:
    figures = (len(table.columns), table.to_look_at)
    return [table.name, table.state, f"{table.rows:,}", size(table.bytes), *map(str, figures)]


def _row(table: TableReport, column: ColumnReport) -> list[str]:
    return [
        f"{table.name}.{column.name}",
        column.source_type,
        column.found,
        HIDDEN if column.hidden else ", ".join(column.examples),
        column.declared or "",
        column.state,
        column.note,
    ]


def _line(cells: "list[str] | tuple[str, ...]") -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """A text that Markdown shows as it is."""
    escaped = printable(text).replace("\\", "\\\\")
    return "".join(f"\\{letter}" if letter in "|*_`<>[]~#" else letter for letter in escaped)
