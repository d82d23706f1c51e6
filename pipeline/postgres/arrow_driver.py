"""Connections of the Arrow driver, which share what it has read of a database's types.

To read them takes the driver a connection of its own and longer than all else that it begins with.
So a process keeps them, by URL, and asks each new connection whether they are still the same.
"""

import threading
from collections import OrderedDict
from typing import Any

import adbc_driver_manager
import adbc_driver_postgresql
from adbc_driver_manager import dbapi

_KEPT = 16
"""So many databases are kept at a time; those of the last URLs that were asked for."""

# PostgreSQL's own types have lower numbers, the same ones in every database. Rows of tables are
# types, too, but no query reads them as one value.
_TYPES = """
SELECT pg_catalog.hashtextextended(pg_catalog.string_agg(pg_catalog.concat_ws(' ', t.oid, t.typname,
         t.typtype, t.typelem, t.typbasetype, t.typreceive::oid, t.typsend::oid), ','
         ORDER BY t.oid), 0)
FROM pg_catalog.pg_type AS t LEFT JOIN pg_catalog.pg_type AS element ON element.oid = t.typelem
WHERE t.oid >= 16384 AND t.typtype <> 'c' AND element.typtype IS DISTINCT FROM 'c'
"""


class _Database:
    """The driver's handle of a database and of its types; it holds no connection."""

    def __init__(self, url: str) -> None:
        self._handle = adbc_driver_postgresql.connect(url)
        self._users, self._mine = 1, threading.Lock()
        self.types: int | None = None

    def hold(self) -> None:
        """Keep the handle until ``close`` is called once more."""
        with self._mine:
            self._users += 1

    def connection(self) -> dbapi.Connection:
        """One more connection, in autocommit mode; for who holds the handle, which it then does."""
        try:
            connection = adbc_driver_manager.AdbcConnection(self._handle)
        except BaseException:
            self.close()
            raise
        shared: Any = self  # Of a database, a connection calls nothing but ``close``.
        return dbapi.Connection(shared, connection, autocommit=True)

    def close(self) -> None:
        """Free the handle when nobody holds it any more."""
        with self._mine:
            self._users -= 1
            if not self._users:
                self._handle.close()


_kept: OrderedDict[str, _Database] = OrderedDict()
_lock = threading.Lock()


def connect(url: str) -> dbapi.Connection:
    """Open a connection in autocommit mode.

    Raises:
        adbc_driver_manager.Error: the server does not answer, or refuses.
        ValueError: the URL cannot be handed over.
    """
    with _lock:
        known = _kept.get(url)
        if known is not None:
            known.hold()
    if known is not None:
        connection = known.connection()
        if _types(connection) == known.types:
            return connection
        connection.close()
    known = _Database(url)
    connection = known.connection()
    known.types = _types(connection)
    known.hold()
    _keep(url, known)
    return connection


def _keep(url: str, database: _Database) -> None:
    with _lock:
        left = [_kept.pop(url)] if url in _kept else []
        _kept[url] = database
        if len(_kept) > _KEPT:
            left.append(_kept.popitem(last=False)[1])
    for each in left:
        each.close()


def _types(connection: dbapi.Connection) -> Any:
    """A digest of the types that the database has beside PostgreSQL's own, None where it has none.

    Raises:
        adbc_driver_manager.Error: the connection is lost; it is closed.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute(_TYPES)
            return next(iter(cursor.fetchone() or ()))
    except BaseException:
        connection.close()
        raise
