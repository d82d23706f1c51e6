"""What a declared migration lacks, or no longer says rightly, about its source."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.copy.census.facts import ColumnFacts, TableCensus
from pipeline.copy.census.survey import survey_together
from pipeline.copy.source.prepared import PreparedSource
from pipeline.core.quoting import counted
from pipeline.declared.rules import ColumnRules
from pipeline.mapping.casts.types import type_name
from pipeline.mapping.matching import folded
from pipeline.migrations.declaration import Migration
from pipeline.scaffold.module import Scaffold
from pipeline.sqlite.structure.model import Column, Table


@dataclass(frozen=True)
class Difference:
    """Something that the source and its declaration do not agree on.

    Attributes:
        place: the table, or the column as ``table.column``.
        sentence: for people, without a subject.
        text: what could be declared.
    """

    place: str
    sentence: str
    text: str | None = None


@dataclass(frozen=True)
class _Pair:
    """A declared table and the source's."""

    declared: sa.Table
    source: Table

    def columns(self) -> Iterator[tuple[sa.Column[Any], Column]]:
        """The columns that both have."""
        there = {folded(column.name): column for column in self.source.columns}
        for column in self.declared.columns:
            found = there.get(folded(_source_name(column)))
            if found is not None:
                yield column, found


def differences(
    source: PreparedSource, migration: Migration, fresh: Scaffold
) -> Iterator[Difference]:
    """Compare a migration with its source.

    Args:
        fresh: the declaration that would be written now.

    Raises:
        SourceError: the source cannot be read.
    """
    there = {folded(table.name): table for table in source.schema.tables}
    declared = {folded(table.name): table for table in migration.tables}
    staying = set(map(folded, migration.stays))
    without = {folded(each.table) for each in fresh.refused if not each.what}
    for name, table in there.items():
        if name not in declared and name not in staying and name not in without:
            yield Difference(table.name, "is not declared", fresh.tables.get(table.name))
    pairs = []
    for name, each in declared.items():
        if name in there:
            pairs.append(_Pair(each, there[name]))
        else:
            yield Difference(each.name, "is declared, but the source has no such table")
    kinds = {
        pair.source.name: {theirs.name: ours.type for ours, theirs in pair.columns()}
        for pair in pairs
    }
    found = survey_together(source, [pair.source for pair in pairs], given=kinds)
    censuses = {census.table.name: census for census in found}
    for pair in pairs:
        yield from _of_columns(pair, censuses[pair.source.name], fresh)


def _of_columns(pair: _Pair, census: TableCensus, fresh: Scaffold) -> Iterator[Difference]:
    ours = {folded(_source_name(column)): column for column in pair.declared.columns}
    for column in pair.source.columns:
        if folded(column.name) not in ours:
            text = fresh.columns.get((pair.source.name, column.name))
            yield Difference(f"{pair.declared.name}.{column.name}", "is not declared", text)
    theirs = {folded(column.name) for column in pair.source.columns}
    for name, declared in ours.items():
        place = f"{pair.declared.name}.{declared.name}"
        if name in theirs:
            yield from _of_values(place, declared, census.column(name))
        elif not ColumnRules.of(declared).added:
            yield Difference(place, "is declared, but the source has no such column")


def _of_values(place: str, declared: sa.Column[Any], facts: ColumnFacts) -> Iterator[Difference]:
    if facts.misfits:
        values = "1 value that does" if facts.misfits == 1 else f"{facts.misfits:,} values that do"
        yield Difference(place, f"has {values} not fit its type {type_name(declared.type)}")
    if not declared.nullable and facts.nulls and not declared.primary_key:
        rows = counted(facts.nulls, "row")
        yield Difference(place, f"is declared NOT NULL, but is NULL in {rows}")


def _source_name(column: sa.Column[Any]) -> str:
    return ColumnRules.of(column).source_name or column.name
