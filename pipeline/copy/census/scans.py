"""SQL of the census, and the Arrow reader that runs it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.quoting import quoted
from pipeline.mapping.casts.cast import affinity
from pipeline.move.reading.surveys import endless
from pipeline.sqlite.structure.model import Table

Storage = Literal["integer", "real", "text", "blob"]
Expected = Mapping[str, frozenset[Storage] | None]
"""The storage classes of each column; None if they are unknown."""
Place = tuple[str, str]
"""SQL for a table and for its row id."""

VALUE_BYTES = 8
ROW_BYTES = 4
"""The minimum size of a row in a file; a page loop of a damaged file returns rows without end."""
TYPES: dict[Storage, pa.DataType] = {
    "integer": pa.int64(),
    "real": pa.float64(),
    "text": pa.string(),
    "blob": pa.int64(),
}
_SENTINELS: dict[Storage, str] = {"integer": "0", "real": "0.5", "text": "''", "blob": "0"}
_BY_AFFINITY: dict[str, frozenset[Storage]] = {
    "INTEGER": frozenset({"integer"}),
    "REAL": frozenset({"real"}),
    "TEXT": frozenset({"text"}),
}
_BITS, _CODES = 5, 12
"""Bits of the code of a storage class; codes in one integer."""
_BY_CODE: dict[int, Storage] = {
    ord(name[0]) % 2**_BITS: name for name in ("integer", "real", "text", "blob")
}


class WrongClassError(Exception):
    """A column has a value of another storage class than expected."""


@dataclass(frozen=True)
class Output:
    """The values of one storage class of a column; others are NULL.

    Attributes:
        number: the position of the column.
        sql: the expression to read.
    """

    number: int
    storage: Storage
    sql: str


def names(table: Table) -> tuple[str, ...]:
    """The names of all columns."""
    return tuple(column.name for column in table.columns)


def expected(table: Table) -> Expected:
    """The storage classes that the affinity of each column suggests.

    The reader notices a value of another class in these columns.
    """
    return {column.name: _BY_AFFINITY.get(affinity(column.declared)) for column in table.columns}


def value_or_size(name: str) -> str:
    """SQL for a value; for a BLOB its size, as a BLOB of digits."""
    c = quoted(name)
    return f"CASE typeof({c}) WHEN 'blob' THEN CAST(CAST(length({c}) AS TEXT) AS BLOB) ELSE {c} END"


def sizes(
    cursor: Any,
    table: Table,
    place: Place,
    *,
    storage: Expected,
    found: dict[str, set[Storage]],
    most: int,
) -> Iterator[tuple[pa.Array, Any]]:
    """Row ids of the rows, and their sizes, in batches.

    Args:
        found: receives the storage classes of columns that are unknown.
        most: rows that the file can hold.

    Raises:
        SourceError: there are more.
    """
    unknown = [name for name, classes in storage.items() if classes is None]
    outputs = [place[1], " + ".join([str(VALUE_BYTES * len(storage)), *_sizes(storage)])]
    outputs += [_code(unknown[at : at + _CODES]) for at in range(0, len(unknown), _CODES)]
    rows = 0
    for batch in _batches(cursor, _query(outputs, ["0"] * len(outputs), place)):
        row_ids, size, *codes = batch.columns
        rows += len(row_ids)
        if rows > most:
            raise endless(table.name)
        for number, code in enumerate(codes):
            part = unknown[number * _CODES : (number + 1) * _CODES]
            for name, each in _decoded(part, pc.unique(code).to_pylist()):
                found[name].add(each)
        yield row_ids, size.to_numpy()


def _sizes(storage: Expected) -> Iterator[str]:
    """SQL for the sizes of texts and BLOBs."""
    for name, classes in storage.items():
        c = quoted(name)
        if classes is None:
            sized = f"typeof({c}) IN ('text', 'blob')"
            yield f"CASE WHEN {sized} THEN octet_length({c}) ELSE 0 END"
        elif "text" in classes:
            yield f"ifnull(octet_length({c}), 0)"


def _code(columns: Sequence[str]) -> str:
    """SQL for one integer of the storage classes of several columns."""
    return " | ".join(
        f"((unicode(typeof({quoted(name)})) & {2**_BITS - 1}) << {_BITS * number})"
        for number, name in enumerate(columns)
    )


def _decoded(columns: Sequence[str], codes: Sequence[int]) -> Iterator[tuple[str, Storage]]:
    for code in codes:
        for number, name in enumerate(columns):
            storage = _BY_CODE.get(code >> (_BITS * number) & (2**_BITS - 1))
            if storage is not None:
                yield name, storage


def outputs(table: Table, found: Mapping[str, set[Storage]]) -> tuple[Output, ...]:
    """What to read of each column."""
    return tuple(
        Output(number, storage, _output(column.name, storage, alone=len(found[column.name]) == 1))
        for number, column in enumerate(table.columns)
        for storage in sorted(found[column.name])
    )


def _output(name: str, storage: Storage, *, alone: bool) -> str:
    c = quoted(name)
    value = f"octet_length({c})" if storage == "blob" else c
    return value if alone else f"CASE WHEN typeof({c}) = '{storage}' THEN {value} END"


def read(
    cursor: Any, outputs: Sequence[Output], place: Place, *, bounds: tuple[int, int]
) -> pa.Table:
    """Read the rows between two row ids, both included.

    Raises:
        WrongClassError: a value has another storage class than its output.
    """
    if not outputs:
        return pa.table({})
    first = [_SENTINELS[each.storage] for each in outputs]
    query = _query([each.sql for each in outputs], first, place, where="BETWEEN ? AND ?")
    cursor.execute(query, bounds)
    # The reader widens the type of an output whose first batch has other values. A range is one
    # batch, so no value escapes; in later batches the reader would take BLOBs as texts.
    found = cursor.fetch_arrow_table().slice(1)
    if [each.type for each in found.schema] != [TYPES[each.storage] for each in outputs]:
        raise WrongClassError
    return found


def _query(outputs: Sequence[str], first: Sequence[str], place: Place, *, where: str = "") -> str:
    """SQL whose first row fixes the types of the reader."""
    table, row_id = place
    condition = f" WHERE {row_id} {where}" if where else ""
    return (
        f"SELECT {', '.join(first)} UNION ALL SELECT * FROM (SELECT {', '.join(outputs)}"
        f" FROM {table}{condition} ORDER BY {row_id} LIMIT -1)"
    )


def _batches(cursor: Any, query: str) -> Iterator[Any]:
    cursor.execute(query)
    start = 1
    for batch in cursor.fetch_record_batch():
        if len(batch) > start:
            yield batch.slice(start)
        start = 0
