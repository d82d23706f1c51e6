"""What a declared migration lacks, or no longer says rightly, about its source."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.copy.census.facts import ColumnFacts, TableCensus
from pipeline.copy.census.survey import survey_together
from pipeline.copy.census.types import misfits
from pipeline.copy.source.prepared import PreparedSource
from pipeline.core.policies import Policies
from pipeline.core.quoting import counted
from pipeline.mapping.casts.types import type_name
from pipeline.mapping.matching import folded
from pipeline.migrations.declaration import Migration
from pipeline.scaffold.module import Scaffold
from pipeline.scaffold.pairs import Pair


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


def differences(
    source: PreparedSource, migration: Migration, fresh: Scaffold, policies: Policies
) -> Iterator[Difference]:
    """Compare a migration with its source.

    Args:
        fresh: the declaration that would be written now.
        policies: they may name the source's columns, and the forms of their values.

    Raises:
        SettingsError: a policy does not fit the source.
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
            pairs.append(Pair.of(each, there[name], policies))
        else:
            yield Difference(each.name, "is declared, but the source has no such table")
    kinds = {
        pair.source.name: {theirs.name: ours.type for ours, theirs in pair.columns()}
        for pair in pairs
    }
    found = survey_together(source, [pair.source for pair in pairs], given=kinds)
    censuses = {census.table.name: census for census in found}
    for pair in pairs:
        yield from _of_columns(pair, censuses[pair.source.name], fresh, policies)


def _of_columns(
    pair: Pair, census: TableCensus, fresh: Scaffold, policies: Policies
) -> Iterator[Difference]:
    for column in pair.undeclared():
        text = fresh.columns.get((pair.source.name, column.name))
        yield Difference(f"{pair.declared.name}.{column.name}", "is not declared", text)
    for ours, theirs in pair.columns():
        place = f"{pair.declared.name}.{ours.name}"
        replaced = place in policies.forbidden_nulls
        yield from _of_values(place, ours, census.column(theirs.name), replaced=replaced)
    for ours in pair.missing():
        place = f"{pair.declared.name}.{ours.name}"
        yield Difference(place, "is declared, but the source has no such column")


def _of_values(
    place: str, declared: sa.Column[Any], facts: ColumnFacts, *, replaced: bool
) -> Iterator[Difference]:
    wrong = misfits(facts, declared.type)
    if wrong:
        values = "1 value that does" if wrong == 1 else f"{wrong:,} values that do"
        yield Difference(place, f"has {values} not fit its type {type_name(declared.type)}")
    if not declared.nullable and facts.nulls and not (declared.primary_key or replaced):
        rows = counted(facts.nulls, "row")
        yield Difference(place, f"is declared NOT NULL, but is NULL in {rows}")
