"""What the target has of the tables of a copy, before it is written."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from pipeline.copy.target import recording
from pipeline.copy.target.extras import Extra, Kind, LeftOut
from pipeline.copy.target.layout import CopiedTable
from pipeline.core.errors import ShapeError
from pipeline.mapping.casts.types import DIALECT
from pipeline.postgres.target import Target

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence"}
_STATES = """
SELECT w.number, c.relkind::text,
  (SELECT json_agg(json_build_array(attname, atttypid::regtype::text, attnotnull,
      attgenerated <> '', attidentity <> '', atthasdef))::text
    FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
FROM unnest($1::text[]) WITH ORDINALITY AS w(place, number)
JOIN pg_class AS c ON c.oid = to_regclass(w.place)
"""

_COPIED = """
SELECT c.relname::text FROM migration.watermarks AS w
JOIN pg_class AS c ON c.relkind = 'r' AND w.table_name =
  CASE $1 WHEN 'public' THEN c.relname::text ELSE $1 || '.' || c.relname END
JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = $1
WHERE starts_with(w.rules, $2) ORDER BY 1
"""


@dataclass(frozen=True)
class ColumnState:
    """A column of the target.

    Attributes:
        kind: its type, as PostgreSQL writes it.
        required: it is NOT NULL.
        computed: it is generated.
        identity: the server assigns its values.
        default: it has a default.
    """

    kind: str
    required: bool
    computed: bool
    identity: bool
    default: bool

    def has(self, kind: Kind) -> bool:
        """Whether it has a property of this kind."""
        return {"not null": self.required, "identity": self.identity}.get(kind, self.default)


@dataclass(frozen=True)
class TableState:
    """A table of the target.

    Attributes:
        kind: PostgreSQL's letter for the kind of relation, None if there is none.
        rules: the rules of the copy that wrote it, None if there is no record.
        columns: by name.
        changed: how its columns differ from those of the plan.
    """

    kind: str | None = None
    rules: str | None = None
    columns: Mapping[str, ColumnState] = field(default_factory=dict)
    changed: tuple[str, ...] = ()

    def computed_of(self, table: CopiedTable) -> dict[str, str]:
        """The generated columns that the target has, with the expressions of a plan."""
        return {
            name: sql
            for name, sql in table.computed.items()
            if name in self.columns and self.columns[name].computed
        }

    def lacking(self, extras: Sequence[Extra]) -> list[Extra]:
        """Properties of columns that the target does not have."""
        return [
            each
            for each in extras
            if (column := self.columns.get(each.column or "")) and not column.has(each.kind)
        ]


def read(target: Target, tables: Mapping[str, CopiedTable]) -> dict[str, TableState]:
    """The states of tables, by the given names."""
    places = [table.place for table in tables.values()]
    found = {number: rest for number, *rest in target.rows(_STATES, (places,))}
    rules = {}
    if target.value("SELECT to_regclass('migration.watermarks') IS NOT NULL"):
        labels = [table.label for table in tables.values()]
        rules = dict(
            target.rows(
                "SELECT table_name, rules FROM migration.watermarks WHERE table_name = ANY($1)",
                (labels,),
            )
        )
    types = _types(target, tables.values())
    states = {}
    for number, (name, table) in enumerate(tables.items(), 1):
        kind, columns = found.get(number, (None, None))
        known = rules.get(table.label) if kind == "r" else None
        of_table = {each: ColumnState(*rest) for each, *rest in json.loads(columns or "[]")}
        changed = tuple(_changes(table, of_table, types)) if kind == "r" else ()
        states[name] = TableState(kind, known, of_table, changed)
    return states


def require_shape(table: CopiedTable, state: TableState) -> None:
    """Refuse a table whose columns somebody has changed.

    Raises:
        ShapeError: names the columns; nothing was changed.
    """
    if state.changed:
        raise ShapeError(
            f"{table.label} was changed in the target: {', '.join(state.changed)}",
            remedy="Change it back, or drop the table, which is then copied anew; nothing was"
            " changed",
        )


def _types(target: Target, tables: Iterable[CopiedTable]) -> dict[str, str | None]:
    """The types of columns as PostgreSQL writes them."""
    kinds = {_type(column) for table in tables for column in table.mapping.columns}
    names = "SELECT kind, to_regtype(kind)::text FROM unnest($1::text[]) AS t(kind)"
    return dict(target.rows(names, (sorted(kinds),)))


def _type(column: "sa.Column[Any]") -> str:
    return column.type.compile(dialect=DIALECT)


def _changes(
    table: CopiedTable, columns: Mapping[str, ColumnState], types: Mapping[str, str | None]
) -> Iterator[str]:
    for column in table.mapping.columns:
        found, kind = columns.get(column.name), types[_type(column)]
        if found is None:
            yield f"it has no column {column.name}"
        elif kind is not None and found.kind != kind:
            yield f"column {column.name} is {found.kind} instead of {kind}"


def vanished(target: Target, tables: Mapping[str, CopiedTable], schema: str) -> list[LeftOut]:
    """Tables of earlier copies that are not in this one.

    Args:
        tables: of this copy; some of them were copied before.
    """
    known = {table.name for table in tables.values()}
    reason = "an earlier copy wrote it, and this one does not have it; it stays as it is"
    return [
        LeftOut("table", "", name, reason)
        for (name,) in target.rows(_COPIED, (schema, recording.COPY))
        if name not in known
    ]


def require_own(tables: Mapping[str, CopiedTable], states: Mapping[str, TableState]) -> None:
    """Refuse a target with relations that no copy wrote.

    Raises:
        ShapeError: names the first of them; nothing was changed.
    """
    for name, state in states.items():
        if state.kind is None or (state.rules is not None and recording.is_copy(state.rules)):
            continue
        what = _KINDS.get(state.kind, "a table")
        by = "was written by a migration" if state.rules is not None else "was not made by a copy"
        raise ShapeError(
            f"The target has {what} {tables[name].label} that {by}",
            remedy="Name another schema with --schema, exclude the table with --exclude, or use"
            " another database",
        )
