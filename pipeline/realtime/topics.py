"""The topic that a row belongs to, as SQL, and the triggers' functions that keep it known.

A row belongs to the space that its path of references leads to. Within a transaction, a row of that
path may be gone before the change of the first row is recorded: a cascade deletes parents first. So
a trigger stores what each row of a path refers to before it is deleted or gets another key
(``feed.former``), and a lookup continues there.

A row also changes its topic if a row of its path moves to another space. Such rows are then
recorded by the trigger of the row that moved.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.core.quoting import literal, quoted
from pipeline.declared import events
from pipeline.declared.events import PublishedChanges
from pipeline.mapping.casts.types import type_name
from pipeline.mapping.row_key import RowKey

SWITCH = "enable_realtime"
"""The column of a space that says whether its changes are published."""


@dataclass(frozen=True)
class Step:
    """A step of a path: a row's reference to a row of another table.

    Attributes:
        column: the column with the reference.
        parent: the table it refers to.
        next: the column of the parent that continues the path; of a space, its switch.
    """

    column: str
    parent: sa.Table
    next: str

    @property
    def source(self) -> str:
        """The parent in SQL, with its schema."""
        return qualified(self.parent)

    @property
    def key(self) -> sa.Column[Any]:
        """The parent's key."""
        return RowKey.of(self.parent).column


def qualified(table: sa.Table) -> str:
    """The name of a table of the application in SQL, with its schema."""
    return f"public.{quoted(table.name)}"


def path(table: sa.Table) -> tuple[Step, ...]:
    """The steps from a row of a published table to its space; none without a path."""
    published = events.published_changes(table)
    columns = published.path if published else ()
    steps, at = [], table
    for column, following in zip(columns, (*columns[1:], SWITCH), strict=False):
        (reference,) = at.c[column].foreign_keys
        at = reference.column.table
        steps.append(Step(column, at, following))
    return tuple(steps)


def parents(tables: Sequence[sa.Table]) -> list[Step]:
    """One step to each table that a path leads to, whatever its column."""
    found = {step.parent.name: step for table in tables for step in path(table)}
    return [found[name] for name in sorted(found)]


def below(parent: sa.Table, tables: Sequence[sa.Table]) -> Iterator[tuple[sa.Table, int]]:
    """Published tables whose paths continue from this table, and after how many steps."""
    for table in tables:
        for number, step in enumerate(path(table)[:-1], start=1):
            if step.parent.name == parent.name:
                yield table, number


def topic(table: sa.Table, published: PublishedChanges, side: str) -> str:
    """SQL for the topic of the row that SQL calls ``side``; NULL if it is not published."""
    if published.user is not None:
        return f"(SELECT 'user:' || ({published.user}) FROM (SELECT {side}.*) AS r)"
    steps = path(table)
    if not steps:
        return "NULL::text"
    return topic_of(steps, f"{side}.{quoted(steps[0].column)}")


def topic_of(steps: Sequence[Step], reference: str) -> str:
    """SQL for the topic that a value of the first step's column leads to."""
    space = f"{reference}::text"
    for step in steps[:-1]:
        space = f"nullif({_lookup(step, space)}, '')"
    return (
        f"(SELECT 'space:' || t.space FROM (SELECT {space} AS space OFFSET 0) AS t"
        f" WHERE {_lookup(steps[-1], 't.space')} IS DISTINCT FROM 'false')"
    )


def _lookup(step: Step, key: str) -> str:
    """SQL for what a parent refers to, now or formerly; empty if to nothing."""
    of_parent, kind = f"p.{quoted(step.key.name)}", type_name(step.key.type)
    return (
        f"coalesce((SELECT coalesce(p.{quoted(step.next)}::text, '') FROM {step.source} AS p"
        f" WHERE {of_parent} = ({key})::{kind}),"
        f" feed.former_reference({literal(step.parent.name)}, {key}))"
    )
