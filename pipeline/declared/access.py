"""Which of Supabase's roles may do what with a moved table.

A table's rules say so, or else its MetaData's; a role that is not named may do
nothing. Supabase gives new tables in ``public`` to everybody, so what is not declared is revoked.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import sqlalchemy as sa

from pipeline.declared.rules import SharedRules, TableRules

Privilege = Literal["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]

READ: tuple[Privilege, ...] = ("SELECT",)
ALL: tuple[Privilege, ...] = get_args(Privilege)

ROLES = ("anon", "authenticated", "service_role")
"""Roles by which Supabase serves requests; a database without them exposes nothing."""


@dataclass(frozen=True)
class Access:
    """What one role may do.

    Attributes:
        role: one of ``ROLES``.
        privileges: of the table; who may insert may also use its sequence.
        rows: SQL condition on the rows that it sees, and that it may write if it may; None for
            all. Tables have their schema in it, and functions of ``upkeep`` are called as
            ``(SELECT upkeep.f())``, so that they are asked once and not for every row.
    """

    role: str
    privileges: tuple[Privilege, ...]
    rows: str | None = None


DEFAULT = (Access("service_role", ALL), Access("authenticated", READ))
"""The service does everything, who is signed in reads, nobody else sees anything."""


def of_table(table: sa.Table) -> tuple[Access, ...]:
    """What is declared of a table."""
    return TableRules.of(table).access or SharedRules.of(table.metadata).access
