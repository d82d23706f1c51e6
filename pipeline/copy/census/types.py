"""The type of every column of a copy, with the reason.

The declared type and all values decide together: the type that the declared type asks for is chosen
if it takes every value without loss, else one that does. What only looks like a moment, a UUID or
JSON stays what it is, and becomes a hint.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from pipeline.copy.census import given, hints, rules
from pipeline.copy.census.declared import Declared, meaning
from pipeline.copy.census.facts import ColumnFacts, TableCensus, merged
from pipeline.copy.census.groups import groups
from pipeline.copy.census.rules import Kind
from pipeline.declared.forms import MixedBytes
from pipeline.mapping.casts.cast import affinity
from pipeline.mapping.casts.types import cast_for, type_name
from pipeline.sqlite.structure.model import Column, Schema


@dataclass(frozen=True)
class Decision:
    """The type of a column.

    Attributes:
        why: the reason, for people.
        hint: what the user may choose instead, for people.
        quarantines: values that the type does not take; their rows go to quarantine.
    """

    kind: Kind
    why: str
    hint: str | None = None
    quarantines: int = 0


@dataclass(frozen=True)
class _Member:
    """A column of a group."""

    table: str
    column: Column
    facts: ColumnFacts

    @property
    def is_text(self) -> bool:
        """Whether SQLite stores numbers in this column as texts."""
        return affinity(self.column.declared) == "TEXT"

    @property
    def declared(self) -> Declared:
        """The meaning of the declared type."""
        return meaning(self.column.declared)

    @property
    def decisive(self) -> ColumnFacts:
        """The facts that decide: without texts that go to quarantine.

        In a column of texts, a few that PostgreSQL cannot store do not make it a bytea.
        """
        if not self.is_text:
            return self.facts
        return replace(self.facts, texts=self.facts.storable, unstorable=0, nul=0)


def decide(
    schema: Schema, censuses: Iterable[TableCensus], casts: Mapping[str, str]
) -> dict[str, dict[str, Decision]]:
    """The type of each column of each table, by their names.

    Args:
        censuses: of the tables to copy; the misfits of given types are counted if the survey knew
            them (``given.kinds``).
        casts: types given by the user, by ``table.column``.

    Raises:
        SettingsError: a cast names a table, a column or a type that does not exist.
    """
    types = given.kinds(schema, casts)
    found = {census.table.name: census for census in censuses}
    decisions: dict[tuple[str, str], Decision] = {}
    for group in groups(schema):
        members = [
            _Member(table, found[table].table.column(column), found[table].column(column))
            for table, column in group
            if table in found
        ]
        for member, decision in _decide(members, types):
            decisions[member.table, member.column.name] = decision
    return {
        name: {each.name: decisions[name, each.name] for each in census.columns}
        for name, census in found.items()
    }


def _decide(
    members: Sequence[_Member], types: Mapping[str, Mapping[str, Kind]]
) -> Iterator[tuple[_Member, Decision]]:
    if not members:
        return
    first = members[0]
    kind = types.get(first.table, {}).get(first.column.name)
    if kind is not None:
        for member in members:
            yield member, _given(member, kind)
        return
    facts = first.decisive if len(members) == 1 else merged([each.decisive for each in members])
    declared = rules.joined(each.declared for each in members)
    chosen = _choose(members, declared, facts)
    for member in members:
        yield member, _decision(member, chosen, members)


def _choose(members: Sequence[_Member], declared: Declared, facts: ColumnFacts) -> rules.Chosen:
    """The type of a group; a form that only some columns counted does not count."""
    if len(members) > 1 and declared.family == "decimal":
        exact = all(each.facts.count("exact") == each.decisive.values for each in members)
        facts = facts if exact else replace(facts, forms={**facts.forms, "exact": -1})
    return rules.choose(declared, facts)


def _decision(member: _Member, chosen: rules.Chosen, members: Sequence[_Member]) -> Decision:
    kind = rules.fitted(chosen.kind, member.column.declared, member.decisive)
    if isinstance(kind, sa.LargeBinary):
        kind = rules.fitted(chosen.kind, member.column.declared, member.facts)
    quarantines = 0 if isinstance(kind, sa.LargeBinary) else member.facts.unstorable
    hint = hints.hint(member.table, member.column, member.facts, kind)
    if len(members) > 1 and not quarantines:
        hint = None
    why = _why(member, chosen, members, rest=bool(quarantines))
    return Decision(kind, why, hint, quarantines)


def _why(member: _Member, chosen: rules.Chosen, members: Sequence[_Member], *, rest: bool) -> str:
    declared = f"declared {member.column.declared}" if member.column.declared else "not declared"
    if not member.facts.values:
        reason = f"{declared}, no values"
    elif chosen.as_declared and len({each.declared.family for each in members}) == 1:
        reason = f"{declared}, and all{' other' * rest} values fit"
    else:
        reason = f"{declared}, holds {hints.contents(member.facts)}"
    others = [f"{each.table}.{each.column.name}" for each in members if each != member]
    if not others:
        return reason
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"{reason}; the same type as {others[0]}{more}, because foreign keys join them"


def _given(member: _Member, kind: Kind) -> Decision:
    fitted = rules.fitted(kind, member.column.declared, member.facts)
    if isinstance(kind, sa.Text) and isinstance(fitted, sa.Text) and member.is_text:
        fitted = sa.Text()
    quarantines = misfits(member.facts, kind)
    hint = None
    if quarantines:
        hint = f"{quarantines:,} values are not of the type {type_name(kind)}"
    return Decision(fitted, "given by --cast", hint, quarantines)


def misfits(facts: ColumnFacts, kind: Kind) -> int:
    """Values that a given type does not take, as far as the survey counted them."""
    if isinstance(kind, MixedBytes):
        return 0
    if facts.misfits is None:
        accepted = {"null", *cast_for(sa.Column("value", kind)).storage}
        by_class = {
            "integer": facts.integers,
            "real": facts.reals,
            "text": facts.texts,
            "blob": facts.blobs,
        }
        refused = sum(count for storage, count in by_class.items() if storage not in accepted)
        return refused + (facts.unstorable if "text" in accepted else 0)
    # SQLite does not notice texts that are not valid UTF-8.
    is_free = isinstance(kind, sa.String | sa.JSON)
    return facts.misfits + (facts.unstorable - facts.nul if is_free else 0)
