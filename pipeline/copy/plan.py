"""Plan a copy: the tables of the target with their types, keys and constraints; nothing is written.

Census and structure of the source decide; the target is not asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.copy.census import given
from pipeline.copy.census.facts import TableCensus
from pipeline.copy.census.survey import survey_together
from pipeline.copy.census.types import Decision, decide
from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.source.prepared import PreparedSource
from pipeline.copy.source.units import units
from pipeline.copy.target import conditions, keys, references
from pipeline.copy.target.extras import LeftOut
from pipeline.copy.target.keys import Planned
from pipeline.copy.target.layout import CopiedTable, mapping_of
from pipeline.copy.target.names import Names, of_columns
from pipeline.core.errors import SettingsError
from pipeline.core.progress import waiting
from pipeline.mapping.matching import folded
from pipeline.sqlite.structure.model import Schema, Table

Decisions = dict[str, dict[str, Decision]]


@dataclass(frozen=True)
class CopyPlan:
    """What a copy will make.

    Attributes:
        schema: the schema of the target.
        tables: by folded name in the source.
        extras: what each table has besides its rows, by folded name.
        units: folded names of the tables that commit together, parents first.
        decisions: the type of each column and why, by table and column.
        behind: tables whose rows are not copied, with the reason.
    """

    source: PreparedSource
    schema: str
    tables: dict[str, CopiedTable]
    extras: dict[str, Planned]
    units: tuple[tuple[str, ...], ...]
    decisions: Decisions
    censuses: dict[str, TableCensus]
    left: tuple[LeftOut, ...] = ()
    behind: dict[str, str] = field(default_factory=dict)

    @property
    def hints(self) -> Iterator[str]:
        """Proposals for columns whose type the values do not decide."""
        for table, columns in self.decisions.items():
            for column, decision in columns.items():
                if decision.hint:
                    yield f"{table}.{column}: {decision.hint}"

    @property
    def all_left(self) -> Sequence[LeftOut]:
        """What is known not to be carried before anything is written."""
        return [*self.left, *(left for each in self.extras.values() for left in each.left)]


def plan(source: PreparedSource, options: CopyOptions) -> CopyPlan:
    """Read every table once and plan the copy.

    Raises:
        SettingsError: an excluded table or a cast does not exist.
        SourceError: the source cannot be read.
    """
    schema = _without(source.schema, options)
    with waiting("census of the source"):
        casts = given.kinds(schema, options.casts)
        found = survey_together(source, schema.tables, given=casts)
        decisions = decide(schema, found, options.casts)
        censuses = {census.table.name: census for census in found}
    names, last_ids = Names(), _last_ids(source)
    tables: dict[str, CopiedTable] = {}
    extras: dict[str, Planned] = {}
    made = {table.name: names.of(table.name) for table in schema.tables}
    for table in schema.tables:
        census = censuses[table.name]
        copied = _copied(table, options.schema, made[table.name], census, decisions[table.name])
        copied, left = conditions.with_generated(copied)
        name = folded(table.name)
        tables[name] = copied
        extras[name] = keys.plan_keys(
            copied,
            nulls={facts.name: facts.nulls for facts in census.columns},
            last_id=max(last_ids.get(name, 0), _largest_id(table, census)),
            names=names,
        )
        extras[name].left += [*left, *_nullable(copied, census)]
        conditions.plan_conditions(copied, names, extras[name])
        extras[name].left += _renamed(copied, extras[name])
    for name, copied in tables.items():
        references.plan_references(copied, tables, extras[name])
    together = tuple(tuple(folded(t.name) for t in unit) for unit in units(schema))
    return CopyPlan(
        source,
        options.schema,
        tables,
        extras,
        together,
        decisions,
        censuses,
        tuple(_left(schema, options, {name: table.label for name, table in tables.items()})),
        _behind(source, options),
    )


def _renamed(table: CopiedTable, planned: Planned) -> Iterator[LeftOut]:
    """Names that PostgreSQL cannot use, because they are too long, empty or its own."""
    columns = {f"column {name}": made for name, made in table.names.items() if made != name}
    indexes = {
        f"index {each.name}": each.made
        for each in planned.own
        if each.kind == "index" and each.made != each.name
    }
    own = {f"table {table.source.name}": table.name} if table.name != table.source.name else {}
    for name, made in {**own, **columns, **indexes}.items():
        reason = f"PostgreSQL cannot use this name; in the target it is {made}"
        yield LeftOut("name", table.label, name, reason)


def _without(schema: Schema, options: CopyOptions) -> Schema:
    known = {folded(table.name) for table in schema.tables}
    known |= {folded(table.name) for table in schema.virtual}
    known |= {folded(name) for name in schema.unreadable_tables}
    excluded = _excluded(options)
    wrong = sorted(name for name in options.exclude if folded(name) not in known)
    if wrong:
        raise SettingsError(
            f"--exclude names {', '.join(wrong)}, which the source does not have",
            remedy=f"Its tables are {', '.join(sorted(t.name for t in schema.tables))}",
        )
    tables = tuple(table for table in schema.tables if folded(table.name) not in excluded)
    return replace(schema, tables=tables)


def _copied(
    table: Table,
    schema: str,
    name: str,
    census: TableCensus,
    decisions: Mapping[str, Decision],
) -> CopiedTable:
    kinds = {column: decision.kind for column, decision in decisions.items()}
    label = CopiedTable.label_of(schema, name)
    mapping = mapping_of(table, label, kinds)
    nulls = {facts.name: facts.nulls for facts in census.columns}
    names = of_columns(table)
    required = [c.name for c in table.columns if c.not_null and not nulls.get(c.name)]
    return CopiedTable(
        source=table,
        schema=schema,
        name=name,
        mapping=mapping,
        rows=census.rows,
        bytes=census.bytes,
        ranges=census.ranges,
        required=frozenset(names[column] for column in required),
        checked=any(decision.quarantines for decision in decisions.values()),
    )


def _nullable(table: CopiedTable, census: TableCensus) -> Iterator[LeftOut]:
    """Columns that are declared NOT NULL and hold NULL."""
    for facts in census.columns:
        if table.source.column(facts.name).not_null and facts.nulls:
            verb = "is" if facts.nulls == 1 else "are"
            reason = f"{facts.nulls:,} of its values {verb} NULL"
            yield LeftOut("not null", table.label, facts.name, reason)


def _largest_id(table: Table, census: TableCensus) -> int:
    return (census.column(table.primary_key[0]).highest or 0) if table.is_row_id else 0


def _last_ids(source: PreparedSource) -> dict[str, int]:
    """The largest id that AUTOINCREMENT ever assigned, by folded name of the table."""
    with source.sqlite() as connection:
        has = "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"
        if connection.execute(has).fetchone() is None:
            return {}
        found: Sequence[tuple[Any, Any]] = connection.execute(
            "SELECT name, max(CAST(seq AS INTEGER)) FROM sqlite_sequence GROUP BY 1"
        ).fetchall()
    return {folded(name.decode("utf-8", "replace")): seq or 0 for name, seq in found if name}


def _left(schema: Schema, options: CopyOptions, labels: Mapping[str, str]) -> Iterator[LeftOut]:
    """Triggers and virtual tables, except those of excluded tables.

    Args:
        labels: of the tables to copy, by folded name.
    """
    excluded = _excluded(options)
    for trigger in schema.triggers:
        if folded(trigger.table) not in excluded:
            table = labels.get(folded(trigger.table), trigger.table)
            reason = "PostgreSQL needs a function instead, which has to be written by hand"
            yield LeftOut("trigger", table, trigger.name, reason)
    for virtual in schema.virtual:
        if folded(virtual.name) not in excluded:
            copied = folded(virtual.name) in labels
            reason = f"PostgreSQL has no module {virtual.module}"
            reason += "; its rows are in an ordinary table" if copied else ""
            yield LeftOut(
                "virtual table", labels.get(folded(virtual.name), ""), virtual.name, reason
            )
    others = schema.unreadable_tables | {view.name for view in schema.views}
    for name, reason in schema.unreadable.items():
        if name not in others:
            yield LeftOut("name", "", name, f"the index or trigger was not read, because {reason}")


def _behind(source: PreparedSource, options: CopyOptions) -> dict[str, str]:
    """Tables whose rows are not copied, with the reason."""
    names = sorted(source.schema.unreadable_tables)
    found = source.unread | {name: source.schema.unreadable[name] for name in names}
    return {n: why for n, why in found.items() if folded(n) not in _excluded(options)}


def _excluded(options: CopyOptions) -> set[str]:
    return {folded(name) for name in options.exclude}
