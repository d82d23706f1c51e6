"""The table of the target that results from the declaration and the actual source.

Columns that only the source has are carried to the target as nullable columns. Declared columns
that the source lacks keep their default. Both are reported as drift, except for columns that only
the target is meant to have (``ColumnRules.added``).
"""

import functools
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.core.errors import SettingsError, SourceError
from pipeline.core.findings import Drift
from pipeline.core.messages import SOURCE_SETTING, message
from pipeline.core.policies import DEFAULT, Policies
from pipeline.declared.rules import ColumnRules, TableRules
from pipeline.mapping import secret
from pipeline.mapping.cast import Cast
from pipeline.mapping.row_key import RowKey
from pipeline.mapping.types import ByteSize, carried_type, cast_for, type_name

_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_LONGEST_NAME = 63
_MOST_COLUMNS = 1_000
"""PostgreSQL's limit is 1,600, or less for long values, and includes dropped columns."""


@dataclass(frozen=True)
class SourceColumn:
    """A column and its type in the source."""

    name: str
    declared: str


@dataclass(frozen=True)
class TableMapping:
    """A declared table, matched with a source.

    Attributes:
        table: the declared table with the carried columns.
        columns: the columns that are moved, in the order of the target.
        declared: types of these columns in the source, by name.
    """

    table: sa.Table
    columns: tuple[sa.Column[Any], ...]
    declared: dict[str, str]
    drift: tuple[Drift, ...]
    policies: Policies = DEFAULT

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
        """The same mapping with only the key, the time of change and the sizes of BLOBs."""
        change_time = [c for c in self.columns if c.name == self.changed_by]
        sizes = [
            sa.Column(column.name, ByteSize())
            for column in self.columns
            if isinstance(column.type, sa.LargeBinary)
        ]
        return replace(self, columns=(self.key, *change_time, *sizes))

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
            return cast.convert(pa.array([value], cast.raw)).values[0]
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


def match(
    declared: sa.Table, source_columns: Sequence[SourceColumn], policies: Policies = DEFAULT
) -> TableMapping:
    """Match a declared table with the columns that the source has.

    Raises:
        SourceError: the source lacks a required column, or has columns that the policy forbids.
        SettingsError: a replacement for NULL does not fit the type of its column.
    """
    return _matched(declared, tuple(source_columns), _PoliciesKey(policies))


@dataclass(frozen=True)
class _PoliciesKey:
    """Policies as a cache key, equal only if their ``repr`` is: 1 differs from ``True``."""

    policies: Policies

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _PoliciesKey) and repr(self.policies) == repr(other.policies)

    def __hash__(self) -> int:
        return hash(repr(self.policies))


@functools.lru_cache(maxsize=128)
def _matched(
    declared: sa.Table, source_columns: tuple[SourceColumn, ...], key: _PoliciesKey
) -> TableMapping:
    """Match a table once in a process: a run needs each mapping several times."""
    table, policies = declared, key.policies
    found = {column.name: column for column in source_columns}
    drift = [*_missing(table, found), *_retyped(table, found)]
    extra = [column for column in source_columns if column.name not in table.columns]
    if policies.extra_columns == "carry":
        _require_room(table, extra)
    if extra and policies.extra_columns == "fail":
        raise SourceError(
            f"Table {table.name} of the source has undeclared columns:"
            f" {', '.join(column.name for column in extra)}",
            remedy="Declare them, or set POLICY_EXTRA_COLUMNS to carry or ignore",
        )
    if extra and policies.extra_columns == "carry":
        table = _copy(declared)
    for column in extra:
        if policies.extra_columns == "ignore":
            drift.append(Drift(table.name, column.name, "ignored", "stays in the source"))
        else:
            kind = carried_type(column.declared)
            table.append_column(sa.Column(column.name, kind, nullable=True))
            detail = f"added to the target as {type_name(kind)}"
            drift.append(Drift(table.name, column.name, "carried", detail))
    moving = tuple(column for column in table.columns if column.name in found)
    _require_columns(table, policies)
    types = {column.name: found[column.name].declared for column in moving}
    mapping = TableMapping(table, moving, types, tuple(drift), policies)
    _ = mapping.fills
    return mapping


def _require_room(table: sa.Table, extra: Sequence[SourceColumn]) -> None:
    """Reject columns that PostgreSQL does not support."""
    wrong = [
        column.name
        for column in extra
        if column.name in _SYSTEM_COLUMNS
        or not 0 < len(column.name.encode(errors="surrogatepass")) <= _LONGEST_NAME
    ]
    if wrong or len(table.columns) + len(extra) > _MOST_COLUMNS:
        shown = ", ".join(repr(name[:_LONGEST_NAME]) for name in wrong[:5])
        unsupported = f"columns whose names PostgreSQL does not support: {shown}"
        raise SourceError(
            f"Table {table.name} of the source has"
            f" {unsupported if wrong else f'{len(extra):,} undeclared columns, too many'}",
            remedy="Rename or drop them, or set POLICY_EXTRA_COLUMNS=ignore",
        )


def _copy(declared: sa.Table) -> sa.Table:
    """A copy of a table that can be extended, with copies of the tables that it refers to."""
    everything = sa.MetaData(
        naming_convention=declared.metadata.naming_convention, info=declared.metadata.info
    )
    for table in declared.metadata.sorted_tables:
        table.to_metadata(everything)
    return everything.tables[declared.name]


def _require_columns(table: sa.Table, policies: Policies) -> None:
    for name in policies.forbidden_nulls:
        of_table, _, column = name.rpartition(".")
        declared = table.metadata.tables.get(of_table)
        if declared is None or column not in declared.columns or declared.columns[column].nullable:
            raise SettingsError(
                f"POLICY_FORBIDDEN_NULLS names {name}, which is not a NOT NULL column",
                remedy='Correct it, as in {"content_fragments.native_text": ""}',
            )


def _missing(table: sa.Table, found: dict[str, SourceColumn]) -> list[Drift]:
    drift = []
    for column in table.columns:
        if column.name in found:
            continue
        if column.primary_key or not (column.nullable or column.server_default is not None):
            raise SourceError(
                f"Table {table.name} of the source has no column {column.name}",
                remedy=message("Check that ", SOURCE_SETTING, " names the right file and version"),
            )
        if not ColumnRules.of(column).added:
            drift.append(Drift(table.name, column.name, "missing", "the source lacks it"))
    return drift


def _retyped(table: sa.Table, found: dict[str, SourceColumn]) -> list[Drift]:
    drift = []
    for column in table.columns:
        source = found.get(column.name)
        if source is None or not source.declared:
            continue
        expected = cast_for(column).storage
        actual = cast_for(sa.Column(column.name, carried_type(source.declared))).storage
        if not set(expected) & set(actual):
            detail = f"declared {source.declared} in the source, {column.type} in the target"
            drift.append(Drift(table.name, column.name, "retyped", detail))
    return drift
