"""Unique constraints besides the primary key: rows that exchange values, and duplicate values.

PostgreSQL checks a unique constraint for each row, so two rows cannot swap a value in any order.
An affected constraint is dropped in the transaction of the move and built again after the rows. A
deferrable constraint is no alternative, because the application's ``ON CONFLICT`` could not use it.
If the source has duplicate values, the row that already has the value in the target keeps it, or
else the row with the smallest key; the other rows are rejected before they are written.

A carried column never costs a row: its unique constraint is left out if rows do not meet it.
"""

import contextlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.mapping.contract import Reason
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading.batch_converter import BatchConverter
from pipeline.move.writing.load import INDEXABLE_BYTES, STAGE
from pipeline.postgres import schema
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target

_DUPLICATE = "23505"

_HELD = """
SELECT s.{key}, min(t.{key}{collation}) FROM {stage} AS s JOIN {table} AS t ON {same}
  AND t.{key} <> s.{key} WHERE NOT EXISTS (SELECT FROM {stage} AS o WHERE o.{key} = t.{key})
  GROUP BY s.{key}
UNION ALL SELECT {key}, first FROM ({repeated}) AS r
"""
"""Staged rows whose values belong to a row that is not staged, or to an earlier staged row."""

_REPEATED = """
SELECT {key}, first_value({key}) OVER (PARTITION BY {columns} ORDER BY {key}{collation}) AS first
  FROM {table} WHERE {known}
"""

_OCCUPIED = """
SELECT EXISTS (SELECT FROM {stage} AS s JOIN {table} AS t ON {same} AND t.{key} <> s.{key})
"""

_VIOLATED = """
SELECT EXISTS (SELECT FROM {stage} AS s JOIN {table} AS t ON t.{value} = s.{value}
    AND t.{key} <> s.{key})
  OR EXISTS (SELECT FROM {stage} WHERE {value} IS NOT NULL GROUP BY {value} HAVING count(*) > 1)
  OR EXISTS (SELECT FROM {stage} WHERE octet_length({value}::text) > {indexable})
""".replace("{indexable}", str(INDEXABLE_BYTES))
_LONGEST_NAME = 63


def reject_held(target: Target, converter: BatchConverter, unique: sa.UniqueConstraint) -> None:
    """Remove staged rows whose values belong to other rows, and reject them."""
    names = _names(converter.mapping, unique)
    repeated = _first_only(_REPEATED.format(**names | {"table": STAGE}), names)
    held = dict(target.rows(_HELD.format(**names, repeated=repeated)))
    if held:
        target.rows(
            f"DELETE FROM {STAGE} WHERE {names['key']} = ANY($1) RETURNING 1", (list(held),)
        )
        _reject(converter, unique, held)


def drop_occupied(target: Target, mapping: TableMapping) -> None:
    """Drop constraints that staged rows would violate one by one; they are built again later.

    A constraint with dependent objects stays, and rows that violate it are rejected.
    """
    for unique in schema.unique_constraints(mapping.table):
        if target.value(_OCCUPIED.format(**_names(mapping, unique))):
            # PostgreSQL does not alter a table with pending deferred work.
            target.run_deferred_constraints()
            name = quoted(str(unique.name))
            with contextlib.suppress(DataFault), target.savepoint():
                target.run(f"ALTER TABLE {quoted(mapping.name)} DROP CONSTRAINT IF EXISTS {name}")


def drop_carried(
    target: Target, mapping: TableMapping, constraints: Collection[str], *, staged: bool
) -> None:
    """Drop unique constraints of carried columns.

    Args:
        constraints: names of the table's constraints.
        staged: drop only those that staged rows may violate.
    """
    key = quoted(mapping.key.name)
    for column in sorted(mapping.carried):
        name, value = _carried_name(mapping, column), quoted(column)
        violated = _VIOLATED.format(stage=STAGE, table=quoted(mapping.name), key=key, value=value)
        if name in constraints and (not staged or target.value(violated)):
            target.run_deferred_constraints()
            with contextlib.suppress(DataFault), target.savepoint():
                target.run(f"ALTER TABLE {quoted(mapping.name)} DROP CONSTRAINT {quoted(name)}")


def add_carried(target: Target, mapping: TableMapping, constraints: Collection[str]) -> None:
    """Add missing unique constraints of carried columns, as far as the rows meet them."""
    for column in mapping.carried_unique:
        name = _carried_name(mapping, column)
        if name not in constraints:
            with contextlib.suppress(DataFault), target.savepoint():
                target.run(
                    f"ALTER TABLE {quoted(mapping.name)} ADD CONSTRAINT {quoted(name)}"
                    f" UNIQUE ({quoted(column)})"
                )


def _carried_name(mapping: TableMapping, column: str) -> str:
    name = f"{mapping.name}_{column}_key".encode()
    return name[:_LONGEST_NAME].decode(errors="ignore")


def build(target: Target, converter: BatchConverter, statements: Iterable[str]) -> None:
    """Add keys to a table that was filled without them; delete and reject rows with duplicates.

    Raises:
        DataFault: rows violate a key for another reason.
    """
    for statement in statements:
        try:
            with target.savepoint():
                target.run(statement)
        except DataFault as fault:
            if fault.sqlstate != _DUPLICATE or not _delete_duplicates(target, converter):
                raise
            target.run(statement)


def _delete_duplicates(target: Target, converter: BatchConverter) -> bool:
    mapping, found = converter.mapping, False
    for unique in schema.unique_constraints(mapping.table):
        names = _names(mapping, unique)
        repeated = _first_only(_REPEATED.format(**names), names)
        key, table = names["key"], names["table"]
        deleted = target.rows(
            f"DELETE FROM {table} AS t USING ({repeated}) AS r WHERE t.{key} = r.{key}"
            f" RETURNING r.{key}, r.first"
        )
        _reject(converter, unique, dict(deleted))
        found = found or bool(deleted)
    return found


def _reject(converter: BatchConverter, unique: sa.UniqueConstraint, held: dict[Any, Any]) -> None:
    """Name the row that has the values, but not the values, which may be secret."""
    names = [column.name for column in unique.columns]
    column = names[0] if len(names) == 1 else None
    what = "is" if column else f"{' and '.join(names)} are"
    for holder in dict.fromkeys(held.values()):
        keys = [key for key, other in held.items() if other == holder]
        converter.reject(keys, Reason("unique", column, f"{what} the same as in row {holder}"))


def _first_only(repeated: str, names: dict[str, str]) -> str:
    return f"SELECT * FROM ({repeated}) AS r WHERE {names['key']} <> first"


def _names(mapping: TableMapping, unique: sa.UniqueConstraint) -> dict[str, str]:
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
