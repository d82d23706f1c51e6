"""What names mean in an expression: columns of tables, and aliases of a SELECT."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from pipeline.copy.expressions.language.values import (
    TargetColumn,
    Untranslatable,
    Value,
    of_column,
    of_text,
)
from pipeline.mapping.matching import folded

ROW_IDS = frozenset({"rowid", "_rowid_", "oid"})


@dataclass(frozen=True)
class TargetRelation:
    """A table or view of the target.

    Attributes:
        sql: its quoted name there, with the schema.
        columns: by their folded names in the source, in order.
    """

    sql: str
    columns: Mapping[str, TargetColumn]


@dataclass(frozen=True)
class Member:
    """A table of a FROM clause.

    Attributes:
        name: folded, by which columns are qualified.
        prefix: before the columns in SQL, such as ``"t".``.
        merged: columns that USING or NATURAL takes from a table before.
    """

    name: str
    prefix: str
    columns: Mapping[str, TargetColumn]
    merged: frozenset[str] = frozenset()


@dataclass
class Scope:
    """The names of a SELECT, and of those around it.

    Attributes:
        aliases: expressions by the folded names that the SELECT gives them.
    """

    members: list[Member] = field(default_factory=list)
    outer: "Scope | None" = None
    aliases: dict[str, exp.Expr] = field(default_factory=dict)

    def column(self, node: exp.Column) -> "Value | exp.Expr":
        """The column of a name; the expression, if it is an alias.

        Raises:
            Untranslatable: nothing has this name.
        """
        name, table = folded(node.name), folded(node.table)
        scope: Scope | None = self
        while scope is not None:
            for member in scope.members:
                qualified = table in ("", member.name)
                if (
                    qualified
                    and name in member.columns
                    and not (not table and name in member.merged)
                ):
                    return of_column(member.columns[name], member.prefix)
            if not table and name in scope.aliases:
                return scope.aliases[name]
            scope = scope.outer
        if not table and node.this.args.get("quoted"):
            return of_text(node.name)
        if name in ROW_IDS:
            raise Untranslatable("uses the row id, which is no column")
        raise Untranslatable(f"uses {node.name}, which is no column in the target")

    def every(self, table: str = "") -> list[tuple[str, TargetColumn, str]]:
        """Columns of ``*``: the folded name, the column, and its prefix."""
        return [
            (name, column, member.prefix)
            for member in self.members
            if table in ("", member.name)
            for name, column in member.columns.items()
            if table or name not in member.merged
        ]
