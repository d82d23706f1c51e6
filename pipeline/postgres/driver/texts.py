"""Columns of texts that the driver cannot send as values of their type, such as numerics.

The driver sends decimals of at most 38 digits, without zeros at the end of the fraction, and UUIDs
as bytes. All other numerics are sent as texts, which the server converts.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.quoting import quoted

_STAGE = "pg_temp.pipeline_texts"
STAGE_NAME = _STAGE.partition(".")[2]
_MOST_DIGITS = 38


def encoded(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[str]]:
    """A batch in the driver's types, and the columns that remain texts of numerics."""
    if not any(isinstance(kind, pa.OpaqueType) for kind in batch.schema.types):
        return batch, []
    columns, texts = [], []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not isinstance(column.type, pa.OpaqueType):
            columns.append(column)
        elif column.type.type_name == "uuid":
            columns.append(_uuids(column.storage))
        else:
            found = _decimals(column.storage)
            columns.append(column.storage if found is None else found)
            texts += [name] if found is None else []
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names), texts


def stage(place: str, batch: pa.RecordBatch, texts: list[str]) -> list[str]:
    """DDL of a temporary table like ``place``, in which these columns are texts.

    Args:
        place: the table, quoted.
    """
    outputs = (f"{quoted(n)}{'::text' * (n in texts)} AS {quoted(n)}" for n in batch.schema.names)
    return [
        f"DROP TABLE IF EXISTS {_STAGE}",
        f"CREATE TEMPORARY TABLE {STAGE_NAME} AS SELECT {', '.join(outputs)} FROM {place}"
        " WITH NO DATA",
    ]


def unstage(place: str, batch: pa.RecordBatch, texts: list[str]) -> list[str]:
    """SQL that moves the staged rows to their table, in their order."""
    names = ", ".join(map(quoted, batch.schema.names))
    outputs = ", ".join(
        f"{quoted(name)}{'::numeric' * (name in texts)}" for name in batch.schema.names
    )
    return [
        f"INSERT INTO {place} ({names}) OVERRIDING SYSTEM VALUE SELECT {outputs} FROM {_STAGE}",
        f"DROP TABLE {_STAGE}",
    ]


def _uuids(texts: pa.Array) -> pa.Array:
    digits = pc.replace_substring(pc.fill_null(texts, "0" * 32), "-", "")
    _, offsets, data = digits.buffers()
    ends = np.frombuffer(offsets, np.int32)[digits.offset : digits.offset + len(digits) + 1]
    found = bytes.fromhex(memoryview(data or b"")[ends[0] : ends[-1]].tobytes().decode())
    values = pa.Array.from_buffers(pa.binary(16), len(texts), [None, pa.py_buffer(found)])
    return pc.if_else(texts.is_valid(), values, pa.scalar(None, pa.binary(16)))


def _decimals(texts: pa.Array) -> pa.Array | None:
    """The numbers as Arrow's decimals, None if their digits would change."""
    point = pc.find_substring(texts, ".")
    size = pc.binary_length(texts)
    part = pc.if_else(pc.equal(point, -1), 0, pc.subtract(size, pc.add(point, 1)))
    whole = pc.subtract(size, part)
    scale = pc.max(part).as_py() or 0
    if (pc.max(whole).as_py() or 0) + scale > _MOST_DIGITS:
        return None
    if scale and pc.any(pc.match_substring_regex(texts, r"\..*0$")).as_py():
        return None
    return texts.cast(pa.decimal128(_MOST_DIGITS, scale))
