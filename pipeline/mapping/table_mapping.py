"""A declared table, matched with the source: the table of the target and how its values move."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.core.errors import SettingsError
from pipeline.core.findings import Drift
from pipeline.core.policies import DEFAULT, Policies
from pipeline.core.quoting import quoted
from pipeline.declared.rules import ColumnRules, TableRules
from pipeline.mapping import secret
from pipeline.mapping.casts.cast import Cast
from pipeline.mapping.casts.types import ByteSize, cast_for
from pipeline.mapping.row_key import RowKey


@dataclass(frozen=True)
class TableMapping:
    """A declared table, matched with a source.

    Attributes:
        table: the declared table with the carried columns.
        columns: the columns that are moved, in the order of the target.
        declared: types of these columns in the source, by name.
        source_names: names of columns that the source calls differently, by name.
        carried_unique: names of carried columns that are unique in the source.
    """

    table: sa.Table
    columns: tuple[sa.Column[Any], ...]
    declared: dict[str, str]
    drift: tuple[Drift, ...]
    policies: Policies = DEFAULT
    source_names: dict[str, str] = field(default_factory=dict)
    carried_unique: tuple[str, ...] = ()

    def source_name(self, name: str) -> str:
        """The name of a column in the source."""
        return self.source_names.get(name, name)

    def in_source(self, name: str) -> str:
        """The name of a column in the source, quoted."""
        return quoted(self.source_name(name))

    @property
    def name(self) -> str:
        """The table's name in source and target."""
        return self.table.name

    @cached_property
    def key(self) -> sa.Column[Any]:
        """The one column of the primary key."""
        return RowKey.of(self.table).column

    @cached_property
    def key_mapping(self) -> "TableMapping":
        """The same mapping with only the key."""
        return replace(self, columns=(self.key,))

    @property
    def changed_by(self) -> str | None:
        """The column with the time of a row's last change, if it is moved."""
        name = TableRules.of(self.table).changed_by
        return name if name in self.casts else None

    @cached_property
    def version_mapping(self) -> "TableMapping":
        """The columns that tell whether a row has changed.

        These are the key, the time of change and the sizes of BLOBs; without a time of change, all
        columns.
        """
        if self.changed_by is None:
            return self
        change_time = [c for c in self.columns if c.name == self.changed_by]
        sizes = [
            sa.Column(column.name, ByteSize())
            for column in self.columns
            if isinstance(column.type, sa.LargeBinary)
        ]
        return replace(self, columns=(self.key, *change_time, *sizes))

    @cached_property
    def computed(self) -> frozenset[str]:
        """Names of the columns that the server computes."""
        return frozenset(column.name for column in self.columns if column.computed is not None)

    @cached_property
    def written(self) -> list[str]:
        """Names of the columns that a move writes."""
        return [column.name for column in self.columns if column.name not in self.computed]

    @property
    def sized(self) -> frozenset[str]:
        """Names of columns whose size is compared instead of their values."""
        return frozenset(c.name for c in self.columns if isinstance(c.type, ByteSize))

    @property
    def carried(self) -> frozenset[str]:
        """Names of columns that only the source has."""
        return frozenset(drift.column for drift in self.drift if drift.kind == "carried")

    @cached_property
    def casts(self) -> dict[str, Cast]:
        """The cast of each moved column, by name."""
        zone = self.policies.naive_zone
        casts = {
            column.name: cast_for(
                column, naive_zone=zone, double_encoded=column.name in self.double_encoded
            )
            for column in self.columns
        }
        hidden = secret.columns(self.table) & casts.keys()
        return casts | {name: secret.redacted(casts[name]) for name in hidden}

    @cached_property
    def double_encoded(self) -> frozenset[str]:
        """Names of columns whose double-encoded JSON is unwrapped."""
        if self.policies.double_encoded_json == "keep":
            return frozenset()
        return frozenset(
            column.name for column in self.columns if ColumnRules.of(column).double_encoded
        )

    @cached_property
    def fills(self) -> dict[str, pa.Scalar]:
        """Replacements for NULLs that the target does not allow, in the form for COPY, by column.

        Raises:
            SettingsError: a replacement does not fit the type of its column.
        """
        given = {
            column.name: self.policies.forbidden_nulls[f"{self.name}.{column.name}"]
            for column in self.columns
            if not column.nullable and f"{self.name}.{column.name}" in self.policies.forbidden_nulls
        }
        return {name: self._fill(name, value) for name, value in given.items()}

    def _fill(self, name: str, value: object) -> pa.Scalar:
        cast = self.casts[name]
        if isinstance(self.table.columns[name].type, JSONB) and not isinstance(value, str):
            value = json.dumps(value)
        if cast.raw == pa.binary() and isinstance(value, str):
            value = value.encode(errors="surrogatepass")
        rules = [cast.storage_rule("v", ""), *cast.rules("v")]
        try:
            with closing(sqlite3.connect(":memory:")) as database:
                for rule in rules:
                    sql = f"SELECT ({rule.violated}) IS TRUE FROM (SELECT ? AS v)"
                    if database.execute(sql, (value,)).fetchone()[0]:
                        raise ValueError(f"it {rule.message}")
                # Some casts read a number as a text.
                sql = f"SELECT {cast.read('v')} FROM (SELECT ? AS v)"
                (raw,) = database.execute(sql, (value,)).fetchone()
            return cast.convert(pa.array([raw], cast.raw)).values[0]
        except (ValueError, OverflowError) as error:
            (given,) = secret.hidden(self.table, name, [value])
            raise SettingsError(
                f"{given!r} cannot replace NULL in {self.name}.{name}: {error}",
                remedy="Correct POLICY_FORBIDDEN_NULLS",
            ) from error

    @property
    def parents(self) -> tuple[tuple[sa.Column[Any], sa.Table], ...]:
        """Each foreign key as (column, referenced table)."""
        return tuple(
            (key.parent, key.column.table)
            for key in sorted(self.table.foreign_keys, key=lambda key: key.parent.name)
        )
