"""SQLite's expressions and views in PostgreSQL's words.

A translation is a proposal: ``trial`` tries it in the target and compares it with SQLite.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.copy.expressions.assignment import assigned, to_default
from pipeline.copy.expressions.language import comparisons, parsing
from pipeline.copy.expressions.language.compiler import Compiler
from pipeline.copy.expressions.language.scopes import Member, Scope, TargetRelation
from pipeline.copy.expressions.language.selects import QueryCompiler
from pipeline.copy.expressions.language.values import (
    TargetColumn,
    Untranslatable,
    Value,
    of_column,
    truth,
)
from pipeline.core.quoting import quoted
from pipeline.mapping.matching import folded
from pipeline.sqlite.structure.model import IndexPart, View

Columns = Mapping[str, TargetColumn]
"""Columns of a table in the target, by their folded names in the source."""

__all__ = [
    "Columns",
    "NotTranslated",
    "TargetColumn",
    "TargetRelation",
    "TranslatedView",
    "Translation",
    "condition",
    "default",
    "generated",
    "index_part",
    "view",
    "where",
]

_IGNORED_CASE = "it ignores the case of all letters, not only of ASCII letters as in SQLite"


@dataclass(frozen=True)
class Translation:
    """An expression for PostgreSQL.

    Attributes:
        sql: without outer parentheses, except for an expression of an index.
        always: the types of the columns guarantee this condition; a constraint is not needed.
        note: how it differs from SQLite for values that the source may not have.
    """

    sql: str
    always: bool = False
    note: str | None = None


@dataclass(frozen=True)
class NotTranslated:
    """An expression without an equal in PostgreSQL.

    Attributes:
        reason: for people, without a subject, such as "calls the function x, which ...".
    """

    reason: str


@dataclass(frozen=True)
class TranslatedView:
    """A view for PostgreSQL.

    Attributes:
        sql: the statement that creates it.
        relation: what later views can read from.
        comparable: for each column, whether its values can be compared with SQLite's as texts or
            numbers.
    """

    sql: str
    relation: TargetRelation
    comparable: tuple[bool, ...]


def condition(sql: str, columns: Columns, *, table: str = "") -> Translation | NotTranslated:
    """The condition of a CHECK.

    Args:
        table: the name of its table in the source; it may qualify columns.
    """

    def translated(compiler: Compiler) -> Translation:
        value = compiler.value(parsing.expression(sql))
        return Translation(_bare(truth(value)), always=value.never_false)

    return _in_table(columns, table, translated)


def where(sql: str, columns: Columns, *, table: str = "") -> Translation | NotTranslated:
    """The condition of a partial index."""
    return condition(sql, columns, table=table)


def generated(
    sql: str, columns: Columns, kind: sa.types.TypeEngine[Any], *, table: str = ""
) -> Translation | NotTranslated:
    """The expression of a generated column of a type."""

    def translated(compiler: Compiler) -> Translation:
        return Translation(assigned(compiler.value(parsing.expression(sql)), kind))

    return _in_table(columns, table, translated)


def index_part(
    part: IndexPart, columns: Columns, *, table: str = ""
) -> Translation | NotTranslated:
    """An element of an index, with its direction."""

    def translated(compiler: Compiler) -> Translation:
        if part.column is not None:
            column = columns.get(folded(part.column))
            if column is None:
                raise Untranslatable(f"uses {part.column}, which is no column in the target")
            value, is_column = of_column(column), True
        else:
            tree = parsing.expression(part.expression or "")
            value, is_column = compiler.value(tree), False
        found = comparisons.folded(value, part.collation)
        ignores_case = found != value.sql and part.collation == "NOCASE"
        element = found if is_column and found == value.sql else f"({_bare(found)})"
        return Translation(
            element + (" DESC" if part.descending else ""),
            note=_IGNORED_CASE if ignores_case else None,
        )

    return _in_table(columns, table, translated)


def default(sql: str, kind: sa.types.TypeEngine[Any]) -> Translation | NotTranslated:
    """The default of a column of a type."""
    try:
        return Translation(to_default(sql, kind))
    except Untranslatable as refused:
        return NotTranslated(str(refused))


def view(
    declared: View, tables: Mapping[str, TargetRelation], *, sql_name: str
) -> TranslatedView | NotTranslated:
    """A view.

    Args:
        tables: tables and views of the target, by their folded names in the source.
        sql_name: the quoted name of the view in the target, with the schema.
    """
    try:
        query = QueryCompiler(tables).select(parsing.view(declared.sql))
        names = declared.columns or tuple(name for name, _ in query.columns)
        if len(names) != len(query.columns):
            raise Untranslatable(f"has {len(names)} columns, not {len(query.columns)}")
        shown = ", ".join(map(quoted, names))
        relation = TargetRelation(sql_name, query.relation(names))
        if len(relation.columns) != len(names):
            raise Untranslatable("has two columns of one name")
    except Untranslatable as refused:
        return NotTranslated(str(refused))
    comparable = tuple(_is_comparable(value) for _, value in query.columns)
    return TranslatedView(f"CREATE VIEW {sql_name} ({shown}) AS {query.sql}", relation, comparable)


def _is_comparable(value: Value) -> bool:
    same = ("integer", "float", "numeric", "boolean", "text", "bytes", "null")
    return value.family in same and "now()" not in value.sql


def _in_table(
    columns: Columns, table: str, translated: Callable[[Compiler], Translation]
) -> Translation | NotTranslated:
    try:
        return translated(Compiler(Scope([Member(folded(table), "", columns)])))
    except Untranslatable as refused:
        return NotTranslated(str(refused))


def _bare(sql: str) -> str:
    """SQL without parentheses around the whole of it."""
    depth, quote = 0, ""
    for place, letter in enumerate(sql):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if not depth and place < len(sql) - 1:
                return sql
    return sql[1:-1] if sql.startswith("(") and sql.endswith(")") else sql
