"""Unique values that rows exchange: SQLite checks them at each statement."""

import sqlite3

from pipeline.core.quoting import quoted
from pipeline.cutover.source.changed_rows import Replayed
from pipeline.mapping.matching import folded


def release(connection: sqlite3.Connection, found: Replayed) -> None:
    """Replace unique values by random ones until all rows get their new values.

    SQLite checks unique constraints at each statement, so two rows cannot swap a value directly.
    """
    table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
    unique = _unique_columns(connection, found.mapping.name)
    # The temporary values need not meet any CHECK, but the types of a STRICT table.
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for name in sorted(found.updated):
        column = found.mapping.in_source(name)
        if folded(column) not in unique:
            continue
        value = (
            f"CASE typeof({column}) WHEN 'null' THEN NULL WHEN 'integer' THEN random()"
            " WHEN 'real' THEN random() * 1.0 WHEN 'blob' THEN randomblob(16)"
            " ELSE hex(randomblob(16)) END"
        )
        connection.executemany(
            f"UPDATE {table} SET {column} = {value} WHERE {key} = ? COLLATE BINARY",
            [(k,) for k in found.updated[name]],
        )
    connection.execute("PRAGMA ignore_check_constraints = OFF")


def _unique_columns(connection: sqlite3.Connection, table: str) -> set[str]:
    found = connection.execute(
        "SELECT i.name FROM pragma_index_list(?) AS l, pragma_index_info(l.name) AS i"
        ' WHERE l."unique"',
        (table,),
    )
    return {folded(quoted(name)) for (name,) in found if name is not None}
