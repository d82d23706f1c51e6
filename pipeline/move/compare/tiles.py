"""Read the target in tiles: rows or keys of a key range, in the order of the keys."""

from typing import Any

import pyarrow as pa

from pipeline.core.quoting import quoted
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading.surveys import BATCH_ROWS, Range
from pipeline.postgres.driver.statements import value_literal
from pipeline.postgres.target import Target

_TILE_ROWS = 2 * BATCH_ROWS


def _outputs(mapping: TableMapping) -> str:
    return ", ".join(
        f"{mapping.casts[c.name].target(quoted(c.name))} AS {quoted(c.name)}"
        for c in mapping.columns
    )


def _key_sql(mapping: TableMapping) -> str:
    text = mapping.casts[mapping.key.name].raw == pa.string()
    return quoted(mapping.key.name) + (' COLLATE "C"' if text else "")


def read_tile(
    target: Target, mapping: TableMapping, *, after: Any, part: Range
) -> pa.RecordBatch | None:
    """The target's rows up to the end of a range; None if there are too many for one tile."""
    found = target.arrow(
        f"SELECT {_outputs(mapping)} FROM {quoted(mapping.name)}"
        f" WHERE {_within(mapping, after, part.last)}"
        f" ORDER BY {_key_sql(mapping)} LIMIT {_TILE_ROWS + 1}",
        streamed=True,
    )
    return None if found.num_rows > _TILE_ROWS else _plain(found)


def read_tile_keys(target: Target, mapping: TableMapping, *, after: Any, part: Range) -> pa.Array:
    """The keys of the target's rows up to the end of a range."""
    return _keys(target, mapping, _within(mapping, after, part.last))


def read_keys_beyond(target: Target, mapping: TableMapping, after: Any) -> pa.Array:
    """The keys of the target's rows after the last range."""
    if after is None:
        return _keys(target, mapping, "true")
    return _keys(target, mapping, f"{_key_sql(mapping)} > {_bound(mapping, after)}")


def _keys(target: Target, mapping: TableMapping, where: str) -> pa.Array:
    found = target.arrow(
        f"SELECT {quoted(mapping.key.name)} FROM {quoted(mapping.name)} WHERE {where}"
        f" ORDER BY {_key_sql(mapping)}"
    )
    return _plain(found).column(0)


def _within(mapping: TableMapping, after: Any, last: Any) -> str:
    key = _key_sql(mapping)
    up_to = f"{key} <= {_bound(mapping, last)}"
    return up_to if after is None else f"{key} > {_bound(mapping, after)} AND {up_to}"


def _bound(mapping: TableMapping, key: Any) -> str:
    # A rejected key may exceed the type of the column; bigint compares with all integers.
    is_text = mapping.casts[mapping.key.name].raw == pa.string()
    return value_literal(str(key) if is_text else int(key))


def read_rows(target: Target, mapping: TableMapping, keys: pa.Array) -> pa.RecordBatch:
    """The target's rows with these keys."""
    return _plain(
        target.arrow(
            f"SELECT {_outputs(mapping)} FROM {quoted(mapping.name)}"
            f" WHERE {quoted(mapping.key.name)} = ANY($1) ORDER BY {_key_sql(mapping)}",
            (keys.to_pylist(),),
        )
    )


def _plain(table: pa.Table) -> pa.RecordBatch:
    """One batch in which extension types are replaced by their storage types."""
    columns = []
    for column in table.columns:
        # Concatenating a single chunk would copy it.
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        columns.append(array.storage if isinstance(array, pa.ExtensionArray) else array)
    return pa.RecordBatch.from_arrays(columns, names=table.schema.names)
