"""Rows of a source as record batches: a range of row ids, in their order."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.copy.source.prepared import PreparedSource
from pipeline.core.quoting import quoted
from pipeline.mapping.contract import Contract
from pipeline.mapping.table_mapping import TableMapping
from pipeline.sqlite.structure.model import Table


@dataclass(frozen=True)
class RowRange:
    """Rows whose row ids lie between ``first`` and ``last``, both included; one batch."""

    first: int
    last: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class RawRows:
    """Rows of a range: SQLite's values in the ``raw`` types of the casts, and their row ids."""

    values: pa.RecordBatch
    ids: pa.Array

    def slice(self, start: int, length: int | None = None) -> "RawRows":
        """Some of the rows."""
        return RawRows(self.values.slice(start, length), self.ids.slice(start, length))


def read(
    source: PreparedSource,
    table: Table,
    mapping: TableMapping,
    part: RowRange,
    *,
    without: Collection[int] = (),
) -> RawRows:
    """Read one range.

    Args:
        without: row ids of rows to leave out.

    Raises:
        pa.ArrowInvalid: a value has a storage class that its column does not accept.
        SourceError: the copy cannot be read.
    """
    casts, row_id = mapping.casts, source.row_id(table)
    first = [
        f"{casts[c.name].sentinel} AS {quoted(f'c{n}')}" for n, c in enumerate(mapping.columns)
    ]
    outputs = [casts[c.name].read(mapping.in_source(c.name)) for c in mapping.columns]
    where, bounds = f"{row_id} BETWEEN {part.first} AND {part.last}", list[str]()
    if without:
        where += f" AND {row_id} NOT IN (SELECT value FROM json_each(?))"
        bounds.append(json.dumps(sorted(without)))
    sql = (
        f"SELECT {', '.join([*first, '0 AS id'])} UNION ALL SELECT * FROM"
        f" (SELECT {', '.join([*outputs, row_id])} FROM {source.rows_of(table)}"
        f" WHERE {where} ORDER BY {row_id} LIMIT -1)"
    )
    with source.arrow(batch_rows=part.rows + 1) as cursor:
        cursor.execute(sql, bounds)
        *columns, ids = _columns(cursor.fetch_arrow_table().slice(1))
    names = [column.name for column in mapping.columns]
    for name, column in zip(names, columns, strict=True):
        if column.type != casts[name].raw:
            raise pa.ArrowInvalid(f"{name} holds {column.type} instead of {casts[name].raw}")
    return RawRows(pa.RecordBatch.from_arrays(columns, names=names), ids)


def _columns(table: pa.Table) -> list[Any]:
    return [column.combine_chunks() for column in table.columns]


def violating(source: PreparedSource, table: Table, contract: Contract) -> list[int]:
    """Row ids of all rows that no cast accepts."""
    row_id = source.row_id(table)
    with source.sqlite() as connection:
        found = connection.execute(
            f"SELECT {row_id} FROM {source.rows_of(table)} WHERE {contract.violated()}"
            f" ORDER BY {row_id}"
        )
        return [number for (number,) in found]
