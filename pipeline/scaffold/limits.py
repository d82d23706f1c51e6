"""What a migration cannot declare yet; it is named instead of moved."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from pipeline.copy.plan import CopyPlan
from pipeline.copy.target.extras import Extra
from pipeline.copy.target.layout import CopiedTable
from pipeline.mapping.casts.types import type_name
from pipeline.mapping.matching import folded
from pipeline.migrations.declaration import is_step_name


@dataclass(frozen=True)
class Refused:
    """Something of the source that a migration cannot have.

    Attributes:
        table: its name in the source.
        what: such as a foreign key; empty for the whole table.
        reason: for people, without a subject, such as "has no primary key".
    """

    table: str
    what: str
    reason: str

    @property
    def sentence(self) -> str:
        """What is missing, for people."""
        return f"{self.table}{f', {self.what}' if self.what else ''}: it {self.reason}"


def refused_tables(plan: CopyPlan) -> Iterator[Refused]:
    """The tables that a migration cannot move."""
    for table in plan.tables.values():
        reason = _reason(table)
        if reason:
            yield Refused(table.source.name, "", reason)
    for name, reason in plan.behind.items():
        yield Refused(name, "", f"cannot be read, because {reason}")


def _reason(table: CopiedTable) -> str | None:
    key = table.source.primary_key
    if table.name != table.source.name:
        return "has a name that PostgreSQL cannot use"
    if not is_step_name(table.name):
        return "has a name after which Dagster cannot name a step"
    if not key:
        return "has no primary key"
    if len(key) > 1:
        return f"has a primary key of {len(key)} columns ({', '.join(key)})"
    name = table.exact(key[0])
    if table.names[name] != name:
        return "has a primary key that needs another name in PostgreSQL"
    column = table.mapping.table.columns[name]
    if not isinstance(column.type, sa.Integer | sa.String):
        return f"has a primary key of the type {type_name(column.type)}"
    return None


def refused_reference(
    plan: CopyPlan, table: CopiedTable, extra: Extra, moved: Mapping[str, CopiedTable]
) -> str | None:
    """Why a foreign key cannot be declared; None if it can.

    Args:
        moved: the tables that are declared before this one, by folded name, and this one.
    """
    parent = plan.tables[(extra.parent or ("", ""))[0]]
    if len(extra.elements) > 1:
        return f"has {len(extra.elements)} columns"
    if folded(parent.source.name) not in moved:
        circle = any(
            {folded(t.source.name) for t in (table, parent)} <= set(unit) for unit in plan.units
        )
        if circle and _reason(parent) is None:
            return f"closes a circle of tables with {parent.name}"
        return f"refers to {parent.name}, which is not declared"
    key = [parent.names[parent.exact(name)] for name in parent.source.primary_key]
    if list(extra.refers_to) != key:
        return f"refers to {', '.join(extra.refers_to)} of {parent.name}, not to its primary key"
    return None
