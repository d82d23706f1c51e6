"""Queries of views. Names are resolved, and ``*`` becomes the columns of the source."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlglot import exp

from pipeline.copy.expressions.language import aggregates, comparisons
from pipeline.copy.expressions.language.compiler import Compiler
from pipeline.copy.expressions.language.parsing import unwrapped
from pipeline.copy.expressions.language.scopes import Member, Scope, TargetRelation
from pipeline.copy.expressions.language.values import (
    NUMBERS,
    TargetColumn,
    Untranslatable,
    Value,
    number,
    of_column,
    text,
    type_of,
)
from pipeline.core.quoting import quoted
from pipeline.declared.forms import MixedText
from pipeline.mapping.matching import folded

_SETS = {exp.Union: "UNION", exp.Except: "EXCEPT", exp.Intersect: "INTERSECT"}
_PARTS = frozenset({
    *("expressions", "from_", "joins", "where", "group", "having", "order", "limit", "offset"),
    *("with_", "distinct"),
})  # fmt: skip
"""Parts of a SELECT that are translated."""


@dataclass(frozen=True)
class Query:
    """A translated query.

    Attributes:
        columns: their names in the source, and what they hold.
    """

    sql: str
    columns: tuple[tuple[str, Value], ...]

    def relation(self, names: tuple[str, ...] = ()) -> dict[str, TargetColumn]:
        """The columns as those of a table, by folded name."""
        given = names or tuple(name for name, _ in self.columns)
        return {
            folded(name): TargetColumn(name, type_of(value), value.collation or "BINARY")
            for name, (_, value) in zip(given, self.columns, strict=True)
        }


class QueryCompiler(Compiler):
    """Translates queries, and the expressions in them."""

    def __init__(self, tables: Mapping[str, TargetRelation], outer: Scope | None = None) -> None:
        """Start with what the target has, by folded name."""
        super().__init__(Scope(outer=outer))
        self._tables = tables

    def select(self, node: Any) -> Query:
        """A SELECT, a VALUES, or several combined.

        Raises:
            Untranslatable: it uses what PostgreSQL or the target lacks.
        """
        node = _inner(node)
        prefix = self._common(node.args.get("with_"))
        if type(node) in _SETS:
            return self._combined(node, prefix)
        if isinstance(node, exp.Values):
            return self._listed(node)
        if not isinstance(node, exp.Select):
            raise Untranslatable("uses a query that cannot be read")
        strange = [name for name, part in node.args.items() if part and name not in _PARTS]
        if strange:
            raise Untranslatable(f"uses {strange[0].strip('_').upper()} in a query")
        return self._plain(node, prefix)

    def query(self, node: exp.Expr) -> tuple[str, tuple[Value, ...]]:
        """A query inside of this one, which may use its columns."""
        found = QueryCompiler(self._tables, self.scope).select(node)
        return f"({found.sql})", tuple(value for _, value in found.columns)

    def _common(self, node: Any) -> str:
        if node is None:
            return ""
        if node.args.get("recursive"):
            raise Untranslatable("is recursive")
        tables, written = dict(self._tables), []
        for each in node.expressions:
            found = QueryCompiler(tables).select(each.this)
            names = tuple(one.name for one in each.args["alias"].args.get("columns") or ())
            if names and len(names) != len(found.columns):
                raise Untranslatable("names more or fewer columns than a query has")
            columns = found.relation(names)
            shown = ", ".join(quoted(column.name) for column in columns.values())
            written.append(f"{quoted(each.alias)} ({shown}) AS ({found.sql})")
            tables[folded(each.alias)] = TargetRelation(quoted(each.alias), columns)
        self._tables = tables
        return f"WITH {', '.join(written)} "

    def _combined(self, node: Any, prefix: str) -> Query:
        left = QueryCompiler(self._tables, self.scope.outer).select(node.this)
        right = QueryCompiler(self._tables, self.scope.outer).select(node.expression)
        left, right = _fitted(left, right), _fitted(right, left)
        operator = _SETS[type(node)] + ("" if node.args.get("distinct") else " ALL")
        names = {folded(name): place for place, (name, _) in enumerate(left.columns, 1)}
        ending = ""
        if node.args.get("order"):
            terms = [self._term_of_set(each, names) for each in node.args["order"].expressions]
            ending = f" ORDER BY {', '.join(terms)}"
        ending += self._limits(node)
        first, second = (
            f"({query.sql})"
            if type(_inner(side)) in _SETS or _inner(side).args.get("limit")
            else query.sql
            for query, side in ((left, node.this), (right, node.expression))
        )
        columns = tuple(
            (name, other if value.family == "null" else value)
            for (name, value), (_, other) in zip(left.columns, right.columns, strict=False)
        )
        return Query(f"{prefix}{first} {operator} {second}{ending}", columns)

    def _term_of_set(self, node: exp.Ordered, names: Mapping[str, int]) -> str:
        term = unwrapped(node.this)
        place = names.get(folded(term.name)) if isinstance(term, exp.Column) else None
        if isinstance(term, exp.Literal) and not term.is_string:
            place = int(term.this)
        if place is None:
            raise Untranslatable("orders combined queries by an expression")
        return f"{place}{_direction(node)}"

    def _listed(self, node: exp.Values) -> Query:
        rows = [[self.value(each) for each in row.expressions] for row in node.expressions]
        written = ", ".join(f"({', '.join(value.sql for value in row)})" for row in rows)
        columns = tuple((f"column{n}", value) for n, value in enumerate(rows[0], 1))
        return Query(f"VALUES {written}", columns)

    def _plain(self, node: exp.Select, prefix: str) -> Query:
        source = self._from(node)
        for each in node.expressions:
            if isinstance(each, exp.Alias):
                self.scope.aliases.setdefault(folded(each.alias), each.this)
        columns = [found for each in node.expressions for found in self._output(each)]
        shown = ", ".join(
            f"{value.sql} AS {quoted(name[:60])}" if name else value.sql for name, value in columns
        )
        distinct = "DISTINCT " if node.args.get("distinct") else ""
        sql = f"{prefix}SELECT {distinct}{shown}{source}"
        if node.args.get("where"):
            sql += f" WHERE {self.condition(node.args['where'].this)}"
        if node.args.get("group"):
            sql += self._group(node.args["group"])
        if node.args.get("having"):
            sql += f" HAVING {self.condition(node.args['having'].this)}"
        if node.args.get("order"):
            terms = [
                self._term(each, bool(distinct), columns) for each in node.args["order"].expressions
            ]
            sql += f" ORDER BY {', '.join(terms)}"
        return Query(sql + self._limits(node), tuple(columns))

    def _output(self, node: exp.Expr) -> list[tuple[str, Value]]:
        star = node.this if isinstance(node, exp.Column) else node
        if isinstance(star, exp.Star):
            table = folded(node.table) if isinstance(node, exp.Column) else ""
            found = self.scope.every(table)
            if not found:
                raise Untranslatable("selects all columns of a table that is not there")
            return [(name, of_column(column, before)) for name, column, before in found]
        if isinstance(node, exp.Alias):
            return [(node.alias, self._shown(node.this))]
        name = node.name if isinstance(node, exp.Column) else node.sql(dialect="sqlite")
        return [(name, self._shown(node))]

    def _shown(self, node: exp.Expr) -> Value:
        value = self.value(node)
        if value.family == "text" and value.literal is not None:
            return replace(value, sql=f"{value.sql}::text", literal=None)
        if value.family == "json_value":
            return replace(value, sql=f"({value.sql} #>> '{{}}')", family="text")
        return replace(value, literal=None)

    def _group(self, node: exp.Group) -> str:
        if any(part for name, part in node.args.items() if name != "expressions"):
            raise Untranslatable("groups by more than expressions")
        terms = []
        for each in node.expressions:
            term = unwrapped(each)
            is_place = isinstance(term, exp.Literal) and not term.is_string
            terms.append(term.this if is_place else self.value(term).sql)
        return f" GROUP BY {', '.join(terms)}"

    def _term(
        self, node: exp.Ordered, distinct: bool, columns: list[tuple[str, Value]]
    ) -> str:  # fmt: skip
        term = unwrapped(node.this)
        if isinstance(term, exp.Literal) and not term.is_string:
            return f"{term.this}{_direction(node)}"
        value = self.value(self.scope.aliases.get(folded(term.name), term) if _bare(term) else term)
        if distinct:
            places = [n for n, (_, shown) in enumerate(columns, 1) if shown.sql == value.sql]
            return f"{places[0] if places else value.sql}{_direction(node)}"
        return f"{comparisons.in_order(value, '<', value.collation)}{_direction(node)}"

    def _limits(self, node: exp.Expr) -> str:
        written = ""
        for name, word in (("limit", "LIMIT"), ("offset", "OFFSET")):
            part = node.args.get(name)
            if part is not None:
                if not isinstance(part.expression, exp.Literal):
                    raise Untranslatable(f"uses {word} with more than a number")
                written += f" {word} {int(part.expression.this)}"
        return written

    def _from(self, node: exp.Select) -> str:
        if node.args.get("from_") is None:
            return ""
        sql = f" FROM {self._member(node.args['from_'].this)}"
        for join in node.args.get("joins") or ():
            sql += self._join(join)
        return sql

    def _join(self, node: exp.Join) -> str:
        words = f"{node.side} {node.kind}".split()
        if not set(words) <= {"LEFT", "RIGHT", "FULL", "OUTER", "INNER", "CROSS"}:
            raise Untranslatable("joins in a way that PostgreSQL lacks")
        before = list(self.scope.members)
        table = self._member(node.this)
        member = self.scope.members[-1]
        shared = [folded(each.name) for each in node.args.get("using") or ()]
        if node.method == "NATURAL":
            taken = {name for each in before for name in each.columns}
            shared = [name for name in member.columns if name in taken]
        if shared and {"RIGHT", "FULL"} & set(words):
            raise Untranslatable("merges columns of an outer join")
        conditions = [self._equal(name, before, member) for name in shared]
        self.scope.members[-1] = replace(member, merged=frozenset(shared))
        if node.args.get("on") is not None:
            conditions.append(self.condition(node.args["on"]))
        outer = [word for word in words if word in ("LEFT", "RIGHT", "FULL")]
        if not conditions and not outer:
            return f" CROSS JOIN {table}"
        on = " AND ".join(conditions) or "TRUE"
        return f" {' '.join([*outer, 'JOIN'])} {table} ON {on}"

    def _equal(self, name: str, before: list[Member], member: Member) -> str:
        left = next((each for each in before if name in each.columns), None)
        if left is None or name not in member.columns:
            raise Untranslatable(f"joins by {name}, which is no column of both tables")
        values = [of_column(each.columns[name], each.prefix) for each in (left, member)]
        return comparisons.compare("=", *values).sql

    def _member(self, node: Any) -> str:
        """A table or query of FROM; its columns can be used from here on."""
        if isinstance(node, exp.Subquery) and not isinstance(node.this, exp.Table):
            found = QueryCompiler(self._tables).select(node.this)
            alias = node.alias or f"query {len(self.scope.members) + 1}"
            columns = found.relation()
            shown = ", ".join(quoted(column.name) for column in columns.values())
            self._add(alias, columns)
            return f"({found.sql}) AS {quoted(alias)} ({shown})"
        if isinstance(node, exp.Subquery) and not node.alias:
            inner = self._member(node.this)
            joins = "".join(self._join(join) for join in node.this.args.get("joins") or ())
            return f"({inner}{joins})" if joins else inner
        if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
            raise Untranslatable("reads from what is no table")
        relation = self._tables.get(folded(node.name))
        if relation is None:
            raise Untranslatable(f"reads {node.name}, which the target does not have")
        alias = node.alias or node.name
        self._add(alias, relation.columns)
        return f"{relation.sql} AS {quoted(alias)}"

    def _add(self, alias: str, columns: Mapping[str, TargetColumn]) -> None:
        if any(each.name == folded(alias) for each in self.scope.members):
            raise Untranslatable(f"names two tables {alias}")
        self.scope.members.append(Member(folded(alias), f"{quoted(alias)}.", columns))

    def _value(self, node: exp.Expr) -> Value:
        found = aggregates.aggregate(node, self.value, self.condition)
        return found or super()._value(node)


def _fitted(query: Query, other: Query) -> Query:
    """A query whose columns fit those of another one with which it is combined.

    SQLite combines numbers and texts in one column; in PostgreSQL it is a column of texts.
    """
    pairs = list(zip(query.columns, other.columns, strict=False))
    found = [_fitting(value, beside) for (_, value), (_, beside) in pairs]
    if all(value is before for value, ((_, before), _) in zip(found, pairs, strict=True)):
        return query
    names = [f"c{n}" for n in range(len(found))]
    outputs = ", ".join(
        name if value is before else _fitting(replace(before, sql=name), beside).sql
        for name, value, ((_, before), (_, beside)) in zip(names, found, pairs, strict=True)
    )
    columns = tuple((name, value) for ((name, _), _), value in zip(pairs, found, strict=True))
    return Query(f"SELECT {outputs} FROM ({query.sql}) AS q ({', '.join(names)})", columns)


def _fitting(value: Value, beside: Value) -> Value:
    families = {value.family, beside.family}
    if value.family == "null" and beside.family not in ("null", "text", "mixed"):
        # Combined NULLs alone are texts.
        return replace(value, sql="NULL", family=beside.family, kind=beside.kind)
    if value.family == "boolean" and beside.family in NUMBERS:
        return number(value)
    if not families & {"text", "mixed"} or not families & {"integer", "boolean"}:
        return value
    return Value(text(value).sql, "mixed", kind=MixedText())


def _inner(node: Any) -> Any:
    while isinstance(node, exp.Subquery | exp.Paren) and not node.args.get("alias"):
        node = node.this
    return node


def _bare(node: exp.Expr) -> bool:
    return isinstance(node, exp.Column) and not node.table


def _direction(node: exp.Ordered) -> str:
    """SQLite's NULL comes before all values."""
    first = " NULLS FIRST" if node.args.get("nulls_first") else " NULLS LAST"
    return f" DESC{first}" if node.args.get("desc") else first
