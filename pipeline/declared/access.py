"""Privileges of Supabase's roles on a moved table.

They are declared in the rules of the table or of its MetaData; other roles have none. Supabase
grants all roles access to new tables in ``public``, so undeclared privileges are revoked.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import sqlalchemy as sa

from pipeline.declared.rules import SharedRules, TableRules

Privilege = Literal["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]

READ: tuple[Privilege, ...] = ("SELECT",)
ALL: tuple[Privilege, ...] = get_args(Privilege)

ROLES = ("anon", "authenticated", "service_role")
"""The roles of Supabase's requests; a database without them exposes nothing."""


@dataclass(frozen=True)
class Access:
    """The privileges of one role.

    Attributes:
        role: one of ``ROLES``.
        privileges: on the table; INSERT includes its sequence.
        rows: SQL condition on the rows that it may read and write; None for all. It qualifies
            tables with their schema, and calls functions as ``(SELECT pipeline_functions.f())``, so
            that they run once and not for each row.
    """

    role: str
    privileges: tuple[Privilege, ...]
    rows: str | None = None


DEFAULT = (Access("service_role", ALL), Access("authenticated", READ))
"""The service has all privileges, signed-in users may read, others have none."""


def of_table(table: sa.Table) -> tuple[Access, ...]:
    """The declared privileges on a table."""
    return TableRules.of(table).access or SharedRules.of(table.metadata).access
