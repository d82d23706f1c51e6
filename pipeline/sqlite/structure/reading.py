"""Reading of what a SQLite database declares."""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pipeline.mapping.matching import folded
from pipeline.sqlite.structure import tables, virtual
from pipeline.sqlite.structure.model import Schema, Table, Trigger, View
from pipeline.sqlite.structure.pragmas import Catalog, ObjectRow

_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_UTF8 = "its name is not UTF-8"
_COLUMN_NOT_UTF8 = "the name of a column is not UTF-8"


def read(connection: sqlite3.Connection, *, schema: str = "main") -> Schema:
    """Read the structure of a database.

    The connection may return texts as bytes, and needs no collation or function of the
    application. The structure must not change meanwhile.

    Raises:
        sqlite3.DatabaseError: SQLite cannot read the catalog. As for every other query, the owner
            of the connection translates it, see ``pipeline.sqlite.catalog.faults``.
    """
    with _texts_as_bytes(connection):
        return _Reader(Catalog(connection, schema)).schema()


@contextmanager
def _texts_as_bytes(connection: sqlite3.Connection) -> Iterator[None]:
    before = connection.text_factory
    connection.text_factory = bytes
    try:
        yield
    finally:
        connection.text_factory = before


class _Reader:
    """Reads the objects of a catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._unreadable: dict[str, str] = {}
        self._lost: set[str] = set()
        self._rows = catalog.tables()
        self._objects = list(self._readable(catalog.objects()))

    def schema(self) -> Schema:
        """All of them."""
        stored = virtual.tables(
            {each.name: each.sql for each in self._of("table") if self._is(each, "virtual")},
            {each.name: self._rows[each.name].kind for each in self._of("table")},
        )
        shadows = {name for each in stored for name in each.shadows}
        ordinary = tables.resolved(self._tables(shadows))
        views = tuple(self._views())
        names = {folded(each.name): each.name for each in self._objects if each.kind != "trigger"}
        return Schema(
            tables=tuple(ordinary),
            virtual=tuple(stored),
            views=views,
            triggers=tuple(
                Trigger(each.name, names.get(folded(each.table), each.table), each.sql)
                for each in self._of("trigger")
            ),
            unreadable=self._unreadable,
            unreadable_tables=frozenset(self._lost),
        )

    def _tables(self, shadows: set[str]) -> Iterator[Table]:
        columns, indexes = self._catalog.columns(), self._catalog.indexes()
        references = self._catalog.references()
        statements = {each.name: each.sql for each in self._of("index")}
        for each in self._of("table"):
            if not self._is(each, "table") or each.name in shadows:
                continue
            if not all(_is_utf8(column.name) for column in columns[each.name]):
                self._unreadable[each.name] = _COLUMN_NOT_UTF8
                self._lost.add(each.name)
                continue
            yield tables.table(
                tables.Facts(
                    each,
                    self._rows[each.name],
                    columns[each.name],
                    indexes.get(each.name, []),
                    references.get(each.name, []),
                    statements,
                )
            )

    def _views(self) -> Iterator[View]:
        for each in self._of("view"):
            try:
                columns = self._catalog.columns_of_view(each.name)
                problem = None if all(map(_is_utf8, columns)) else _COLUMN_NOT_UTF8
            except UnicodeDecodeError:
                problem = _COLUMN_NOT_UTF8
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                    raise
                problem = str(error)
            if problem is not None:
                self._unreadable[each.name] = problem
            yield View(each.name, each.sql, () if problem else columns)

    def _of(self, kind: str) -> Iterator[ObjectRow]:
        return (each for each in self._objects if each.kind == kind)

    def _is(self, table: ObjectRow, kind: str) -> bool:
        return self._rows[table.name].kind == kind

    def _readable(self, objects: Iterable[ObjectRow]) -> Iterator[ObjectRow]:
        for each in objects:
            if _is_utf8(each.name):
                yield each
            else:
                shown = each.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                self._unreadable[shown] = _NOT_UTF8
                if each.kind == "table":
                    self._lost.add(shown)


def _is_utf8(name: str) -> bool:
    return _SURROGATE.search(name) is None
