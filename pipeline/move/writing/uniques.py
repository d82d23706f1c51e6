"""What is unique beside the key: values that rows hand on to each other, and such that come twice.

PostgreSQL holds each row against the others as it is written, so two rows that swap a value cannot
be written one after the other, whatever the order. A constraint that this concerns is dropped in
the transaction of the move and built again after the rows; a deferrable one would not do, because
``ON CONFLICT`` of the application could not name it. Values that the source really has twice belong
to the row that has them already, or else to the smallest key: the others are rejected before they
are written.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.mapping.contract import Reason
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading.batch_converter import BatchConverter
from pipeline.move.writing.load import STAGE
from pipeline.postgres import schema
from pipeline.postgres.target import DataFault, Target

_TWICE = "23505"

_HELD = """
SELECT s.{key}, min(t.{key}{collation}) FROM {stage} AS s JOIN {table} AS t ON {same}
  AND t.{key} <> s.{key} WHERE NOT EXISTS (SELECT FROM {stage} AS o WHERE o.{key} = t.{key})
  GROUP BY s.{key}
UNION ALL SELECT {key}, first FROM ({repeated}) AS r
"""
"""Staged rows whose values a row holds that is not staged, or an earlier one that is."""

_REPEATED = """
SELECT {key}, first_value({key}) OVER (PARTITION BY {columns} ORDER BY {key}{collation}) AS first
  FROM {table} WHERE {known}
"""

_IN_THE_WAY = """
SELECT EXISTS (SELECT FROM {stage} AS s JOIN {table} AS t ON {same} AND t.{key} <> s.{key})
"""


def reject_held(target: Target, converter: BatchConverter, unique: sa.UniqueConstraint) -> None:
    """Take staged rows whose values belong to other rows out of the stage, and reject them."""
    words = _words(converter.mapping, unique)
    repeated = _first_only(_REPEATED.format(**words | {"table": STAGE}), words)
    held = dict(target.rows(_HELD.format(**words, repeated=repeated)))
    if held:
        target.rows(
            f"DELETE FROM {STAGE} WHERE {words['key']} = ANY($1) RETURNING 1", (list(held),)
        )
        _reject(converter, unique, held)


def make_way(target: Target, mapping: TableMapping) -> None:
    """Drop the constraints that staged rows could not keep one by one; they are built again.

    One that something else of the target needs stays, and rows that it stops are rejected.
    """
    for unique in schema.uniques_of(mapping.table):
        if target.value(_IN_THE_WAY.format(**_words(mapping, unique))):
            # PostgreSQL changes no table of which work is still deferred.
            target.settle()
            name = quoted(str(unique.name))
            with contextlib.suppress(DataFault), target.savepoint():
                target.run(f"ALTER TABLE {quoted(mapping.name)} DROP CONSTRAINT IF EXISTS {name}")


def build(target: Target, converter: BatchConverter, statements: Iterable[str]) -> None:
    """Add keys to a table that was filled bare; rows that repeat values are taken out, rejected.

    Raises:
        DataFault: rows forbid a key for another reason.
    """
    for statement in statements:
        try:
            with target.savepoint():
                target.run(statement)
        except DataFault as fault:
            if fault.sqlstate != _TWICE or not _take_out(target, converter):
                raise
            target.run(statement)


def _take_out(target: Target, converter: BatchConverter) -> bool:
    mapping, found = converter.mapping, False
    for unique in schema.uniques_of(mapping.table):
        words = _words(mapping, unique)
        repeated = _first_only(_REPEATED.format(**words), words)
        key, table = words["key"], words["table"]
        gone = target.rows(
            f"DELETE FROM {table} AS t USING ({repeated}) AS r WHERE t.{key} = r.{key}"
            f" RETURNING r.{key}, r.first"
        )
        _reject(converter, unique, dict(gone))
        found = found or bool(gone)
    return found


def _reject(converter: BatchConverter, unique: sa.UniqueConstraint, held: dict[Any, Any]) -> None:
    """Say which row has the values, and never which values: they may be secret."""
    names = [column.name for column in unique.columns]
    column = names[0] if len(names) == 1 else None
    what = "is" if column else f"{' and '.join(names)} are"
    for holder in dict.fromkeys(held.values()):
        keys = [key for key, of in held.items() if of == holder]
        converter.reject(keys, Reason("unique", column, f"{what} the same as in row {holder}"))


def _first_only(repeated: str, words: dict[str, str]) -> str:
    return f"SELECT * FROM ({repeated}) AS r WHERE {words['key']} <> first"


def _words(mapping: TableMapping, unique: sa.UniqueConstraint) -> dict[str, str]:
    columns: Sequence[str] = [quoted(column.name) for column in unique.columns]
    text = mapping.casts[mapping.key.name].raw == pa.string()
    return {
        "key": quoted(mapping.key.name),
        "collation": ' COLLATE "C"' if text else "",
        "stage": STAGE,
        "table": quoted(mapping.name),
        "columns": ", ".join(columns),
        "same": " AND ".join(f"t.{name} = s.{name}" for name in columns),
        "known": " AND ".join(f"{name} IS NOT NULL" for name in columns),
    }
