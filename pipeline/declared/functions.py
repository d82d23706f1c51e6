"""Functions of triggers and policies, in the target's schema ``pipeline_functions``.

Triggers and policies depend on them long after the migration, so they are neither in schema
``migration``, which may be dropped one day, nor in ``public``, whose functions anybody can call
through the API. Only the owner may use the schema: triggers and policies need no right on it.

A table's rules name the column that a trigger sets on each update; the functions that its policies
call are declared once, in the rules of its MetaData.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from pipeline.declared.access import of_table
from pipeline.declared.rules import SharedRules, TableRules

SCHEMA = "pipeline_functions"


@dataclass(frozen=True)
class Function:
    """A function without arguments, in PL/pgSQL.

    Attributes:
        name: without its schema.
        returns: a type, as PostgreSQL writes it.
        body: the statements between BEGIN and END; all names are qualified by their schema.
        asked: whether policies call it. It then reads as its owner, so the policies of the tables
            that it reads do not call it again, and it is constant within a statement.
    """

    name: str
    returns: str
    body: str
    asked: bool = True

    @property
    def call(self) -> str:
        """The call in SQL."""
        return f"{SCHEMA}.{self.name}()"


def stamp_column(table: sa.Table) -> str | None:
    """The column that a trigger sets to the time of each update; None if there is none."""
    return TableRules.of(table).stamp


def policy_functions(table: sa.Table) -> dict[Function, tuple[str, ...]]:
    """The functions that the policies of a table call, each with the roles of these policies."""
    declared = SharedRules.of(table.metadata).functions
    asking = {
        function: tuple(a.role for a in of_table(table) if a.rows and function.call in a.rows)
        for function in declared
    }
    return {function: roles for function, roles in asking.items() if roles}
