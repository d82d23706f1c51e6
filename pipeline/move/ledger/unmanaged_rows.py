"""Whose rows a target holds: those of earlier moves, which the ledger knows, or somebody else's.

A move makes a table equal to its source. Rows that no move has set down would be overwritten or
deleted by that, so a table that holds some is refused until a person says that it may be adopted.
A database that was restored from a backup brings its ledger along, and is known.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import ShapeError
from pipeline.core.quoting import quoted
from pipeline.declared import ledger

Ask = Callable[[str], Sequence[Sequence[Any]]]
"""Executes a query without parameters and returns its rows."""

REMEDY = (
    "Name another database in DATABASE_URL, empty the table, or set ADOPT_TARGET=true to make"
    " these rows equal to the source"
)
_MEMORIES = (ledger.watermarks, ledger.evidence)


def unmanaged(ask: Ask, tables: Iterable[str]) -> dict[str, int]:
    """Tables of schema ``public`` with rows that no move has put there, and how many these are."""
    known = _known(ask)
    found = {}
    for table in tables:
        name = f"public.{quoted(table)}"
        if table in known or not _is_readable_table(ask, name):
            continue
        rows = int(_one(ask, f"(SELECT count(*) FROM {name})"))
        if rows:
            found[table] = rows
    return found


def sentence(table: str, rows: int) -> str:
    """What is said of such a table."""
    which = "1 row" if rows == 1 else f"{rows:,} rows"
    return f"public.{table} of the target holds {which} that no move has put there"


def require_own(ask: Ask, tables: Iterable[sa.Table]) -> None:
    """Refuse a target in which one of some tables holds somebody else's rows.

    Raises:
        ShapeError: names the first such table; nothing was changed.
    """
    for table, rows in unmanaged(ask, [table.name for table in tables]).items():
        raise ShapeError(sentence(table, rows), remedy=REMEDY)


def _known(ask: Ask) -> set[str]:
    """Names of the tables that were moved into this database before."""
    known: set[str] = set()
    for memory in _MEMORIES:
        if _one(ask, f"to_regclass('{memory.fullname}') IS NOT NULL"):
            known |= {name for (name,) in ask(f"SELECT DISTINCT table_name FROM {memory.fullname}")}
    return known


def _is_readable_table(ask: Ask, name: str) -> bool:
    # What this user may not even read is refused by the server.
    literal = name.replace("'", "''")
    readable = "relkind IN ('r', 'p') AND has_table_privilege(oid, 'SELECT')"
    there = f"FROM pg_class WHERE oid = to_regclass('{literal}') AND {readable}"
    return bool(_one(ask, f"EXISTS (SELECT {there})"))


def _one(ask: Ask, expression: str) -> Any:
    return ask(f"SELECT {expression}")[0][0]
