"""Dump tables of the target into files, all from one snapshot.

Rows are written by binary COPY, which preserves every value exactly, straight from the socket into
the file. Memory use is bounded by the largest row.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from pipeline.backup import definition, store
from pipeline.backup.manifest import Counter, TargetTable
from pipeline.backup.session import session
from pipeline.core import private
from pipeline.core.quoting import quoted
from pipeline.postgres import relations

PUBLIC = "public"

_DIGEST = """
SELECT count(*), coalesce(sum(('x' || left(h, 16))::bit(64)::bigint::numeric), 0)::text
  || ' ' || coalesce(sum(('x' || right(h, 16))::bit(64)::bigint::numeric), 0)::text
  FROM (SELECT md5(ROW({values})::text) AS h FROM ONLY {table} WHERE {only}) AS hashed
"""
"""The sum of the MD5s of all rows: comparing it needs neither an order nor memory for a sort."""

_COLUMNS = """
SELECT attname::text, atttypid = 'bytea'::regtype, attgenerated <> '' FROM pg_attribute
  WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_COUNTERS = """
SELECT c.relname::text FROM pg_depend AS d JOIN pg_class AS c ON c.oid = d.objid
  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = to_regclass(%s) AND d.deptype IN ('a', 'i') AND c.relkind = 'S'
  ORDER BY c.relname
"""


def back_up(
    url: str, *, shown: str, parts: Iterable[tuple[sa.Table, str]], folder: Path
) -> tuple[TargetTable, ...]:
    """Dump tables into a folder, one file for each table that exists.

    Args:
        url: a libpq URL.
        shown: the target's name in messages.
        parts: tables, each with an SQL condition for its rows; an empty one means all rows.
        folder: receives the files.

    Raises:
        TargetError: the server does not answer or refuses.
        ShapeError: a name belongs to something other than one plain table.
    """
    with session(url, shown=shown, reading=True) as cursor:
        return tuple(
            _back_up(cursor, TargetTable(table.schema or PUBLIC, table.name, True, only), folder)
            for table, only in parts
        )


def exists(cursor: Any, schema: str, name: str) -> bool:
    """Whether a table exists.

    Raises:
        ShapeError: the name belongs to something other than one plain table.
    """
    facts = relations.inspect(partial(_rows, cursor), schema, name)
    if facts is not None:
        relations.require_plain(name, facts, schema=schema)
    return facts is not None


def _rows(cursor: Any, query: str) -> Any:
    cursor.execute(query)
    return cursor.fetchall()


def qualified(schema: str, name: str) -> str:
    """A schema-qualified name, quoted."""
    return f"{quoted(schema)}.{quoted(name)}"


def columns(cursor: Any, table: str) -> tuple[str, ...]:
    """The columns of a table that are not generated, in order."""
    cursor.execute(_COLUMNS, (table,))
    return tuple(name for name, _, generated in cursor.fetchall() if not generated)


def digest(cursor: Any, table: str, only: str) -> tuple[int, str]:
    """The number of rows and a digest of all their values, both computed by the server.

    ``only`` is an SQL condition for the rows to include; empty for all.
    """
    cursor.execute(_COLUMNS, (table,))
    # A bytea as text takes twice its size, and text is limited to 1 GB.
    values = [f"md5({quoted(name)})" if blob else quoted(name) for name, blob, _ in cursor]
    cursor.execute(_DIGEST.format(values=", ".join(values), table=table, only=only or "true"))
    rows, found = cursor.fetchone()
    return int(rows), str(found)


def _back_up(cursor: Any, requested: TargetTable, folder: Path) -> TargetTable:
    if not exists(cursor, requested.schema, requested.name):
        return replace(requested, existed=False)
    table = qualified(requested.schema, requested.name)
    cursor.execute(definition.set_search_path(quoted(requested.schema)))
    rows, values = digest(cursor, table, requested.only)
    names = columns(cursor, table)
    path = folder / requested.file
    with private.opened(path, "wb") as file:
        hashed = _HashedFile(file)
        listed = ", ".join(map(quoted, names))
        selected = f"{table} ({listed})"
        if requested.only:
            selected = f"(SELECT {listed} FROM ONLY {table} WHERE {requested.only})"
        cursor.copy_expert(f"COPY {selected} TO STDOUT (FORMAT binary)", hashed)
    store.flush_to_disk(path)
    return replace(
        requested,
        rows=rows,
        bytes=path.stat().st_size,
        sha256=hashed.sha256.hexdigest(),
        digest=values,
        columns=names,
        definition=definition.define(cursor, table),
        counters=_counters(cursor, requested.schema, table),
        publications=definition.publications(cursor, table),
    )


def _counters(cursor: Any, schema: str, table: str) -> tuple[Counter, ...]:
    cursor.execute(_COUNTERS, (table,))
    found = []
    for (name,) in cursor.fetchall():
        cursor.execute(f"SELECT last_value, is_called FROM {qualified(schema, name)}")
        found.append(Counter(name, *cursor.fetchone()))
    return tuple(found)


class _HashedFile:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)
