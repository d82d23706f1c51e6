"""Expressions as the value of a column: defaults and generated columns."""

import json
import re
from typing import Any

import sqlalchemy as sa
from sqlglot import exp

from pipeline.copy.expressions.language import comparisons, dates, parsing
from pipeline.copy.expressions.language.compiler import Compiler
from pipeline.copy.expressions.language.scopes import Scope
from pipeline.copy.expressions.language.values import (
    NUMBERS,
    Family,
    TargetColumn,
    Untranslatable,
    Value,
    described,
    number,
    of_column,
    of_text,
    text,
)
from pipeline.declared.forms import EpochMoment, WordBoolean

_RANDOM_UUID = re.compile(
    r"\(*lower\(hex\(randomblob\(4\)\)\)\|\|'-'\|\|.*randomblob\(6\)\)\)+", re.IGNORECASE
)
"""The usual expression for a random UUID, without blanks."""
_RANDOM_HEX = re.compile(r"\(*(lower\()?hex\(randomblob\(16\)\)+", re.IGNORECASE)
_BITS: tuple[tuple[type[sa.types.TypeEngine[Any]], int], ...] = (
    (sa.SmallInteger, 15),
    (sa.BigInteger, 63),
    (sa.Integer, 31),
)


def to_default(sql: str, kind: sa.types.TypeEngine[Any]) -> str:
    """A default as SQL for a column of a type.

    Raises:
        Untranslatable: SQLite would store what the column cannot hold, or PostgreSQL has no equal.
    """
    random = _random(re.sub(r"\s", "", sql), kind)
    if random:
        return random
    tree = parsing.expression(sql)
    if isinstance(tree, exp.Column):
        # A name that is no keyword is a text.
        return assigned(of_text(tree.name), kind)
    return assigned(Compiler(Scope()).value(tree), kind)


def assigned(value: Value, kind: sa.types.TypeEngine[Any]) -> str:
    """A value as SQL of the type of a column.

    Raises:
        Untranslatable: the column cannot hold it.
    """
    column = of_column(TargetColumn("x", kind))
    if value.family == "null":
        return "NULL"
    found = _assigned(value, column, kind)
    if found is None:
        shown = f"the {'text' if value.family == 'text' else 'number'} {value.literal}"
        what = described(value) if value.literal is None else shown
        raise Untranslatable(f"gives {what} to {_article(column.family)}")
    return found


def _assigned(value: Value, column: Value, kind: sa.types.TypeEngine[Any]) -> str | None:
    family = column.family
    if family == "integer":
        return _as_integer(value, kind)
    if family == "boolean":
        return _as_boolean(value)
    if family == "words" and isinstance(kind, WordBoolean):
        words = {kind.true: "true", kind.false: "false", "1": "true", "0": "false"}
        return words.get(value.literal or "")
    if family in NUMBERS:
        literal = _number(value)
        if literal is not None or value.family == "text":
            return literal
        return f"({number(value).sql})::{'numeric' if family == 'numeric' else 'double precision'}"
    if family in ("text", "mixed"):
        return _as_text(value, kind)
    if family == "json":
        return _as_json(value)
    if family == "bytes":
        return value.sql if value.family == "bytes" else None
    if value.moment is not None and family != "uuid":
        return dates.now_as(column)
    if family == "epoch" and value.family in NUMBERS and isinstance(kind, EpochMoment):
        return dates.of_number(value, kind)
    return comparisons.aligned(column, value)[1].sql


def _number(value: Value) -> str | None:
    """A literal as a number."""
    if value.literal is None:
        return None
    found = re.fullmatch(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*", value.literal)
    return found[1] if found and value.family in NUMBERS | {"text"} else None


def _as_integer(value: Value, kind: sa.types.TypeEngine[Any]) -> str | None:
    bits = next((bits for base, bits in _BITS if isinstance(kind, base)), 63)
    if value.literal is not None:
        literal = _number(value)
        if literal is None or not float(literal).is_integer():
            return None
        whole = int(literal) if re.fullmatch(r"[+-]?\d+", literal) else int(float(literal))
        return str(whole) if -(2**bits) <= whole < 2**bits else None
    if value.moment is not None and value.family == "text" and "epoch" in value.sql:
        return f"({value.sql})::bigint"
    if value.family == "boolean":
        return f"({value.sql})::integer"
    return value.sql if value.family == "integer" else _taken(value, "bigint")


def _taken(value: Value, name: str) -> str | None:
    return f"({number(value).sql})::{name}" if value.family == "json_value" else None


def _as_boolean(value: Value) -> str | None:
    if value.literal is not None:
        number_ = _number(value)
        return {0.0: "false", 1.0: "true"}.get(float(number_)) if number_ else None
    return value.sql if value.family == "boolean" else None


def _as_text(value: Value, kind: sa.types.TypeEngine[Any]) -> str | None:
    if value.family == "float" and value.literal is not None:
        letters = of_text(repr(float(value.literal)))
    elif value.family == "bytes":
        return None
    else:
        letters = text(value)
    length = getattr(kind, "length", None)
    if length is not None and letters.literal is not None and len(letters.literal) > length:
        return None
    return letters.sql


def _as_json(value: Value) -> str | None:
    if value.literal is None:
        return value.sql if value.family in ("json", "json_value") else None
    try:
        json.loads(value.literal, parse_constant=_refuse)
    except ValueError:
        return None
    return f"{of_text(value.literal).sql}::jsonb"


def _refuse(name: str) -> None:
    raise ValueError(name)


def _random(bare: str, kind: sa.types.TypeEngine[Any]) -> str | None:
    """A random UUID, if SQLite's expression is one of the usual ones."""
    is_uuid, is_text = isinstance(kind, sa.Uuid), isinstance(kind, sa.String)
    if _RANDOM_UUID.fullmatch(bare) and (is_uuid or is_text):
        return "gen_random_uuid()" if is_uuid else "gen_random_uuid()::text"
    if is_uuid and _RANDOM_HEX.fullmatch(bare):
        return "gen_random_uuid()"
    if is_text and _RANDOM_HEX.fullmatch(bare) and "lower" in bare.lower():
        return "replace(gen_random_uuid()::text, '-', '')"
    return None


def _article(family: Family) -> str:
    names = {
        "words": "boolean",
        "bytes": "bytea",
        "json": "jsonb",
        "moment": "timestamp",
        "naive_moment": "timestamp",
        "epoch": "timestamp",
        "mixed": "text",
    }
    return f"a column of the type {names.get(family, family)}"
