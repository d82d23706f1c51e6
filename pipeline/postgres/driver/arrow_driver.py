"""Connections of the Arrow driver that share its table of a database's types.

The driver reads the types over a connection of its own, which takes longer than all other steps of
a connect. A process therefore keeps the tables of several databases, by URL, and each new
connection checks that the types have not changed.
"""

import atexit
import contextlib
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

import adbc_driver_manager
import adbc_driver_postgresql
import pyarrow as pa
from adbc_driver_manager import dbapi

USE_COPY = "adbc.postgresql.use_copy"
"""The driver's option to read by COPY, one row at a time, which costs three round trips."""

_SLICE_BYTES = 256 * 1024
_KEPT = 16
"""Number of databases whose types are kept: those of the latest URLs."""

# PostgreSQL's own types have lower OIDs, which are the same in every database. Row types of tables
# are left out, because no query reads a whole row as one value.
_TYPES = """
SELECT pg_catalog.hashtextextended(pg_catalog.string_agg(pg_catalog.concat_ws(' ', t.oid, t.typname,
         t.typtype, t.typelem, t.typbasetype, t.typreceive::oid, t.typsend::oid), ','
         ORDER BY t.oid), 0)
FROM pg_catalog.pg_type AS t LEFT JOIN pg_catalog.pg_type AS element ON element.oid = t.typelem
WHERE t.oid >= 16384 AND t.typtype <> 'c' AND element.typtype IS DISTINCT FROM 'c'
"""


class _Database:
    """The driver's handle of a database with its types; it has no open connection."""

    def __init__(self, url: str) -> None:
        self._handle = adbc_driver_postgresql.connect(url)
        self._users, self._mine = 1, threading.Lock()
        self.types: int | None = None

    def hold(self) -> None:
        """Count one more user, who calls ``close`` later."""
        with self._mine:
            self._users += 1

    def connection(self) -> dbapi.Connection:
        """Open a connection in autocommit mode, which takes over the caller's use of the handle."""
        try:
            connection = adbc_driver_manager.AdbcConnection(self._handle)
        except BaseException:
            self.close()
            raise
        shared: Any = self  # A connection calls only ``close`` of its database.
        return dbapi.Connection(shared, connection, autocommit=True)

    def close(self) -> None:
        """Count one user less; the last one frees the handle."""
        with self._mine:
            self._users -= 1
            if not self._users:
                self._handle.close()


_kept: OrderedDict[str, _Database] = OrderedDict()
_ahead: dict[str, Future[dbapi.Connection]] = {}
_lock = threading.Lock()


def open_ahead(url: str) -> None:
    """Open a connection in the background, which the next ``connect`` with this URL takes over.

    The driver needs ten round trips to connect, during which a process can do something else.
    """
    opened: Future[dbapi.Connection] = Future()

    def open_it() -> None:
        try:
            opened.set_result(_open(url))
        except Exception as error:  # for whoever takes it over
            opened.set_exception(error)

    with _lock:
        if url in _ahead:
            return
        _ahead[url] = opened
    threading.Thread(target=open_it, name="connecting", daemon=True).start()


@atexit.register
def _close_unused() -> None:
    for opened in _ahead.values():
        if opened.done() and opened.exception() is None:
            opened.result().close()


def connect(url: str, script: str) -> dbapi.Connection:
    """Open a connection in autocommit mode, or take over one that was opened ahead.

    Args:
        url: the server.
        script: statements to execute first.

    Raises:
        adbc_driver_manager.Error: the server does not answer, or rejects the connection or the
            script.
        ValueError: the driver does not accept the URL.
    """
    with _lock:
        opened = _ahead.pop(url, None)
    if opened is not None:
        # What was opened ahead may have been lost meanwhile.
        with contextlib.suppress(adbc_driver_manager.Error):
            return _started(opened.result(), script)
    return _started(_open(url), script)


def _started(connection: dbapi.Connection, script: str) -> dbapi.Connection:
    try:
        with connection.cursor() as cursor:
            cursor.executescript(script)
    except BaseException:
        connection.close()
        raise
    return connection


def _open(url: str) -> dbapi.Connection:
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
    """A digest of the database's own types; None if it has none.

    Raises:
        adbc_driver_manager.Error: the connection was lost; it is closed.
    """
    try:
        with connection.cursor() as cursor:
            # Without COPY, which needs two more round trips.
            cursor.adbc_statement.set_options(**{USE_COPY: "false"})
            cursor.execute(_TYPES)
            return next(iter(cursor.fetchone() or ()))
    except BaseException:
        connection.close()
        raise


def in_slices(batch: pa.RecordBatch) -> pa.RecordBatchReader:
    """A batch in slices that fit into a socket's buffer.

    While the server reads one slice from the buffer, the driver can encode the next.
    """
    rows = max(1, batch.num_rows * _SLICE_BYTES // max(1, batch.nbytes))
    slices = [batch.slice(start, rows) for start in range(0, batch.num_rows, rows)]
    return pa.RecordBatchReader.from_batches(batch.schema, slices)
