"""Private tables: copies of rows of the live file in private files of the same connection."""

import sqlite3
from collections.abc import Collection, Iterable

from pipeline.core.quoting import quoted
from pipeline.mapping.casts.cast import affinity
from pipeline.mapping.matching import folded
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading.source_view import SourceView

LIVE = "live"
"""The schema name of the live file within the connection."""


def create(
    source: SourceView,
    connection: sqlite3.Connection,
    mapping: TableMapping,
    schema: str,
    names: Iterable[str],
    *,
    untyped: Collection[str] = (),
) -> None:
    """Create an empty private table whose rows have the same row ids as in the live file.

    Args:
        untyped: columns without a type, which store every value unchanged.
    """
    row_id, table = source.row_id_column(mapping), quoted(mapping.name)
    key = folded(mapping.key.name)
    declared = {folded(column.name): column.declared for column in source.columns(mapping.name)}
    info = connection.execute(f"PRAGMA {LIVE}.table_list({table})").fetchall()
    strict = any(row[5] for row in info)
    types = {
        folded(name): "" if name in untyped else _type_word(declared[folded(name)], strict=strict)
        for name in names
    }
    options = ""
    if row_id == quoted(mapping.key.name):
        types[key] = "INTEGER PRIMARY KEY"
    elif not source.has_rowid(mapping):
        types[key] += " PRIMARY KEY"
        options = " WITHOUT ROWID"
    columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in types.items())
    # A table cannot be dropped while another statement of the connection reads.
    connection.execute(f"CREATE TABLE IF NOT EXISTS {schema}.{table} ({columns}){options}")
    connection.execute(f"DELETE FROM {schema}.{table}")
    if "PRIMARY KEY" not in types[key]:
        index = f"{schema}.{quoted(f'pipeline key of {mapping.name}')}"
        connection.execute(
            f"CREATE INDEX IF NOT EXISTS {index} ON {table} ({quoted(mapping.key.name)})"
        )


def copy_rows(
    source: SourceView,
    connection: sqlite3.Connection,
    mapping: TableMapping,
    schema: str,
    outputs: dict[str, str],
    rest: str,
    parameters: tuple[object, ...] = (),
) -> None:
    """Copy rows of the live file to a private table.

    Args:
        outputs: column -> SQL for its value.
    """
    row_id, table = source.row_id_column(mapping), quoted(mapping.name)
    if source.has_rowid(mapping):
        outputs = outputs | {row_id: row_id}
    connection.execute(
        f"INSERT INTO {schema}.{table} ({', '.join(outputs)})"
        f" SELECT {', '.join(outputs.values())} FROM {LIVE}.{table} {rest}",
        parameters,
    )


def _type_word(declared: str, *, strict: bool) -> str:
    """The affinity of a declared type as DDL, which leaves stored values unchanged.

    ANY converts nothing in a STRICT table, but text that looks like a number in other tables.
    """
    return "" if strict and declared.upper() == "ANY" else affinity(declared)
