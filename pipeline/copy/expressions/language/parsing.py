"""SQLite's expressions and SELECTs as trees."""

import functools
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError
from sqlglot.parsers.sqlite import SQLiteParser

from pipeline.copy.expressions.language.values import Untranslatable

_LARGEST = 200_000
"""Letters of an expression that is read."""


class _Plain(SQLite):
    """SQLite whose functions keep their names; those of other databases mean nothing here."""

    class Parser(SQLiteParser):
        FUNCTIONS: ClassVar[dict[str, Callable[..., Any]]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Callable[..., Any]]] = {
            name: parser
            for name, parser in SQLiteParser.FUNCTION_PARSERS.items()
            if name in ("CAST", "GROUP_CONCAT")
        }


def expression(sql: str) -> exp.Expr:
    """The tree of an expression.

    Raises:
        Untranslatable: it cannot be read.
    """
    return _expression(sql).copy()


@functools.lru_cache(maxsize=256)
def _expression(sql: str) -> exp.Expr:
    # Many columns have the same default.
    # At the start of a statement, some names of functions would be commands.
    found = _parsed(f"SELECT (\n{sql}\n)")
    columns = found.expressions if isinstance(found, exp.Select) else []
    if len(columns) != 1 or len([value for value in found.args.values() if value]) != 1:
        raise Untranslatable("cannot be read as an expression")
    return unwrapped(columns[0])


def view(sql: str) -> exp.Expr:
    """The tree of the query of a view.

    Raises:
        Untranslatable: it cannot be read.
    """
    found = _parsed(sql)
    if not isinstance(found, exp.Create) or not isinstance(
        found.expression, exp.Query | exp.Values
    ):
        raise Untranslatable("cannot be read as a view")
    return found.expression


def unwrapped(node: exp.Expr) -> exp.Expr:
    """A tree without outer parentheses."""
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def _parsed(sql: str) -> exp.Expr:
    if len(sql) > _LARGEST:
        raise Untranslatable(f"is longer than {_LARGEST:,} letters")
    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    try:
        found = sqlglot.parse(sql, dialect=_Plain)
    except (SqlglotError, RecursionError, ValueError):
        raise Untranslatable("cannot be read by the translator") from None
    if len(found) != 1 or found[0] is None:
        raise Untranslatable("is not one statement")
    return found[0]
