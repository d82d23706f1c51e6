"""From SQLite's expression to PostgreSQL's, one kind of node after the other.

Every kind of node that is allowed is listed; all others are refused.
"""

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from pipeline.copy.expressions.language import comparisons, dates, functions, json_paths, patterns
from pipeline.copy.expressions.language.parsing import unwrapped
from pipeline.copy.expressions.language.scopes import Scope
from pipeline.copy.expressions.language.values import (
    Untranslatable,
    Value,
    collated,
    number,
    of_text,
    text,
    truth,
    unified,
)

_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM",
    exp.NullSafeNEQ: "IS DISTINCT FROM",
}
_BITS: dict[type[exp.Expr], str] = {exp.BitwiseAnd: "&", exp.BitwiseOr: "|"}
_CALCULATIONS: dict[type[exp.Expr], str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*"}
_DEEPEST = 400


class Compiler:
    """Translates expressions in one scope; queries inside are refused."""

    def __init__(self, scope: Scope) -> None:
        """Start with the names of a scope."""
        self.scope = scope
        self._depth = 0

    def value(self, node: Any) -> Value:
        """An expression.

        Raises:
            Untranslatable: PostgreSQL has no equal, or it is not known.
        """
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Untranslatable("is nested too deeply")
        try:
            return self._value(unwrapped(node))
        finally:
            self._depth -= 1

    def condition(self, node: Any) -> str:
        """An expression as a condition."""
        return truth(self.value(node))

    def query(self, node: exp.Expr) -> tuple[str, tuple[Value, ...]]:
        """A query inside an expression, and its columns."""
        raise Untranslatable(f"contains a query ({_name(node)})")

    def _value(self, node: exp.Expr) -> Value:
        kind = type(node)
        if kind in _COMPARISONS:
            return self._compare(_COMPARISONS[kind], node.this, node.expression)
        if kind in _CALCULATIONS or kind in _BITS or kind in (exp.Div, exp.Mod):
            return self._calculate(node)
        translate = _NODES.get(kind)
        if translate is None:
            raise Untranslatable(f"uses {_name(node)}, which has no equal in PostgreSQL")
        return translate(self, node)

    def _compare(self, operator: str, left: exp.Expr, right: exp.Expr) -> Value:
        if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple) and operator == "=":
            return self._tuples(left, right)
        return comparisons.compare(operator, self.value(left), self.value(right))

    def _tuples(self, left: exp.Tuple, right: exp.Tuple) -> Value:
        if len(left.expressions) != len(right.expressions):
            raise Untranslatable("compares rows of different length")
        pairs = zip(left.expressions, right.expressions, strict=True)
        return Value(f"({' AND '.join(self._compare('=', a, b).sql for a, b in pairs)})", "boolean")

    def _literal(self, node: exp.Literal) -> Value:
        if node.is_string:
            return of_text(node.this)
        family = "integer" if node.this.isdigit() else "float"
        if family == "integer":
            wide = int(node.this) > 2**63 - 1
            return Value(
                node.this, "float" if wide else "integer", literal=node.this, narrow=not wide
            )
        return Value(node.this, "float", literal=node.this)

    def _column(self, node: exp.Column) -> Value:
        found = self.scope.column(node)
        return found if isinstance(found, Value) else self.value(found)

    def _calculate(self, node: Any) -> Value:
        left, right = number(self.value(node.this)), number(self.value(node.expression))
        families = {left.family, right.family}
        _, family = unified((left, right))
        if isinstance(node, exp.Div | exp.Mod):
            return self._divide(node, left, right)
        if type(node) in _BITS:
            if not families <= {"integer", "null"}:
                raise Untranslatable("combines the bits of numbers that are no integers")
            return Value(f"({left.sql} {_BITS[type(node)]} {right.sql})", "integer", narrow=True)
        first = _wide(left) if family == "integer" else left.sql
        return Value(f"({first} {_CALCULATIONS[type(node)]} {right.sql})", family)

    def _divide(self, node: exp.Expr, left: Value, right: Value) -> Value:
        exact = {left.family, right.family} <= {"integer", "null"}
        if isinstance(node, exp.Mod) and not exact:
            raise Untranslatable("divides with a remainder numbers that are no integers")
        sign = "/" if isinstance(node, exp.Div) else "%"
        known = right.literal is not None and float(right.literal) != 0
        divisor = right.sql if known else f"nullif({right.sql}, 0)"
        if exact:
            return Value(f"({left.sql} {sign} {divisor})", "integer", narrow=left.narrow)
        return Value(f"(({left.sql})::double precision {sign} {divisor})", "float")

    def _neg(self, node: exp.Neg) -> Value:
        inner = number(self.value(node.this))
        literal = f"-{inner.literal}" if inner.literal is not None else None
        if literal and not inner.literal.startswith("-"):  # type: ignore[union-attr]
            return Value(f"({literal})", inner.family, literal=literal, narrow=inner.narrow)
        return Value(f"(- {inner.sql})", inner.family, narrow=inner.narrow)

    def _bits_inverted(self, node: exp.BitwiseNot) -> Value:
        inner = number(self.value(node.this))
        if inner.family != "integer":
            raise Untranslatable("combines the bits of numbers that are no integers")
        return Value(f"(~ {inner.sql})", "integer")

    def _all(self, node: exp.And) -> Value:
        left, right = self.value(node.this), self.value(node.expression)
        sql = f"({truth(left)} AND {truth(right)})"
        return Value(sql, "boolean", never_false=left.never_false and right.never_false)

    def _any(self, node: exp.Or) -> Value:
        left, right = self.value(node.this), self.value(node.expression)
        sql = f"({truth(left)} OR {truth(right)})"
        return Value(sql, "boolean", never_false=left.never_false or right.never_false)

    def _not(self, node: exp.Not) -> Value:
        inner = unwrapped(node.this)
        if isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Null):
            return self._is(inner, "IS NOT")
        return Value(f"(NOT {self.condition(inner)})", "boolean")

    def _is(self, node: exp.Is, operator: str = "IS") -> Value:
        value = self.value(node.this)
        if isinstance(node.expression, exp.Boolean):
            word = "TRUE" if node.expression.this else "FALSE"
            return Value(f"({truth(value)} {operator} {word})", "boolean")
        if not isinstance(node.expression, exp.Null):
            sign = {"IS": "IS NOT DISTINCT FROM", "IS NOT": "IS DISTINCT FROM"}[operator]
            return self._compare(sign, node.this, node.expression)
        sql = text(value).sql if value.family == "json_value" else value.sql
        return Value(f"({sql} {operator} NULL)", "boolean")

    def _between(self, node: exp.Between) -> Value:
        low = self._compare(">=", node.this, node.args["low"]).sql
        high = self._compare("<=", node.this, node.args["high"]).sql
        return Value(f"({low} AND {high})", "boolean")

    def _in(self, node: exp.In) -> Value:
        if node.args.get("query"):
            return self._in_query(node)
        if isinstance(node.this, exp.Tuple) or node.args.get("field") or node.args.get("unnest"):
            raise Untranslatable("uses IN with rows or a table")
        if not node.expressions:
            return Value("FALSE", "boolean")
        subject = self.value(node.this)
        pairs = [comparisons.aligned(subject, self.value(each)) for each in node.expressions]
        lefts = {comparisons.folded(left, subject.collation) for left, _ in pairs}
        rights = [comparisons.folded(right, subject.collation) for _, right in pairs]
        if len(lefts) == 1:
            return Value(f"({lefts.pop()} IN ({', '.join(rights)}))", "boolean")
        each = [comparisons.compare("=", subject, self.value(one)).sql for one in node.expressions]
        return Value(f"({' OR '.join(each)})", "boolean")

    def _in_query(self, node: exp.In) -> Value:
        sql, columns = self.query(node.args["query"])
        if len(columns) != 1:
            raise Untranslatable("uses IN with rows")
        subject = self.value(node.this)
        left, right = comparisons.aligned(subject, columns[0])
        if right is not columns[0] or subject.collation not in (None, "BINARY"):
            raise Untranslatable("uses IN with a query whose values have another type")
        return Value(f"({left.sql} IN {sql})", "boolean")

    def _exists(self, node: exp.Exists) -> Value:
        return Value(f"EXISTS {self.query(node.this)[0]}", "boolean")

    def _scalar(self, node: exp.Subquery) -> Value:
        sql, columns = self.query(node)
        if len(columns) != 1:
            raise Untranslatable("uses a query of several columns as a value")
        only = columns[0]
        return Value(sql, only.family, collation=only.collation, kind=only.kind, narrow=only.narrow)

    def _like(self, node: exp.Like, escape: str | None = None) -> Value:
        found = patterns.like(self.value(node.this), self.value(node.expression), escape)
        return Value(f"(NOT {found.sql})", "boolean") if node.args.get("negate") else found

    def _escape(self, node: exp.Escape) -> Value:
        if not isinstance(node.this, exp.Like) or not isinstance(node.expression, exp.Literal):
            raise Untranslatable("uses ESCAPE with a character that is not a literal")
        return self._like(node.this, node.expression.this)

    def _concatenate(self, node: exp.DPipe) -> Value:
        left, right = text(self.value(node.this)), text(self.value(node.expression))
        return Value(f"({left.sql} || {right.sql})", "text")

    def _collate(self, node: exp.Collate) -> Value:
        return collated(self.value(node.this), node.expression.name)

    def _case(self, node: exp.Case) -> Value:
        branches = []
        for each in node.args["ifs"]:
            condition = (
                self._compare("=", node.this, each.this).sql
                if node.this
                else self.condition(each.this)
            )
            branches.append((condition, self.value(each.args["true"])))
        default = node.args.get("default")
        return functions.case(branches, self.value(default) if default else None)

    def _if(self, node: exp.If) -> Value:
        otherwise = node.args.get("false")
        branch = (self.condition(node.this), self.value(node.args["true"]))
        return functions.case([branch], self.value(otherwise) if otherwise else None)

    def _cast(self, node: exp.Cast) -> Value:
        return functions.cast(self.value(node.this), node.to.sql(dialect="sqlite"))

    def _json(self, node: Any) -> Value:
        return json_paths.operator(self.value(node.this), node.expression)

    def _call(self, node: exp.Anonymous) -> Value:
        return functions.call(str(node.this), [self.value(each) for each in node.expressions])


def _wide(value: Value) -> str:
    """An integer that is calculated with in 64 bits, as SQLite does."""
    return f"({value.sql})::bigint" if value.narrow else value.sql


def _name(node: exp.Expr) -> str:
    known = {"RegexpLike": "REGEXP", "Match": "MATCH", "Window": "a window function"}
    return known.get(type(node).__name__, type(node).__name__)


_NODES: dict[type[exp.Expr], Callable[[Compiler, Any], Value]] = {
    exp.Literal: Compiler._literal,
    exp.Column: Compiler._column,
    exp.Null: lambda _compiler, _node: Value("NULL", "null"),
    exp.Boolean: lambda _, node: Value("TRUE" if node.this else "FALSE", "boolean"),
    exp.HexString: lambda _, node: Value(f"'\\x{node.this}'::bytea", "bytes"),
    exp.Neg: Compiler._neg,
    exp.BitwiseNot: Compiler._bits_inverted,
    exp.And: Compiler._all,
    exp.Or: Compiler._any,
    exp.Not: Compiler._not,
    exp.Is: Compiler._is,
    exp.Between: Compiler._between,
    exp.In: Compiler._in,
    exp.Exists: Compiler._exists,
    exp.Subquery: Compiler._scalar,
    exp.Like: Compiler._like,
    exp.Escape: Compiler._escape,
    exp.Glob: lambda self, node: patterns.glob(self.value(node.this), self.value(node.expression)),
    exp.DPipe: Compiler._concatenate,
    exp.Collate: Compiler._collate,
    exp.Case: Compiler._case,
    exp.If: Compiler._if,
    exp.Cast: Compiler._cast,
    exp.JSONExtract: Compiler._json,
    exp.JSONExtractScalar: Compiler._json,
    exp.Anonymous: Compiler._call,
    exp.CurrentTimestamp: lambda _compiler, _node: dates.current("datetime"),
    exp.CurrentDate: lambda _compiler, _node: dates.current("date"),
    exp.CurrentTime: lambda _compiler, _node: dates.current("time"),
}
