"""What the target should return for a batch of the source, and the digests of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare import columns, jsonb_texts, range_digests
from pipeline.move.reading.batch_converter import ConvertedBatch

_FIRST = 64


@dataclass(frozen=True)
class ExpectedTile:
    """The source's rows of one tile.

    Attributes:
        mapping: the columns to compare.
        forms: the source's values in the compared form, by column.
        returned: the values that an equal target returns, by column; differs from ``forms`` in the
            spelling of JSON. Columns of which this is unknown are left out.
        digests: digests of ``returned``, by column.
        guessed: columns of JSON whose first texts are spelled as PostgreSQL spells them, so the
            others are expected to be.
    """

    mapping: TableMapping
    converted: ConvertedBatch
    forms: dict[str, pa.Array]
    returned: dict[str, pa.Array]
    digests: dict[str, str]
    guessed: frozenset[str] = frozenset()

    @property
    def keys(self) -> pa.Array:
        """The keys of the rows."""
        return self.converted.batch.column(self.mapping.key.name)


def expect(mapping: TableMapping, converted: ConvertedBatch, kept: Sequence[Any]) -> ExpectedTile:
    """Hash a batch of the source.

    Args:
        kept: keys of rows that may differ; a batch with such rows gets no digests.
    """
    found = without_digests(mapping, converted)
    if kept and pc.any(pc.is_in(found.keys, pa.array(kept, found.keys.type))).as_py():
        return found
    json = {column.name for column in mapping.columns if isinstance(column.type, JSONB)}
    guessed = {name for name in json if _is_spelled_alike(mapping, name, found)}
    returned = {name: values for name, values in found.forms.items() if name not in json - guessed}
    digests = {name: range_digests.digest(values) for name, values in returned.items()}
    hashed = replace(found, returned=returned, digests=digests, guessed=frozenset(guessed))
    return with_jsonb_spelling(hashed, json - guessed)


def with_jsonb_spelling(tile: ExpectedTile, names: Collection[str]) -> ExpectedTile:
    """Spell columns of JSON as PostgreSQL does, and hash them."""
    found = {name: _returned_json(tile.mapping, name, tile) for name in names}
    known = {name: texts for name, texts in found.items() if texts is not None}
    digests = {name: range_digests.digest(texts) for name, texts in known.items()}
    return replace(
        tile,
        returned=tile.returned | known,
        digests=tile.digests | digests,
        guessed=tile.guessed - known.keys(),
    )


def without_digests(mapping: TableMapping, converted: ConvertedBatch) -> ExpectedTile:
    """A batch of which every column is read."""
    forms = {
        name: cast.source_form(converted.batch.column(name)) for name, cast in mapping.casts.items()
    }
    return ExpectedTile(mapping, converted, forms, {}, {})


def _is_spelled_alike(mapping: TableMapping, name: str, found: ExpectedTile) -> bool:
    """Whether the first texts of a column are as PostgreSQL returns them."""
    if columns.wrapped_strings(mapping, name, found.converted.raw.column(name)) is not None:
        return False
    some = found.forms[name].slice(0, _FIRST)
    texts = jsonb_texts.as_stored(some)
    return texts is not None and some.equals(texts)


def _returned_json(mapping: TableMapping, name: str, found: ExpectedTile) -> pa.Array | None:
    values = found.forms[name]
    wrapped = columns.wrapped_strings(mapping, name, found.converted.raw.column(name))
    if wrapped is None:
        return jsonb_texts.as_stored(values)
    # As in the comparison, the unwrapping of the move is not trusted.
    originals = pc.if_else(wrapped, found.converted.raw.column(name), values)
    return jsonb_texts.as_stored(originals, unwrap=True)
