"""What of a table is told to who listens: which columns, to whom, and as which event.

A table's rules say so (``told``); a table without that is never published and makes no event. SQL
speaks of the row as ``new``, and as ``old`` where it was changed or deleted.
"""

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from pipeline.declared.rules import TableRules

Operation = Literal["INSERT", "UPDATE", "DELETE"]

STORED = ("message:new", "note:published", "progress:updated", "member:changed")
"""Events that rows of tables make."""

FLEETING = ("presence:changed", "typing:changed")
"""Events that no table keeps."""


@dataclass(frozen=True)
class Occurs:
    """When a change of a row is an event.

    Attributes:
        event: one of ``STORED``.
        on: the operations that may be one.
        when: SQL condition on ``new``, and on ``old`` where ``on`` is UPDATE alone.
    """

    event: str
    on: tuple[Operation, ...]
    when: str = "true"


@dataclass(frozen=True)
class Told:
    """What is told of a table's changes.

    Attributes:
        columns: those that are published; never a BLOB or a secret.
        space: SQL for the id of the space that the row ``r`` belongs to, NULL for none.
        user: SQL for the id of the user whom alone the row ``r`` concerns; None if it is told to
            its whole space.
        events: which changes are events of a type; others are known by their table alone.
        old_rows: whether who listens needs the row as it was (REPLICA IDENTITY FULL).
    """

    columns: tuple[str, ...]
    space: str = "NULL"
    user: str | None = None
    events: tuple[Occurs, ...] = ()
    old_rows: bool = False


def of_table(table: sa.Table) -> Told | None:
    """What is declared of a table, None if nothing is told of it."""
    return TableRules.of(table).told
