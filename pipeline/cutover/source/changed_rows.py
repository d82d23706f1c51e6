"""The rows of a table that go back to the source, and why they may not."""

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import PipelineError
from pipeline.core.quoting import quoted
from pipeline.mapping.table_mapping import TableMapping


class NotReversible(PipelineError):
    """A row of the target cannot be written to the source."""


@dataclass
class Replayed:
    """The changes of one table of the copy.

    Attributes:
        keys: keys of the rows that were written in the target.
        inserted: keys of rows that only the target had.
        updated: keys of rows that differed, by column.
        deleted: keys of rows that the target no longer has.
        rounded: number of moments that were rounded down to the unit of the source, by column.
        last_id: the last id that the target assigned, whether its row still exists or not.
    """

    mapping: TableMapping
    keys: list[Any]
    inserted: list[Any] = field(default_factory=list)
    updated: dict[str, list[Any]] = field(default_factory=dict)
    deleted: list[Any] = field(default_factory=list)
    rounded: dict[str, int] = field(default_factory=dict)
    last_id: int | None = None

    def written_keys(self, column: str) -> list[Any]:
        """Keys of rows whose value in a column is written to the copy."""
        return [*self.inserted, *self.updated.get(column, [])]

    @property
    def touched(self) -> list[Any]:
        """Keys of all changed rows of the copy."""
        changed = {key for keys in self.updated.values() for key in keys}
        return sorted({*self.inserted, *self.deleted, *changed})

    @property
    def summary(self) -> str:
        """What was written in the target, for people."""
        updated = {key for keys in self.updated.values() for key in keys}
        rounded = "".join(
            f"; {number:,} moments of {column} were rounded down to the unit of the source"
            for column, number in self.rounded.items()
        )
        return (
            f"{self.mapping.name}: {len(self.keys):,} rows were written; {len(self.inserted):,} of"
            f" them are new, {len(updated):,} differ, {len(self.deleted):,} are deleted{rounded}"
        )


def stored_columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns of a table that can be written, quoted; computed ones cannot."""
    info = connection.execute(f"PRAGMA main.table_xinfo({quoted(table)})").fetchall()
    return [quoted(row[1]) for row in info if not row[6]]


def require_known_collations(connection: sqlite3.Connection, tables: Sequence[str]) -> None:
    """Refuse to write tables with an index whose order only the application knows.

    Raises:
        NotReversible: names the index and the collation.
    """
    for table in tables:
        found = connection.execute(
            "SELECT l.name, x.coll FROM pragma_index_list(?) AS l, pragma_index_xinfo(l.name) AS x"
            " WHERE upper(x.coll) NOT IN ('BINARY', 'NOCASE', 'RTRIM') ORDER BY 1, 2 LIMIT 1",
            (table,),
        ).fetchone()
        if found is not None:
            raise _known_to_application(f"index {found[0]} of {table}", f"collation {found[1]}")


def rule_of_application(error: Exception) -> NotReversible | None:
    """The error that rows need a collation or function that only the application has."""
    missing = re.search(r"(?:no such|unknown) (collation sequence|function): *(\w+)", str(error))
    if missing is None:
        return None
    kind = "collation" if missing[1].startswith("collation") else "function"
    return _known_to_application("an index or a constraint", f"{kind} {missing[2]}")


def _known_to_application(where: str, what: str) -> NotReversible:
    return NotReversible(
        f"The changed rows cannot be written to the source: {where} uses the {what}, which only the"
        " application defines",
        remedy="Drop that index in the source file, run again, and let the application create it"
        " anew; nothing was changed",
    )
