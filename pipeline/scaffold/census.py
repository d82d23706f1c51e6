"""What the source of a migration holds, beside what is declared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import sqlalchemy as sa

from pipeline.config.environment import source_file
from pipeline.config.settings import Settings
from pipeline.copy.census.facts import ColumnFacts, TableCensus
from pipeline.copy.census.formats import Form
from pipeline.copy.census.hints import contents
from pipeline.copy.census.survey import survey_together
from pipeline.copy.census.types import Decision, decide, misfits
from pipeline.copy.source.prepare import prepared
from pipeline.copy.source.prepared import PreparedSource
from pipeline.core import private
from pipeline.core.policies import DEFAULT, Policies
from pipeline.core.quoting import counted
from pipeline.declared.rules import ColumnRules
from pipeline.mapping.casts.types import type_name
from pipeline.mapping.matching import folded
from pipeline.migrations.declaration import Migration
from pipeline.scaffold.columns import is_secret_name, ranges
from pipeline.scaffold.pairs import Pair
from pipeline.sqlite.origin import File
from pipeline.sqlite.structure.model import Column

_FORMS: dict[Form, tuple[str, str]] = {
    "date": ("date", "dates"),
    "naive": ("moment without a time zone", "moments without a time zone"),
    "zoned": ("moment with a time zone", "moments with a time zone"),
    "time": ("time", "times"),
    "uuid": ("UUID", "UUIDs"),
    "json": ("JSON text", "JSON texts"),
}
"""Forms of texts that a reader should know about: the words for one such text, and for several."""
State = Literal["same type", "values fit", "does not fit", "not declared"]
"""How the declaration of a column relates to its values: the type that a copy would choose, another
type that all values fit, one that they do not fit, or none."""


@dataclass(frozen=True)
class ColumnReport:
    """A column of the source.

    Attributes:
        source_type: its type in the source, "" if there is none.
        hidden: it is secret or not declared, so no value of it is shown. An undeclared column may
            be a copy of a secret one.
        found: what its values are, for people.
        figures: the same for programs.
        declared: its type in the migration; None if it is not declared.
        decided: the type that a copy would choose.
        why: the reason for this type.
        note: what a person should look at; "" if nothing.
        examples: a few values, shortened.
    """

    name: str
    source_type: str
    hidden: bool
    found: str
    figures: dict[str, Any]
    declared: str | None
    decided: str
    why: str
    state: State
    note: str
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
    def state(self) -> str:
        """Whether a move moves it, for people."""
        if self.declared:
            return "declared"
        return "stays in SQLite" if self.stays else "not declared"

    @property
    def to_look_at(self) -> int:
        """The number of columns with a note, and of missing ones."""
        return sum(bool(column.note) for column in self.columns) + len(self.missing)


@dataclass(frozen=True)
class Census:
    """What the source of a migration holds.

    Attributes:
        source: its address, without a password.
    """

    migration: str
    source: str
    tables: tuple[TableReport, ...]

    @property
    def declared(self) -> list[TableReport]:
        """The tables of the migration."""
        return [table for table in self.tables if table.declared]

    @property
    def others(self) -> list[TableReport]:
        """The tables that are not declared, and those that stay in SQLite on purpose."""
        return [table for table in self.tables if not table.declared]

    @property
    def wrong(self) -> list[tuple[TableReport, str, str]]:
        """Columns whose declaration does not fit: the table, the name and the reason."""
        found = []
        for table in self.declared:
            found += [(table, name, "declared, but the source lacks it") for name in table.missing]
            found += [
                (table, column.name, column.note)
                for column in table.columns
                if column.state == "does not fit"
            ]
        return found


def of_migration(loaded: Settings, migration: Migration) -> Census:
    """Read the source of a migration; a sample is created if no source is configured.

    Raises:
        SettingsError: a URL or a policy is not usable.
        SourceError: the source cannot be read, or there is no space for the copy.
    """
    private.home(loaded.pipeline_home)
    origin = loaded.origin(migration)
    if isinstance(origin, File):
        source_file(loaded, migration)
    with prepared(origin, home=loaded.pipeline_home) as source:
        tables = report(source, migration, loaded.policies(migration))
    return Census(migration.name, origin.shown, tuple(tables))


def report(
    source: PreparedSource, migration: Migration, policies: Policies = DEFAULT
) -> list[TableReport]:
    """Read every table of a source once.

    Args:
        policies: they may name the source's columns, and the forms of their values.

    Raises:
        SettingsError: a policy does not fit the source.
        SourceError: the source cannot be read.
    """
    there = {folded(table.name): table for table in source.schema.tables}
    pairs = {
        there[name].name: Pair.of(table, there[name], policies)
        for table in migration.tables
        if (name := folded(table.name)) in there
    }
    kinds = {
        name: {theirs.name: ours.type for ours, theirs in pair.columns()}
        for name, pair in pairs.items()
    }
    found = survey_together(source, source.schema.tables, given=kinds)
    decisions = decide(source.schema, found, {})
    staying = {folded(name) for name in migration.stays}
    reports = []
    for census in found:
        name = census.table.name
        pair = pairs.get(name)
        reporter = _Reporter(census, decisions[name], pair, policies)
        reports.append(
            TableReport(
                name,
                census.rows,
                census.bytes,
                pair is not None,
                folded(name) in staying,
                tuple(map(reporter.column, census.table.columns)),
                () if pair is None else tuple(column.name for column in pair.missing()),
            )
        )
    return reports


@dataclass(frozen=True)
class _Reporter:
    """Reports on the columns of one table.

    Attributes:
        pair: None if the table is not declared.
    """

    census: TableCensus
    decisions: Mapping[str, Decision]
    pair: Pair | None
    policies: Policies

    def column(self, column: Column) -> ColumnReport:
        facts, decision = self.census.column(column.name), self.decisions[column.name]
        ours = self._declared.get(column.name)
        hidden = ours is None or ColumnRules.of(ours).secret or is_secret_name(column.name)
        wrong = [] if ours is None else [*self._wrong(facts, ours)]
        hint = "" if hidden else _hint(decision, ours)
        return ColumnReport(
            column.name,
            column.declared,
            hidden,
            _found(facts, hidden=hidden),
            _figures(facts, hidden=hidden),
            None if ours is None else type_name(ours.type),
            type_name(decision.kind),
            "" if hidden else decision.why,
            _state(decision, ours, wrong=bool(wrong)),
            "; ".join(filter(None, [*wrong, hint])),
            () if hidden else facts.examples,
        )

    @cached_property
    def _declared(self) -> dict[str, sa.Column[Any]]:
        """The declared columns, by the source's name."""
        return {} if self.pair is None else {b.name: a for a, b in self.pair.columns()}

    def _wrong(self, facts: ColumnFacts, ours: sa.Column[Any]) -> Iterator[str]:
        """Values that the declaration does not allow."""
        wrong = misfits(facts, ours.type)
        if wrong:
            values = "1 value does" if wrong == 1 else f"{wrong:,} values do"
            yield f"{values} not fit the declared type"
        replaced = f"{ours.table.name}.{ours.name}" in self.policies.forbidden_nulls
        if not ours.nullable and facts.nulls and not replaced:
            yield f"declared NOT NULL, and NULL in {counted(facts.nulls, 'row')}"


def _state(decision: Decision, ours: sa.Column[Any] | None, *, wrong: bool) -> State:
    if ours is None:
        return "not declared"
    if wrong:
        return "does not fit"
    return "same type" if type_name(decision.kind) == type_name(ours.type) else "values fit"


def _hint(decision: Decision, ours: sa.Column[Any] | None) -> str:
    """What the values look like, unless the declaration says so already."""
    if not decision.hint or ours is None or not isinstance(decision.kind, type(ours.type)):
        return ""
    return decision.hint.partition(": --cast ")[0]


def _found(facts: ColumnFacts, *, hidden: bool) -> str:
    parts = [] if facts.values else ["no values"]
    if facts.values:
        parts.append(counted(facts.values, "value") if hidden else contents(facts))
    if not hidden:
        parts += ranges(facts)
        parts += [f"{count:,} {_FORMS[form][count != 1]}" for form, count in _forms(facts)]
    if facts.nulls:
        parts.append(f"{facts.nulls:,} NULL")
    return ", ".join(parts)


def _figures(facts: ColumnFacts, *, hidden: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {"values": facts.values, "nulls": facts.nulls}
    if hidden:
        return figures
    return figures | {
        "integers": facts.integers,
        "reals": facts.reals,
        "texts": facts.texts,
        "blobs": facts.blobs,
        "lowest_integer": facts.lowest,
        "highest_integer": facts.highest,
        "longest_text": facts.longest,
        "forms": dict(_forms(facts)),
    }


def _forms(facts: ColumnFacts) -> Iterator[tuple[Form, int]]:
    """Forms of texts that were counted and found."""
    for form in _FORMS:
        if facts.count(form):
            yield form, facts.count(form)
