"""Rows whose parent row is missing or in quarantine, as SQL for SQLite, and the reasons.

A foreign key of the target compares exactly. In the source, a collation of the parent's key may
find a row that PostgreSQL does not find.
"""

import sqlite3
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from pipeline.core.quoting import literal, quoted
from pipeline.mapping.row_key import RowKey

_BUILT_IN = ("NOCASE", "RTRIM")

OUTPUTS = 3
"""Number of outputs of ``outputs``."""


def outputs(
    column: str, parent: sa.Table, collation: str | None, *, all_rows_prefix: str = ""
) -> list[str]:
    """SQL: whether the parent is missing, or in quarantine; and what the source finds instead.

    The last is a key that is equal by the collation of the parent's key, or that collation if only
    the application has it.
    """
    missing, held = conditions(column, parent, all_rows_prefix)
    found = "NULL"
    if collation in _BUILT_IN:
        found = f"(SELECT key FROM temp.{_collated(parent)} AS c WHERE c.key = r.{quoted(column)})"
    elif collation is not None:
        found = literal(collation)
    return [missing, held, found]


def conditions(column: str, parent: sa.Table, all_rows_prefix: str = "") -> tuple[str, str]:
    """SQL: whether the parent is missing, and whether it is in quarantine."""
    key, name = f"p.{RowKey.of(parent).sql}", f"r.{quoted(column)}"
    among = f"{all_rows_prefix}{quoted(parent.name)}"
    # The first condition finds rows by the index, the second compares exactly.
    same = f"{key} = {name} AND {key} = {name} COLLATE BINARY"
    exists = f"EXISTS (SELECT 1 FROM {among} AS p WHERE {same})"
    held = f"CAST({name} AS TEXT) IN (SELECT key FROM temp.{quoted(f'held {parent.name}')})"
    return f"{name} IS NOT NULL AND NOT {exists}", f"{name} IS NOT NULL AND {held}"


def reason(
    parent: sa.Table, values: Sequence[object], collation: str | None
) -> tuple[str, str] | None:
    """Code and message for the values of ``outputs``; None if the parent is there."""
    missing, held, found = values
    if missing and isinstance(found, bytes):
        if collation in _BUILT_IN:
            key = found.decode("utf-8", "replace").replace("\0", "\N{SYMBOL FOR NULL}")
            return "orphan", (
                f"refers to a row of {parent.name} only under {collation}, which equates its key"
                f" with {key!r}; PostgreSQL compares exactly"
            )
        return "orphan", (
            f"refers to a row of {parent.name} that is not in the source under exactly this key;"
            f" its keys use the collation {collation}, which only the application has"
        )
    if missing:
        return "orphan", f"refers to a row of {parent.name} that is not in the source"
    if held:
        return "held", f"refers to a row of {parent.name} that is in quarantine"
    return None


def store_held_keys(source: sqlite3.Connection, held: dict[str, set[str]]) -> None:
    """Store the keys of held rows in temporary tables."""
    for parent, keys in held.items():
        name = quoted(f"held {parent}")
        # A table cannot be dropped while another statement of the connection reads.
        source.execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} (key TEXT PRIMARY KEY)")
        source.execute(f"DELETE FROM temp.{name}")
        source.executemany(f"INSERT INTO {name} VALUES (?)", ((key,) for key in keys))


def store_collated_keys(
    source: sqlite3.Connection,
    parents: Sequence[sa.Table],
    collations: Mapping[str, str | None],
    *,
    all_rows_prefix: str = "",
) -> None:
    """Store the keys of parents whose collation finds more rows in temporary tables."""
    for parent in parents:
        collation = collations.get(parent.name)
        if collation in _BUILT_IN:
            name, key = _collated(parent), RowKey.of(parent).sql
            source.execute(
                f"CREATE TEMP TABLE IF NOT EXISTS {name} (key TEXT COLLATE {collation} PRIMARY KEY)"
            )
            source.execute(f"DELETE FROM temp.{name}")
            source.execute(
                f"INSERT OR IGNORE INTO temp.{name} SELECT {key}"
                f" FROM {all_rows_prefix}{quoted(parent.name)} WHERE typeof({key}) = 'text'"
                f" ORDER BY {key} COLLATE BINARY"
            )


def _collated(parent: sa.Table) -> str:
    return quoted(f"collated {parent.name}")
