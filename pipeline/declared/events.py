"""Which changes of a table are published: which columns, to whom, and as which event.

They are declared in a table's rules (``published``); other tables are never published and make no
event. SQL calls the row ``new``, and ``old`` if it was changed or deleted.
"""

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from pipeline.declared.rules import TableRules

Operation = Literal["INSERT", "UPDATE", "DELETE"]

STORED = ("message:new", "note:published", "progress:updated", "member:changed")
"""Events made by rows of tables."""

FLEETING = ("presence:changed", "typing:changed")
"""Events that are stored in no table."""


@dataclass(frozen=True)
class EventRule:
    """The condition under which a change of a row is an event.

    Attributes:
        event: one of ``STORED``.
        on: the operations that may make one.
        when: SQL condition on ``new``, and on ``old`` if ``on`` is UPDATE alone.
    """

    event: str
    on: tuple[Operation, ...]
    when: str = "true"


@dataclass(frozen=True)
class PublishedChanges:
    """The published changes of a table.

    Attributes:
        columns: published columns; never a BLOB or a secret.
        path: the columns that lead to the row's space: a foreign key of the table, then one of
            the table it refers to, and so on. Empty if the row belongs to none.
        user: SQL for the id of the only user that row ``r`` concerns; None if it is published to
            its whole space.
        events: changes that are events of a type; others are known by their table alone.
        old_rows: whether subscribers need the row before the change (REPLICA IDENTITY FULL).
    """

    columns: tuple[str, ...]
    path: tuple[str, ...] = ()
    user: str | None = None
    events: tuple[EventRule, ...] = ()
    old_rows: bool = False


def published_changes(table: sa.Table) -> PublishedChanges | None:
    """The published changes of a table; None if it is not published."""
    return TableRules.of(table).published
