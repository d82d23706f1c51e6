"""Tables of the target in files, all as they were at one moment.

Rows travel by COPY in its binary form, in which every value is exact, straight from the socket
into the file: memory is bounded by the largest row.
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
"""MD5s of all rows added up: no order, and no memory for it, is needed to compare them."""

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
    """Write tables into files of a folder.

    Args:
        url: the target, as libpq reads it.
        shown: what messages call it.
        parts: tables that are looked for, and which of their rows, empty for all; they need not
            be there.
        folder: it gets a file for each table that is there.

    Raises:
        TargetError: the server does not answer, or refuses.
        ShapeError: a name belongs to something else than one plain table.
    """
    with session(url, shown=shown, reading=True) as cursor:
        return tuple(
            _back_up(cursor, TargetTable(table.schema or PUBLIC, table.name, True, only), folder)
            for table, only in parts
        )


def exists(cursor: Any, schema: str, name: str) -> bool:
    """Whether a table is there.

    Raises:
        ShapeError: the name belongs to something else than one plain table.
    """
    facts = relations.inspect(partial(_rows, cursor), schema, name)
    if facts is not None:
        relations.require_plain(name, facts, schema=schema)
    return facts is not None


def _rows(cursor: Any, query: str) -> Any:
    cursor.execute(query)
    return cursor.fetchall()


def at(schema: str, name: str) -> str:
    """A name with its schema, quoted."""
    return f"{quoted(schema)}.{quoted(name)}"


def columns(cursor: Any, table: str) -> tuple[str, ...]:
    """The columns of a table that hold values of their own, in order."""
    cursor.execute(_COLUMNS, (table,))
    return tuple(name for name, _, generated in cursor.fetchall() if not generated)


def digest(cursor: Any, table: str, only: str) -> tuple[int, str]:
    """Rows of a table, and a digest of all their values; the server makes both.

    Args:
        cursor: a session.
        table: its name, quoted, with its schema.
        only: SQL that is true of the rows that count; empty for all.
    """
    cursor.execute(_COLUMNS, (table,))
    # The text of a large bytea has twice its size, and a limit.
    values = [f"md5({quoted(name)})" if blob else quoted(name) for name, blob, _ in cursor]
    cursor.execute(_DIGEST.format(values=", ".join(values), table=table, only=only or "true"))
    rows, found = cursor.fetchone()
    return int(rows), str(found)


def _back_up(cursor: Any, asked: TargetTable, folder: Path) -> TargetTable:
    if not exists(cursor, asked.schema, asked.name):
        return replace(asked, there=False)
    table = at(asked.schema, asked.name)
    cursor.execute(definition.path(quoted(asked.schema)))
    rows, values = digest(cursor, table, asked.only)
    names = columns(cursor, table)
    path = folder / asked.file
    with private.opened(path, "wb") as file:
        hashed = _Hashed(file)
        listed = ", ".join(map(quoted, names))
        taken = f"{table} ({listed})"
        if asked.only:
            taken = f"(SELECT {listed} FROM ONLY {table} WHERE {asked.only})"
        cursor.copy_expert(f"COPY {taken} TO STDOUT (FORMAT binary)", hashed)
    store.onto_disk(path)
    return replace(
        asked,
        rows=rows,
        bytes=path.stat().st_size,
        sha256=hashed.sha256.hexdigest(),
        digest=values,
        columns=names,
        definition=definition.define(cursor, table),
        counters=_counters(cursor, asked.schema, table),
        publications=definition.published(cursor, table),
    )


def _counters(cursor: Any, schema: str, table: str) -> tuple[Counter, ...]:
    cursor.execute(_COUNTERS, (table,))
    found = []
    for (name,) in cursor.fetchall():
        cursor.execute(f"SELECT last_value, is_called FROM {at(schema, name)}")
        found.append(Counter(name, *cursor.fetchone()))
    return tuple(found)


class _Hashed:
    """A file whose digest is known when it has been written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)
