"""A subset: some rows of the root table, and all that belongs to them, on both sides.

The root is the table that refers to no other. Of every other table those rows belong whose
references all lead into the subset, as far as they are not NULL, and of which at least one does.
Only declared foreign keys are followed; one from a table to itself is not. What only the target
has in a subset belongs to it too: a row that went to another parent in the source is taken along,
with what belongs to it.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import ScopeError, SettingsError
from pipeline.core.policies import DEFAULT, Policies
from pipeline.core.quoting import quoted
from pipeline.mapping.table_mapping import TableMapping, match
from pipeline.move.reading.live import LiveSource
from pipeline.move.run import sync
from pipeline.postgres import schema
from pipeline.postgres.target import Target


@dataclass(frozen=True)
class Everything:
    """All rows of all tables."""


@dataclass(frozen=True)
class Changes:
    """Rows that may have changed since the source was read last.

    Attributes:
        retry_rejected: rows in quarantine are tried even if the source was not written since.
        or_everything: everything moves where it cannot be known what changed.
    """

    retry_rejected: bool = False
    or_everything: bool = True


@dataclass(frozen=True)
class Subset:
    """Rows of the root table, and what belongs to them: ``keys``, or the first ``limit`` by key."""

    keys: tuple[int | str, ...] = ()
    limit: int | None = None

    @classmethod
    def of(cls, keys: Sequence[int | str], limit: int | None) -> "Subset | None":
        """What was asked for; None for everything.

        Raises:
            SettingsError: both were asked for, or no rows at all.
        """
        if keys and limit is not None:
            raise SettingsError(
                "A subset cannot be named both by ids and by a limit", remedy="Give one of them"
            )
        if limit is not None and limit < 1:
            raise SettingsError(f"A subset cannot have {limit} rows", remedy="Give 1 or more")
        return cls(tuple(dict.fromkeys(keys)), limit) if keys or limit is not None else None


Scope = Everything | Changes | Subset
"""Which rows a run moves."""


@dataclass(frozen=True)
class Reach:
    """The rows of one table that are in scope.

    Attributes:
        keys: their keys, in the source or in the target.
        row_ids: what names them in the source, where no key does.
    """

    keys: tuple[Any, ...]
    row_ids: tuple[Any, ...] = ()


def family(tables: Sequence[sa.Table]) -> list[sa.Table]:
    """Tables and all those that they refer to, parents first."""
    if not tables:
        return []
    everything = tables[0].metadata.sorted_tables
    names = {table.name for table in tables}
    for table in reversed(everything):
        if table.name in names:
            names |= _parents(table)
    return [table for table in everything if table.name in names]


def root_of(tables: Sequence[sa.Table]) -> sa.Table:
    """The one table that all others belong to.

    Raises:
        ScopeError: there is none, or more than one.
    """
    roots = [table for table in tables if not _parents(table)]
    if len(roots) != 1:
        names = ", ".join(table.name for table in roots) or "all"
        raise ScopeError(
            f"There is no one table that all others belong to: {names} could be it",
            remedy="Move everything",
        )
    return roots[0]


def reach(
    subset: Subset,
    tables: Sequence[sa.Table],
    *,
    live: LiveSource,
    target: Target,
    policies: Policies = DEFAULT,
) -> dict[str, Reach]:
    """What is in scope, by table; nothing is changed.

    Args:
        subset: the rows of the root table.
        tables: the tables that will move.
        live: the pinned source.
        target: a session in no transaction.
        policies: what a person decided.

    Raises:
        ScopeError: the source lacks a named row, the subset is too large, or there is not one root.
        SourceError: the source lacks what a table needs.
        ShapeError: the target holds another table of that name.
    """
    found: dict[str, Reach] = {}
    relatives = family(tables)
    root = root_of(relatives)
    with target.read_only():
        for table in relatives:
            mapping = match(table, live.columns(table.name), policies)
            present = schema.inspect_for_writing(target, mapping)
            schema.check_shape(mapping, present)
            if table is root:
                found[table.name] = Reach(_root_keys(subset, live, mapping))
            else:
                inside = _references(mapping, found)
                row_ids = _in_source(live, mapping, inside)
                theirs = _in_target(target, mapping, inside) if present.exists else []
                keys = dict.fromkeys([*live.keys_with(mapping, row_ids), *theirs])
                found[table.name] = Reach(tuple(keys), tuple(row_ids))
            _require_room(mapping, found[table.name])
    return found


def _parents(table: sa.Table) -> set[str]:
    return {key.column.table.name for key in table.foreign_keys} - {table.name}


def _references(mapping: TableMapping, found: Mapping[str, Reach]) -> dict[str, list[Any]]:
    """Column that refers to another table -> keys of that table that are in scope."""
    return {
        column.name: list(found[parent.name].keys)
        for column, parent in mapping.parents
        if parent.name != mapping.name and column.name in mapping.casts
    }


def _root_keys(subset: Subset, live: LiveSource, mapping: TableMapping) -> tuple[Any, ...]:
    if subset.limit is not None:
        # More than one too many is not needed to know that it is too many.
        return tuple(live.first_keys(mapping, min(subset.limit, sync.MANY_ROWS + 1)))
    lacking = set(live.lacking(mapping, subset.keys))
    if lacking:
        named = ", ".join(str(key) for key in subset.keys if key in lacking)
        raise ScopeError(
            f"{live.path} has no {mapping.name} {named}",
            remedy="Name rows that it has; nothing was changed",
        )
    return subset.keys


def _in_source(
    live: LiveSource, mapping: TableMapping, inside: Mapping[str, list[Any]]
) -> list[Any]:
    """Handles of the source's rows that belong."""
    among = {
        name: f"{quoted(name)} IN (SELECT value FROM json_each(?{at}))"
        for at, name in enumerate(inside, 1)
    }
    lists = tuple(json.dumps(keys) for keys in inside.values())
    return live.row_ids_where(mapping, f"{_belongs(among)} LIMIT {sync.MANY_ROWS + 1}", lists)


def _in_target(target: Target, mapping: TableMapping, inside: Mapping[str, list[Any]]) -> list[Any]:
    """Keys of the target's rows that belong."""
    # The driver takes a list of nothing for texts.
    lists = [keys for keys in inside.values() if keys]
    numbers = itertools.count(1)
    among = {
        name: f"{quoted(name)} = ANY(${next(numbers)})" if keys else "false"
        for name, keys in inside.items()
    }
    rows = target.rows(
        f"SELECT {quoted(mapping.key.name)} FROM {quoted(mapping.name)}"
        f" WHERE {_belongs(among)} LIMIT {sync.MANY_ROWS + 1}",
        lists,
    )
    return [key for (key,) in rows]


def _belongs(among: Mapping[str, str]) -> str:
    """SQL for: every reference that is not NULL leads into the subset, and one is not NULL.

    Args:
        among: column that refers to another table -> SQL for its leading into the subset.
    """
    if not among:
        return "false"
    lead = [f"({quoted(name)} IS NULL OR {leads})" for name, leads in among.items()]
    nothing = " AND ".join(f"{quoted(name)} IS NULL" for name in among)
    return f"{' AND '.join(lead)} AND NOT ({nothing})"


def _require_room(mapping: TableMapping, found: Reach) -> None:
    if max(len(found.keys), len(found.row_ids)) > sync.MANY_ROWS:
        raise ScopeError(
            f"The subset has more than {sync.MANY_ROWS:,} rows of {mapping.name}, which is more"
            " than a move of a subset holds in memory",
            remedy="Take a smaller one, or move everything",
        )
