"""Digests of whole columns, which are equal if and only if the columns are.

The digest covers the name of the type, the lengths of the values (-1 for NULL) and their bytes. So
``"12", "3"`` and ``"1", "23"`` differ, as do NULL and the empty text. The division into batches has
no influence.
"""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_HASH = hashlib.sha256
"""The fastest strong hash in practice, because processors have instructions for it."""


class ColumnDigest:
    """The digest of one column, fed batch by batch in key order."""

    def __init__(self) -> None:
        """Start with no rows."""
        self._lengths = _HASH()
        self._values = _HASH()
        self._type = ""

    def update(self, column: pa.Array) -> None:
        """Add the values of a batch; all batches have the same type."""
        self._type = str(column.type)
        if not len(column):
            return
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            self._variable(column)
        else:
            self._fixed(column)

    def copy(self) -> "ColumnDigest":
        """An independent digest with the same state."""
        other = ColumnDigest()
        other._lengths, other._values = self._lengths.copy(), self._values.copy()
        other._type = self._type
        return other

    def hexdigest(self) -> str:
        """The digest of all values."""
        whole = _HASH(self._type.encode())
        whole.update(self._lengths.digest())
        whole.update(self._values.digest())
        return whole.hexdigest()

    def _variable(self, column: pa.Array) -> None:
        lengths = pc.binary_length(column)
        if column.null_count:
            lengths = lengths.fill_null(-1)
            column = column.fill_null(b"" if pa.types.is_binary(column.type) else "")
        self._lengths.update(lengths.to_numpy().tobytes())
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, np.int32)
        start, stop = ends[column.offset], ends[column.offset + len(column)]
        if data is not None:
            self._values.update(memoryview(data)[start:stop])

    def _fixed(self, column: pa.Array) -> None:
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.uint8())
        width = column.type.bit_width // 8
        lengths = np.full(len(column), width, np.int32)
        _, data = column.buffers()
        bytes_ = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        values = bytes_[column.offset * width : (column.offset + len(column)) * width]
        if column.null_count:
            # The bytes under a NULL are undefined, so zeros are hashed instead.
            null = column.is_null().to_numpy(zero_copy_only=False)
            lengths[null] = -1
            values = values.reshape(len(column), width).copy()
            values[null] = 0
        self._lengths.update(lengths.tobytes())
        self._values.update(values.tobytes())
