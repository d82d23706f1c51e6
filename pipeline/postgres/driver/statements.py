"""Statements that need few round trips: parameters as literals, several questions in one query.

The Arrow driver needs two round trips for a statement with bound parameters, and one without.
Literals are for names, keys and figures; values of rows, which may be secret, are bound instead,
because servers write statements to their logs.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipeline.core.quoting import literal

Answer = TypeVar("Answer")
Rows = list[tuple[Any, ...]]
Ask = Callable[[str], Sequence[Sequence[Any]]]
"""Executes a query without parameters and returns its rows."""

_BACKSLASH = "\\"
_PLACES = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\d+)""")
"""Texts and names, which are left as they are, and places of parameters."""


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """A query for few rows, which can be combined with others.

    Attributes:
        sql: a query without side effects whose columns have different names.
        parameters: see ``inline``.
        read: turns rows of JSON values into the answer; dates and bytes are texts in these rows.
    """

    sql: str
    parameters: tuple[object, ...]
    read: Callable[[Rows], Answer] = field(compare=False)


def single(rows: Rows) -> Any:
    """The value of a query for one value."""
    return rows[0][0]


def combined(questions: Sequence[Question[Any]]) -> str:
    """One query that returns the rows of several questions as JSON."""
    outputs = ", ".join(
        f"(SELECT coalesce(json_agg(r.*), '[]') FROM ({inline(each.sql, each.parameters)}) AS r)"
        for each in questions
    )
    # An array has no limit, while a function takes at most a hundred arguments.
    return f"SELECT array_to_json(ARRAY[{outputs}]::json[])::text"


def separated(found: str) -> list[Rows]:
    """The rows of each question, from the result of a combined query."""
    return [[tuple(row.values()) for row in rows] for rows in json.loads(found)]


def inline(sql: str, parameters: Sequence[object]) -> str:
    """A statement with each ``$n`` replaced by the literal of its parameter.

    Args:
        sql: without comments, escape strings and dollar quotes.
        parameters: one for each number.

    Raises:
        TypeError: a parameter has a type without a literal.
    """
    if not parameters:
        return sql
    literals = [value_literal(value) for value in parameters]

    def replaced(match: re.Match[str]) -> str:
        number = match.group(1)
        return match.group() if number is None else literals[int(number) - 1]

    return _PLACES.sub(replaced, sql)


def value_literal(value: object) -> str:
    """A value as an SQL literal with its type; an empty list takes its type from the context.

    Raises:
        TypeError: the value has another type.
    """
    match value:
        case None:
            return "NULL"
        case bool():
            return "true" if value else "false"
        case int():
            return f"'{value}'::bigint"
        case float():
            return f"'{value!r}'::double precision"
        case str():
            return _text(value)
        case list() | tuple():
            return _array(value)
    raise TypeError(f"{type(value).__name__} has no literal")


def _text(value: str) -> str:
    if "\0" in value:
        # A statement ends at this character; the server refuses it in this form.
        return (
            f"pg_catalog.convert_from(pg_catalog.decode('{value.encode().hex()}', 'hex'), 'UTF8')"
        )
    return f"{_literal(value)}::text"


def _literal(text: str) -> str:
    # This form does not depend on standard_conforming_strings, which a trigger may switch off.
    return (
        f"E{literal(text.replace(_BACKSLASH, 2 * _BACKSLASH))}" if "\\" in text else literal(text)
    )


def _array(values: Sequence[object]) -> str:
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        kind = "::bigint[]" if values else ""
        return f"'{{{','.join(map(str, values))}}}'{kind}"
    if any(isinstance(value, str) and "\0" in value for value in values):
        return f"ARRAY[{', '.join(map(value_literal, values))}]::text[]"
    elements = ",".join(_element(value) for value in values)
    return f"{_literal(f'{{{elements}}}')}::text[]"


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} has no literal in a list of texts")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
