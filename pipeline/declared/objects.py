"""Functions that moved tables need for good, in a schema ``upkeep`` of their own in the target.

Triggers and policies hang on them long after the migration, so they lie neither in its schema,
which may be dropped one day, nor in ``public``, whose functions everybody may call by the API.
Nobody but the owner may use the schema: a trigger fires and a policy is asked without that right.

A table's rules name the column that a trigger sets at each update; what its policies call is
declared once, in the rules of its MetaData.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from pipeline.declared.access import of_table
from pipeline.declared.rules import SharedRules, TableRules

SCHEMA = "upkeep"


@dataclass(frozen=True)
class Function:
    """A function without arguments, in PL/pgSQL.

    Attributes:
        name: in ``SCHEMA``.
        returns: a type, as PostgreSQL writes it.
        body: what stands between BEGIN and END; all names in it have their schema.
        asked: whether policies ask it what the caller may see. It then reads as its owner, so the
            policies of what it reads do not ask it again, and always says the same in a statement.
    """

    name: str
    returns: str
    body: str
    asked: bool = True

    @property
    def call(self) -> str:
        """How SQL calls it."""
        return f"{SCHEMA}.{self.name}()"


def stamp_of(table: sa.Table) -> str | None:
    """The column that is set to the moment of each update; None if none is."""
    return TableRules.of(table).stamp


def asked_by(table: sa.Table) -> dict[Function, tuple[str, ...]]:
    """The functions that the policies of a table ask, each with the roles that it answers."""
    declared = SharedRules.of(table.metadata).functions
    asking = {
        function: tuple(a.role for a in of_table(table) if a.rows and function.call in a.rows)
        for function in declared
    }
    return {function: roles for function, roles in asking.items() if roles}
