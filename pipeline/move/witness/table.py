"""The definition of a table for the witness, from the declaration and the ledger alone."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from pipeline.move.witness.parts import Key
from pipeline.move.witness.values import Encode, encoder


@dataclass(frozen=True)
class Table:
    """A table and the rules for its values.

    Attributes:
        columns: names and types of the columns that move, including the key.
        source_names: names of columns that the source calls differently, by name.
        row_id: SQL for the row id in the source.
        quarantined: row ids of the rows in quarantine.
        kept: keys of rows that keep the target's version.
        corrected: row ids of manually corrected rows, which are stored in ``corrections``.
        prefix: the schema of the table in SQLite, with a dot.
        corrections: the schema of the corrected rows, with a dot.
        zone: the time zone of timestamps that name none.
        unwrap: columns in which JSON strings that contain JSON are unwrapped.
        fills: replacements for NULL, by column.
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
    source_names: dict[str, str] = field(default_factory=dict)

    @property
    def text_key(self) -> bool:
        """Whether the key is of type text."""
        return isinstance(dict(self.columns)[self.key], sa.String)

    @property
    def key_kind(self) -> type:
        """The Python type of a key."""
        return str if self.text_key else int

    @cached_property
    def encoders(self) -> list[Encode]:
        """The encoder of each column."""
        return [
            encoder(kind, zone=self.zone, unwrap=name in self.unwrap) for name, kind in self.columns
        ]
