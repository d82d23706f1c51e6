"""The scope of a run: all rows, changes, or a subset with the rows that belong to it.

A subset consists of some rows of the root table, which refers to no other table, and of dependent
rows on both sides. A row of another table belongs to the subset if all of its references that are
not NULL point into the subset, and at least one does. Only declared foreign keys are followed, but
not those from a table to itself. Rows that only the target has in a subset belong to it, too: a row
that has another parent in the source is included with its dependent rows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import ScopeError, SettingsError
from pipeline.core.policies import DEFAULT, Policies
from pipeline.core.quoting import exactly, quoted
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading.pinned_source import PinnedSource
from pipeline.move.run import sync
from pipeline.postgres import schema
from pipeline.postgres.target import Target


@dataclass(frozen=True)
class Everything:
    """All rows of all tables."""


@dataclass(frozen=True)
class ChangesOnly:
    """Rows that may have changed since the source was last read.

    Attributes:
        or_everything: move everything if the changes cannot be determined.
    """

    retry_rejected: bool = False
    or_everything: bool = True


@dataclass(frozen=True)
class Subset:
    """Rows of the root table with their dependent rows: ``keys``, or the first ``limit`` rows."""

    keys: tuple[int | str, ...] = ()
    limit: int | None = None

    @classmethod
    def of(cls, keys: Sequence[int | str], limit: int | None) -> "Subset | None":
        """The requested subset; None for everything.

        Raises:
            SettingsError: both keys and a limit are given, or the limit is below 1.
        """
        if keys and limit is not None:
            raise SettingsError(
                "A subset cannot have both ids and a limit", remedy="Use only one of them"
            )
        if limit is not None and limit < 1:
            raise SettingsError(f"The limit of a subset cannot be {limit}", remedy="Use 1 or more")
        return cls(tuple(dict.fromkeys(keys)), limit) if keys or limit is not None else None


Scope = Everything | ChangesOnly | Subset
"""Which rows a run moves."""


@dataclass(frozen=True)
class RowsInScope:
    """The rows of one table that are in scope.

    Attributes:
        keys: their keys, in the source or in the target.
        row_ids: row ids of rows of the source without a usable key.
    """

    keys: tuple[Any, ...]
    row_ids: tuple[Any, ...] = ()


def family(tables: Sequence[sa.Table]) -> list[sa.Table]:
    """These tables and all tables that they refer to, parents first."""
    if not tables:
        return []
    everything = tables[0].metadata.sorted_tables
    names = {table.name for table in tables}
    for table in reversed(everything):
        if table.name in names:
            names |= _parents(table)
    return [table for table in everything if table.name in names]


def root_table(tables: Sequence[sa.Table]) -> sa.Table:
    """The only table that refers to no other table.

    Raises:
        ScopeError: there is none, or more than one.
    """
    roots = [table for table in tables if not _parents(table)]
    if len(roots) != 1:
        names = ", ".join(table.name for table in roots) or "all"
        raise ScopeError(
            f"A subset needs exactly one root table; candidates: {names}",
            remedy="Move everything",
        )
    return roots[0]


def find_rows_in_scope(
    subset: Subset,
    tables: Sequence[sa.Table],
    *,
    live: PinnedSource,
    target: Target,
    policies: Policies = DEFAULT,
) -> dict[str, RowsInScope]:
    """Find the rows in scope, by table, without changing anything.

    Args:
        target: a session outside a transaction.

    Raises:
        ScopeError: the source lacks a requested row, the subset is too large, or there is not
            exactly one root table.
        SourceError: the source lacks a required table or column.
        ShapeError: the target has another table of that name.
    """
    found: dict[str, RowsInScope] = {}
    relatives = family(tables)
    root = root_table(relatives)
    with target.read_only():
        for table in relatives:
            mapping = live.match(table, policies)
            present = schema.inspect_for_writing(target, mapping)
            schema.check_shape(mapping, present, widening=True)
            if table is root:
                found[table.name] = RowsInScope(_root_keys(subset, live, mapping))
            else:
                inside = _references(mapping, found)
                row_ids = _in_source(live, mapping, inside)
                in_target = _in_target(target, mapping, inside) if present.exists else []
                keys = dict.fromkeys([*live.live_keys_by_row_id(mapping, row_ids), *in_target])
                found[table.name] = RowsInScope(tuple(keys), tuple(row_ids))
            _require_small(mapping, found[table.name])
    return found


def _parents(table: sa.Table) -> set[str]:
    return {key.column.table.name for key in table.foreign_keys} - {table.name}


def _references(mapping: TableMapping, found: Mapping[str, RowsInScope]) -> dict[str, list[Any]]:
    """Referring column -> keys in scope of the table that it refers to."""
    return {
        column.name: list(found[parent.name].keys)
        for column, parent in mapping.parents
        if parent.name != mapping.name and column.name in mapping.casts
    }


def _root_keys(subset: Subset, live: PinnedSource, mapping: TableMapping) -> tuple[Any, ...]:
    if subset.limit is not None:
        # One more than allowed is enough to detect that there are too many.
        return tuple(live.first_keys(mapping, min(subset.limit, sync.MANY_ROWS + 1)))
    missing_keys = set(live.missing_keys(mapping, subset.keys))
    if missing_keys:
        missing = ", ".join(str(key) for key in subset.keys if key in missing_keys)
        raise ScopeError(
            f"Table {mapping.name} of {live.path} has no row {missing}",
            remedy="Use ids of existing rows; nothing was changed",
        )
    return subset.keys


def _in_source(
    live: PinnedSource, mapping: TableMapping, inside: Mapping[str, list[Any]]
) -> list[Any]:
    """Row ids of the source's rows that belong to the subset."""
    scope_keys = {
        mapping.in_source(name): f"{exactly(mapping.source_name(name))}"
        f" IN (SELECT value FROM json_each(?{number}))"
        for number, name in enumerate(inside, 1)
    }
    lists = tuple(json.dumps(keys) for keys in inside.values())
    return live.row_ids_where(mapping, f"{_belongs(scope_keys)} LIMIT {sync.MANY_ROWS + 1}", lists)


def _in_target(target: Target, mapping: TableMapping, inside: Mapping[str, list[Any]]) -> list[Any]:
    """Keys of the target's rows that belong to the subset."""
    scope_keys = {
        name: f"{name} = ANY(${number})" for number, name in enumerate(map(quoted, inside), 1)
    }
    rows = target.rows(
        f"SELECT {quoted(mapping.key.name)} FROM {quoted(mapping.name)}"
        f" WHERE {_belongs(scope_keys)} LIMIT {sync.MANY_ROWS + 1}",
        list(inside.values()),
    )
    return [key for (key,) in rows]


def _belongs(scope_keys: Mapping[str, str]) -> str:
    """SQL condition: all references that are not NULL point into the subset, and there is one.

    Args:
        scope_keys: referring column, quoted -> condition that its reference is in the subset.
    """
    if not scope_keys:
        return "false"
    inside = [f"({name} IS NULL OR {condition})" for name, condition in scope_keys.items()]
    nothing = " AND ".join(f"{name} IS NULL" for name in scope_keys)
    return f"{' AND '.join(inside)} AND NOT ({nothing})"


def _require_small(mapping: TableMapping, found: RowsInScope) -> None:
    if max(len(found.keys), len(found.row_ids)) > sync.MANY_ROWS:
        raise ScopeError(
            f"The subset has more than {sync.MANY_ROWS:,} rows of {mapping.name}, too many to keep"
            " their keys in memory",
            remedy="Choose a smaller subset, or move everything",
        )
