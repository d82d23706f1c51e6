"""What SQLite's PRAGMAs tell of all tables, in one query each."""

import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from pipeline.core.quoting import literal, quoted

_OBJECTS = "SELECT type, name, tbl_name, sql FROM {schema}.sqlite_master ORDER BY rowid"
_TABLES = "PRAGMA {schema}.table_list"
_COLUMNS = """
SELECT m.name, c.name, c.type, c."notnull", c.dflt_value, c.pk, c.hidden
FROM {schema}.sqlite_master m, pragma_table_xinfo(m.name, {text}) c
WHERE m.type = 'table' AND m.rootpage > 0 ORDER BY m.rowid, c.cid
"""
_INDEXES = """
SELECT m.name, i.name, i."unique", i.origin, c.name, c.coll, c."desc"
FROM {schema}.sqlite_master m, pragma_index_list(m.name, {text}) i,
     pragma_index_xinfo(i.name, {text}) c
WHERE m.type = 'table' AND m.rootpage > 0 AND c."key" ORDER BY m.rowid, i.seq DESC, c.seqno
"""
_REFERENCES = """
SELECT m.name, k.id, k."table", k."from", k."to", k.on_delete, k.on_update
FROM {schema}.sqlite_master m, pragma_foreign_key_list(m.name, {text}) k
WHERE m.type = 'table' AND m.rootpage > 0 ORDER BY m.rowid, k.id DESC, k.seq
"""


@dataclass(frozen=True)
class ObjectRow:
    """An object of the catalog.

    Attributes:
        kind: ``table``, ``index``, ``view`` or ``trigger``.
        table: the table that it belongs to.
    """

    kind: str
    name: str
    table: str
    sql: str


@dataclass(frozen=True)
class TableRow:
    """A table or view; ``kind`` is ``table``, ``view``, ``virtual`` or ``shadow``."""

    kind: str
    without_rowid: bool
    strict: bool


@dataclass(frozen=True)
class ColumnRow:
    """A column; ``key`` is its place in the primary key from 1, 0 if it is not part of it."""

    name: str
    declared: str
    not_null: bool
    default: str | None
    key: int
    hidden: int


@dataclass(frozen=True)
class IndexRow:
    """An index.

    Attributes:
        origin: ``c`` of a statement, ``u`` of a UNIQUE constraint, ``pk`` of the primary key.
        parts: name of the column, None for an expression; collation in upper case; descending.
    """

    name: str
    unique: bool
    origin: str
    parts: tuple[tuple[str | None, str, bool], ...]


@dataclass(frozen=True)
class ReferenceRow:
    """A foreign key; ``parent_columns`` are None if it names none."""

    parent: str
    columns: tuple[str, ...]
    parent_columns: tuple[str | None, ...]
    on_delete: str
    on_update: str


class Catalog:
    """The catalog of a database; the connection returns texts as bytes.

    A name that is not UTF-8 has surrogates.
    """

    def __init__(self, connection: sqlite3.Connection, schema: str) -> None:
        """Read from a schema such as ``main``."""
        self._cursor, self._schema = connection.cursor(), schema
        self._cursor.row_factory = None

    def objects(self) -> list[ObjectRow]:
        """All objects that a statement created, in this order, without SQLite's own."""
        return [
            ObjectRow(_name(kind), _name(name), _sql(table), _sql(sql))
            for kind, name, table, sql in self._rows(_OBJECTS)
            if sql is not None and not name.lower().startswith(b"sqlite_")
        ]

    def tables(self) -> dict[str, TableRow]:
        """Tables and views by name."""
        return {
            _name(name): TableRow(_name(kind), bool(without_rowid), bool(strict))
            for _, name, kind, _, without_rowid, strict in self._rows(_TABLES)
        }

    def columns(self) -> dict[str, list[ColumnRow]]:
        """The columns of ordinary tables, by table."""
        found = defaultdict(list)
        for table, name, declared, not_null, default, key, hidden in self._rows(_COLUMNS):
            found[_name(table)].append(
                ColumnRow(
                    _name(name),
                    " ".join(_sql(declared).split()),
                    bool(not_null),
                    None if default is None else _sql(default),
                    key,
                    hidden,
                )
            )
        return found

    def indexes(self) -> dict[str, list[IndexRow]]:
        """The indexes of ordinary tables, by table, in the order of their creation."""
        parts = defaultdict(list)
        for table, index, unique, origin, column, collation, descending in self._rows(_INDEXES):
            given = (_name(table), _name(index), bool(unique), _name(origin))
            name = None if column is None else _name(column)
            parts[given].append((name, _sql(collation).upper(), bool(descending)))
        found = defaultdict(list)
        for (table, index, unique, origin), columns in parts.items():
            found[table].append(IndexRow(index, unique, origin, tuple(columns)))
        return found

    def references(self) -> dict[str, list[ReferenceRow]]:
        """The foreign keys of ordinary tables, by table, in the order of the statement."""
        pairs = defaultdict(list)
        for table, number, parent, column, to, on_delete, on_update in self._rows(_REFERENCES):
            given = (_name(table), number, _sql(parent), _name(on_delete), _name(on_update))
            pairs[given].append((_name(column), None if to is None else _sql(to)))
        found = defaultdict(list)
        for (table, _, parent, on_delete, on_update), columns in pairs.items():
            own, others = zip(*columns, strict=True)
            found[table].append(ReferenceRow(parent, own, others, on_delete, on_update))
        return found

    def columns_of_view(self, view: str) -> tuple[str, ...]:
        """The names of a view's columns.

        Raises:
            sqlite3.OperationalError: SQLite cannot compile the view.
        """
        sql = f"PRAGMA {quoted(self._schema)}.table_xinfo({quoted(view)})"
        return tuple(_name(row[1]) for row in self._cursor.execute(sql))

    def _rows(self, query: str) -> list[Any]:
        sql = query.format(schema=quoted(self._schema), text=literal(self._schema))
        return self._cursor.execute(sql).fetchall()


def _name(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _sql(text: bytes) -> str:
    return text.decode("utf-8", "replace")
