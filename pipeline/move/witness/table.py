"""A table as a witness knows it: from the declaration and the ledger alone."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from pipeline.move.witness.parts import Key
from pipeline.move.witness.values import Encode, encoder


@dataclass(frozen=True)
class Table:
    """What is witnessed, and by which rules.

    Attributes:
        name: the table.
        key: the column of its key.
        columns: names and types of the columns that move, the key among them.
        row_id: SQL for what names a row in the source.
        quarantined: names of the rows that are in quarantine.
        kept: keys of rows whose target version stays on purpose.
        corrected: names of rows that somebody corrected by hand; they lie in ``corrections``.
        prefix: the schema, with its point, in which SQLite knows the table.
        corrections: the same for the corrected rows.
        zone: the zone of moments that name none.
        unwrap: columns in which JSON that was written as a string is unwrapped.
        fills: what stands for a NULL, by column.
    """

    name: str
    key: str
    columns: tuple[tuple[str, sa.types.TypeEngine[Any]], ...]
    row_id: str
    quarantined: Collection[str] = ()
    kept: Sequence[Key] = ()
    corrected: Collection[str] = ()
    prefix: str = ""
    corrections: str = ""
    zone: str = "UTC"
    unwrap: Collection[str] = ()
    fills: dict[str, Any] = field(default_factory=dict)

    @property
    def text_key(self) -> bool:
        """Whether the key is a text."""
        return isinstance(dict(self.columns)[self.key], sa.String)

    @property
    def key_kind(self) -> type:
        """The Python type of a key."""
        return str if self.text_key else int

    @cached_property
    def encoders(self) -> list[Encode]:
        """What encodes each column's values."""
        return [
            encoder(kind, zone=self.zone, unwrap=name in self.unwrap) for name, kind in self.columns
        ]
