"""What the source of a migration holds, beside what is declared."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.copy.census.facts import ColumnFacts
from pipeline.copy.census.hints import contents
from pipeline.copy.census.survey import survey_together
from pipeline.copy.census.types import Decision, decide
from pipeline.copy.source.prepared import PreparedSource
from pipeline.core.quoting import counted
from pipeline.declared.rules import ColumnRules
from pipeline.mapping.casts.types import type_name
from pipeline.mapping.matching import folded
from pipeline.migrations.declaration import Migration
from pipeline.scaffold.columns import is_secret_name, ranges
from pipeline.sqlite.structure.model import Column, Table


@dataclass(frozen=True)
class ColumnReport:
    """A column of the source.

    Attributes:
        source_type: its type in the source, "" if there is none.
        found: what its values are, for people.
        declared: its type in the migration; None if it is not declared.
        decided: the type that a copy would choose, and why.
        note: what a person should look at; "" if nothing.
        wrong: values do not fit the declaration.
        examples: a few values; none of a secret or undeclared column.
    """

    name: str
    source_type: str
    found: str
    declared: str | None
    decided: tuple[str, str]
    note: str
    wrong: bool
    examples: tuple[str, ...]


@dataclass(frozen=True)
class TableReport:
    """A table of the source.

    Attributes:
        declared: it is a table of the migration.
        stays: it stays in SQLite on purpose.
        missing: declared columns that it lacks.
    """

    name: str
    rows: int
    bytes: int
    declared: bool
    stays: bool
    columns: tuple[ColumnReport, ...]
    missing: tuple[str, ...] = ()

    @property
    def to_look_at(self) -> int:
        """The number of columns with a note, and of missing ones."""
        return sum(bool(column.note) for column in self.columns) + len(self.missing)


def report(source: PreparedSource, migration: Migration) -> list[TableReport]:
    """Read every table of a source once.

    Raises:
        SourceError: the source cannot be read.
    """
    declared = {folded(table.name): table for table in migration.tables}
    staying = {folded(name) for name in migration.stays}
    tables = source.schema.tables
    kinds = {
        table.name: {
            column.name: ours.type
            for column in table.columns
            if (ours := _declared(declared.get(folded(table.name)), column)) is not None
        }
        for table in tables
    }
    found = survey_together(source, tables, given=kinds)
    decisions = decide(source.schema, found, {})
    return [
        TableReport(
            census.table.name,
            census.rows,
            census.bytes,
            folded(census.table.name) in declared,
            folded(census.table.name) in staying,
            tuple(
                _column(
                    column,
                    census.column(column.name),
                    decisions[census.table.name][column.name],
                    _declared(declared.get(folded(census.table.name)), column),
                )
                for column in census.table.columns
            ),
            tuple(_missing(declared.get(folded(census.table.name)), census.table)),
        )
        for census in found
    ]


def _declared(table: sa.Table | None, column: Column) -> sa.Column[Any] | None:
    """The declared column of a column of the source."""
    names = {} if table is None else {folded(_source_name(c)): c for c in table.columns}
    return names.get(folded(column.name))


def _missing(table: sa.Table | None, there: Table) -> Iterator[str]:
    names = {folded(column.name) for column in there.columns}
    for column in () if table is None else table.columns:
        if folded(_source_name(column)) not in names and not ColumnRules.of(column).added:
            yield column.name


def _column(
    column: Column, facts: ColumnFacts, decision: Decision, ours: sa.Column[Any] | None
) -> ColumnReport:
    # An undeclared column may be a secret one that the source calls otherwise.
    secret = ours is None or ColumnRules.of(ours).secret or is_secret_name(column.name)
    notes = [*_notes(facts, decision, ours, secret=secret)]
    return ColumnReport(
        column.name,
        column.declared,
        _found(facts, secret=secret),
        None if ours is None else type_name(ours.type),
        (type_name(decision.kind), "" if secret else decision.why),
        "; ".join(notes),
        any(_wrong(facts, ours)),
        () if secret else facts.examples,
    )


def _wrong(facts: ColumnFacts, ours: sa.Column[Any] | None) -> Iterator[str]:
    """Values that the declaration does not allow."""
    if ours is None:
        return
    if facts.misfits:
        values = "1 value does" if facts.misfits == 1 else f"{facts.misfits:,} values do"
        yield f"{values} not fit the declared type"
    if not ours.nullable and facts.nulls:
        yield f"declared NOT NULL, and NULL in {counted(facts.nulls, 'row')}"


def _notes(
    facts: ColumnFacts, decision: Decision, ours: sa.Column[Any] | None, *, secret: bool
) -> Iterator[str]:
    yield from _wrong(facts, ours)
    if (
        decision.hint
        and not secret
        and (ours is None or isinstance(decision.kind, type(ours.type)))
    ):
        yield decision.hint.partition(": --cast ")[0]


def _found(facts: ColumnFacts, *, secret: bool) -> str:
    parts = [] if facts.values else ["no values"]
    if facts.values:
        parts.append(counted(facts.values, "value") if secret else contents(facts))
    if not secret:
        parts += ranges(facts)
    if facts.nulls:
        parts.append(f"{facts.nulls:,} NULL")
    return ", ".join(parts)


def _source_name(column: sa.Column[Any]) -> str:
    return ColumnRules.of(column).source_name or column.name
