"""Tables that SQLite derives from the moved ones: full-text indexes.

They are checked before and after rows are written back. One that was consistent and no longer is
(no trigger keeps it, or the trigger did not run) is rebuilt. One that was not consistent before is
left as it is, because the application may index only some rows.
"""

import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.core.quoting import quoted
from pipeline.mapping.matching import folded

_MODULE = re.compile(r"\bUSING\s+(fts[345])\b", re.IGNORECASE)
_CONTENT = re.compile(
    r"""\bcontent\s*=\s*(?:"([^"]*)"|'([^']*)'|\[([^\]]*)\]|(\w+))""", re.IGNORECASE
)


@dataclass(frozen=True)
class FullTextIndex:
    """A full-text index; ``content`` is the table that it indexes, None if it has its own rows."""

    name: str
    module: str
    content: str | None

    def check(self, connection: sqlite3.Connection) -> str | None:
        """Why it is not consistent; None if it is."""
        name = quoted(self.name)
        sql = f"INSERT INTO {name} ({name}) VALUES ('integrity-check')"
        if self.module == "fts5":
            # Compare with the indexed table as well.
            sql = f"INSERT INTO {name} ({name}, rank) VALUES ('integrity-check', 1)"
        try:
            connection.cursor().execute(sql)
        except sqlite3.DatabaseError as error:
            return str(error)
        return None

    def rebuild(self, connection: sqlite3.Connection) -> None:
        """Index all rows again."""
        name = quoted(self.name)
        connection.execute(f"INSERT INTO {name} ({name}) VALUES ('rebuild')")


def find(
    connection: sqlite3.Connection, tables: Iterable[str], *, written: Iterable[str]
) -> list[FullTextIndex]:
    """Full-text indexes of moved tables, of views, and those that triggers write."""
    moved, by_triggers = ({folded(name) for name in names} for names in (tables, written))
    # A view may read a moved table.
    moved |= {
        folded(name)
        for (name,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'view'")
    }
    found = []
    for name, sql in connection.execute(
        "SELECT name, sql FROM main.sqlite_master WHERE type = 'table' AND rootpage = 0"
    ):
        module = _MODULE.search(sql or "")
        if module is None:
            continue
        content = _CONTENT.search(sql)
        of = next((each for each in content.groups() if each is not None), "") if content else None
        if folded(of or "") in moved or folded(name) in by_triggers:
            found.append(FullTextIndex(name, module[1].lower(), of))
    return found
