"""Integrity checks of a file whose schema may use what only the application has."""

import contextlib
import sqlite3

from pipeline.core.quoting import quoted
from pipeline.sqlite.catalog import collations

_STORED = 3
"""The value of ``hidden`` in ``table_xinfo`` for a computed column that is stored."""

_UNKNOWN = ("no such function", "unknown function", "no such collation")


def check(connection: sqlite3.Connection, *, most: int) -> tuple[list[str], list[str]]:
    """Problems of a file, and the tables of which only the rows were checked.

    Args:
        connection: knows stand-ins for the collations, see ``collations.stand_in``.
        most: the number of problems that are listed, approximately.
    """
    if not collations.unknown(connection):
        with contextlib.suppress(_Unknown):
            return _problems(connection, f"integrity_check({most})"), []
    problems: list[str] = []
    skipped: list[str] = []
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name"
    ).fetchall()
    for (name,) in tables:
        if len(problems) >= most:
            break
        try:
            if collations.named_by(connection, name) - collations.BUILT_IN:
                raise _Unknown
            problems += _problems(connection, f"integrity_check({quoted(name)})")
        except _Unknown:
            skipped.append(name)
            connection.execute(_reading(connection, name)).fetchone()
    return problems, skipped


class _Unknown(Exception):
    """The check needs what only the application has."""


def _problems(connection: sqlite3.Connection, pragma: str) -> list[str]:
    try:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}")]
    except sqlite3.OperationalError as error:
        if _is_unknown(error):
            raise _Unknown from error
        raise
    return [] if found == ["ok"] else found


def rows(connection: sqlite3.Connection, table: str) -> sqlite3.Cursor:
    """All rows of a table, without computed values if only the application can compute them."""
    try:
        return connection.execute(f"SELECT * FROM {quoted(table)} NOT INDEXED")
    except sqlite3.OperationalError as error:
        if not _is_unknown(error):
            raise
    stored = ", ".join(_stored(connection, table))
    return connection.execute(f"SELECT {stored} FROM {quoted(table)} NOT INDEXED")


def _reading(connection: sqlite3.Connection, table: str) -> str:
    """A query that reads every stored value of a table, without its indexes."""
    sizes = ", ".join(f"total(length({name}))" for name in _stored(connection, table))
    return f"SELECT {sizes} FROM {quoted(table)} NOT INDEXED"


def _stored(connection: sqlite3.Connection, table: str) -> list[str]:
    info = connection.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
    return [quoted(row[1]) for row in info if row[6] in (0, _STORED)]


def _is_unknown(error: sqlite3.OperationalError) -> bool:
    return any(text in str(error) for text in _UNKNOWN)
