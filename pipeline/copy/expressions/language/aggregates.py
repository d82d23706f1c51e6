"""Aggregates and window functions of queries."""

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from pipeline.copy.expressions.language import comparisons
from pipeline.copy.expressions.language.values import (
    Family,
    Untranslatable,
    Value,
    number,
    of_text,
    text,
)

_RANKS = frozenset({"row_number", "rank", "dense_rank"})
_OF_ROWS = frozenset({"lag", "lead", "first_value", "last_value"})
_Translate = Callable[[Any], Value]
_Condition = Callable[[Any], str]


def aggregate(node: Any, value: _Translate, condition: _Condition) -> Value | None:
    """An aggregate, with FILTER and OVER; None if a node is none."""
    call, ending, windowed = node, "", False
    if isinstance(node, exp.Window):
        ending, call, windowed = _over(node, value), node.this, True
    if isinstance(call, exp.Filter):
        ending = f" FILTER (WHERE {condition(call.expression.this)}){ending}"
        call = call.this
    found = _core(call, value, windowed=windowed)
    if found is None:
        if windowed or isinstance(node, exp.Filter):
            raise Untranslatable("uses a window function that PostgreSQL lacks")
        return None
    core, wrap, family = found
    return Value(wrap.format(f"{core}{ending}"), family, narrow=family == "integer")


def _core(node: Any, value: _Translate, *, windowed: bool) -> tuple[str, str, Family] | None:
    """The call, a pattern for what surrounds it, and what it returns."""
    if isinstance(node, exp.GroupConcat):
        separator = node.args.get("separator")
        return _joined(node.this, separator and value(separator), value)
    if not isinstance(node, exp.Anonymous):
        return None
    name, arguments = str(node.this).lower(), node.expressions
    if windowed and name in _RANKS and not arguments:
        return f"{name}()", "{}", "integer"
    if windowed and name in _OF_ROWS and len(arguments) == 1:
        subject = value(arguments[0])
        return f"{name}({subject.sql})", "({})", subject.family
    if name == "count" and (not arguments or isinstance(arguments[0], exp.Star)):
        return "count(*)", "{}", "integer"
    if len(arguments) == 2 and name == "string_agg":
        return _joined(arguments[0], value(arguments[1]), value)
    if len(arguments) != 1 or name not in ("count", "sum", "total", "avg", "min", "max"):
        return None
    return _of_one(name, arguments[0], value)


def _of_one(name: str, node: Any, value: _Translate) -> tuple[str, str, Family]:
    distinct, subject = _distinct(node, value)
    if name == "count":
        return f"count({distinct}{subject.sql})", "{}", "integer"
    if name in ("min", "max"):
        family = subject.family
        if family in ("boolean", "words", "json", "json_value", "mixed", "uuid"):
            subject = number(subject)
            family = subject.family
        ordered = comparisons.in_order(subject, "<", None)
        return f"{name}({distinct}{ordered})", "{}", family
    subject = number(subject)
    if name == "avg":
        return f"avg({distinct}{subject.sql})", "({})::double precision", "float"
    if name == "total":
        return f"sum({distinct}{subject.sql})", "coalesce({}, 0)::double precision", "float"
    if subject.family == "integer":
        return f"sum({distinct}{subject.sql})", "({})::bigint", "integer"
    return f"sum({distinct}{subject.sql})", "{}", subject.family


def _joined(node: Any, separator: Value | None, value: _Translate) -> tuple[str, str, Family]:
    distinct, subject = _distinct(node, value)
    between = text(separator).sql if separator else of_text(",").sql
    return f"string_agg({distinct}{text(subject).sql}, {between})", "{}", "text"


def _distinct(node: Any, value: _Translate) -> tuple[str, Value]:
    if not isinstance(node, exp.Distinct):
        return "", value(node)
    if len(node.expressions) != 1:
        raise Untranslatable("aggregates different values of several columns")
    return "DISTINCT ", value(node.expressions[0])


def _over(node: exp.Window, value: _Translate) -> str:
    if node.args.get("alias") or node.args.get("first") is not None:
        raise Untranslatable("uses a named window")
    parts = []
    if node.args.get("partition_by"):
        terms = ", ".join(value(each).sql for each in node.args["partition_by"])
        parts.append(f"PARTITION BY {terms}")
    if node.args.get("order"):
        terms = ", ".join(_term(each, value) for each in node.args["order"].expressions)
        parts.append(f"ORDER BY {terms}")
    if node.args.get("spec"):
        raise Untranslatable("uses a window with a frame")
    return f" OVER ({' '.join(parts)})"


def _term(node: exp.Ordered, value: _Translate) -> str:
    found = value(node.this)
    direction = " DESC" if node.args.get("desc") else ""
    nulls = " NULLS FIRST" if node.args.get("nulls_first") else " NULLS LAST"
    return f"{comparisons.in_order(found, '<', found.collation)}{direction}{nulls}"
