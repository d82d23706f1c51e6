"""The census of a source as a page, as a table for Dagster and as data for programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core import private
from pipeline.core.quoting import printable, size
from pipeline.reporting import evidence_page
from pipeline.scaffold.census import ColumnReport, TableReport

_MOST_COLUMNS = 150
"""Up to this many columns, a summary lists each."""


def write(folder: Path, run: dict[str, Any]) -> Path:
    """Write the page of a census.

    Args:
        run: ``migration``, ``source``, ``run_id`` and ``tables``.

    Raises:
        FilesError: the file cannot be written.
    """
    private.folder(folder)
    page = folder / "census.html"
    private.replace_text(page, evidence_page.render(run, template="census.html.j2"))
    return page


def summary(tables: Sequence[TableReport]) -> str:
    """A census in Markdown: each column, or each table if there are many."""
    declared = [table for table in tables if table.declared]
    if sum(len(table.columns) for table in declared) > _MOST_COLUMNS:
        lines = ["| table | rows | size | columns to look at |", "| --- | ---: | ---: | ---: |"]
        lines += [
            f"| {_cell(t.name)} | {t.rows:,} | {size(t.bytes)} | {t.to_look_at or ''} |"
            for t in declared
        ]
    else:
        lines = ["| column | found | declared | look at |", "| --- | --- | --- | --- |"]
        lines += [_line(table, column) for table in declared for column in table.columns]
    return "\n".join(lines)


def _line(table: TableReport, column: ColumnReport) -> str:
    cells = (f"{table.name}.{column.name}", column.found, column.declared or "", column.note)
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """A text that Markdown shows as it is."""
    escaped = printable(text).replace("\\", "\\\\")
    return "".join(f"\\{letter}" if letter in "|*_`<>[]~#" else letter for letter in escaped)
