"""Unmanaged rows: rows in the target that were not written by a move.

A move makes a table equal to its source and would overwrite or delete unmanaged rows. A table with
such rows is refused until ADOPT_TARGET allows it. The ledger lists the tables that were moved
before; a backup contains the ledger, so a restored database is accepted.
"""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import ShapeError
from pipeline.core.quoting import quoted
from pipeline.declared import ledger
from pipeline.postgres.driver.statements import Ask

REMEDY = (
    "Set DATABASE_URL to another database, empty the table, or set ADOPT_TARGET=true to make"
    " these rows equal to the source"
)
_RECORDS = (ledger.watermarks, ledger.evidence)


def unmanaged(ask: Ask, tables: Iterable[str]) -> dict[str, int]:
    """Number of unmanaged rows by table of schema ``public``; other tables are left out."""
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
    """The message about such a table."""
    if rows == 1:
        return f"public.{table} of the target contains 1 row that was not written by a move"
    return f"public.{table} of the target contains {rows:,} rows that were not written by a move"


def require_own(ask: Ask, tables: Iterable[sa.Table]) -> None:
    """Refuse a target with unmanaged rows in any of these tables.

    Raises:
        ShapeError: names the first such table; nothing was changed.
    """
    for table, rows in unmanaged(ask, [table.name for table in tables]).items():
        raise ShapeError(sentence(table, rows), remedy=REMEDY)


def _known(ask: Ask) -> set[str]:
    """Names of the tables that were moved into this database before."""
    known: set[str] = set()
    for record in _RECORDS:
        if _one(ask, f"to_regclass('{record.fullname}') IS NOT NULL"):
            known |= {name for (name,) in ask(f"SELECT DISTINCT table_name FROM {record.fullname}")}
    return known


def _is_readable_table(ask: Ask, name: str) -> bool:
    # The server itself refuses moves into tables that this user cannot read.
    literal = name.replace("'", "''")
    readable = "relkind IN ('r', 'p') AND has_table_privilege(oid, 'SELECT')"
    rows = f"FROM pg_class WHERE oid = to_regclass('{literal}') AND {readable}"
    return bool(_one(ask, f"EXISTS (SELECT {rows})"))


def _one(ask: Ask, expression: str) -> Any:
    return ask(f"SELECT {expression}")[0][0]
