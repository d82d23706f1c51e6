"""SQLite's scalar functions. A function that is not listed is not translated."""

import re
from collections.abc import Callable
from dataclasses import replace

from pipeline.copy.expressions.language import comparisons, dates, json_paths, patterns
from pipeline.copy.expressions.language.values import (
    Family,
    Untranslatable,
    Value,
    described,
    number,
    text,
    truth,
    unified,
)

Arguments = list[Value]

_DATES = frozenset({"date", "time", "datetime", "julianday", "unixepoch", "strftime"})

_CLASSES: dict[Family, str] = {
    **{"integer": "integer", "boolean": "integer", "float": "real", "text": "text"},
    **{"json": "text", "moment": "text", "naive_moment": "text", "date": "text", "time": "text"},
    **{"uuid": "text", "words": "text", "bytes": "blob"},
}
"""The storage class of the source's values."""


def call(name: str, arguments: Arguments) -> Value:
    """A call of a function.

    Raises:
        Untranslatable: PostgreSQL has no equal.
    """
    name = name.lower()
    if name in _DATES:
        return dates.function(name, arguments)
    known = _FUNCTIONS.get(name)
    if known is None:
        raise Untranslatable(f"calls the function {name}, which has no equal in PostgreSQL")
    fewest, most, translated = known
    if not fewest <= len(arguments) <= most:
        raise Untranslatable(f"calls the function {name} with {len(arguments)} arguments")
    return translated(arguments)


def case(branches: list[tuple[str, Value]], otherwise: Value | None) -> Value:
    """CASE with conditions."""
    values = [value for _, value in branches] + ([otherwise] if otherwise else [])
    same, family = unified(values)
    written = "".join(
        f" WHEN {condition} THEN {value.sql}"
        for (condition, _), value in zip(branches, same, strict=False)
    )
    ending = f" ELSE {same[-1].sql}" if otherwise else ""
    return Value(f"(CASE{written}{ending} END)", family, narrow=True)


def cast(value: Value, declared: str) -> Value:
    """CAST to a type, by the affinity of its name."""
    name = declared.upper()
    if value.family == "null":
        return value
    if "INT" in name:
        return replace(_integer(value), stored=True)
    if any(each in name for each in ("CHAR", "CLOB", "TEXT")):
        return replace(text(value), stored=True, literal=None)
    if any(each in name for each in ("REAL", "FLOA", "DOUB")):
        return Value(f"{_real(value)}::double precision", "float", stored=True)
    if "BLOB" in name or not name:
        raise Untranslatable("casts to BLOB")
    return replace(number(value), stored=True)


def _integer(value: Value) -> Value:
    match value.family:
        case "text":
            digits = rf"substring({value.sql} FROM '^\s*([+-]?\d+)')::bigint"
            return Value(
                f"(CASE WHEN {value.sql} IS NOT NULL THEN coalesce({digits}, 0) END)", "integer"
            )
        case "float" | "numeric" | "json_value":
            return Value(f"trunc({number(value).sql})::bigint", "integer")
    return number(value)


def _real(value: Value) -> str:
    if value.family != "text":
        return number(value).sql
    digits = r"^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    found = f"substring({value.sql} FROM '{digits}')"
    return f"(CASE WHEN {value.sql} IS NOT NULL THEN coalesce({found}, '0') END)"


def _typeof(arguments: Arguments) -> Value:
    value = arguments[0]
    if value.family == "null":
        return Value("'null'", "text", literal="null")
    if value.family == "numeric":
        known = f"WHEN {value.sql} = trunc({value.sql}) THEN 'integer' ELSE 'real'"
    elif value.family in _CLASSES:
        known = f"ELSE '{_CLASSES[value.family]}'"
    else:
        raise Untranslatable(f"asks for the storage class of {described(value)}")
    return Value(f"(CASE WHEN {value.sql} IS NULL THEN 'null' {known} END)", "text")


def _length(arguments: Arguments) -> Value:
    value = arguments[0]
    if value.family == "bytes":
        return Value(f"octet_length({value.sql})", "integer", narrow=True)
    return Value(f"length({text(value).sql})", "integer", narrow=True)


def _substr(arguments: Arguments) -> Value:
    value, start = arguments[0], arguments[1]
    subject = value if value.family == "bytes" else text(value)
    first = _constant(start)
    others = [_count(each) for each in arguments[1:]]
    if first is not None and first < 0:
        if len(arguments) > 2 or subject.family == "bytes":
            raise Untranslatable("takes a part of a text that is counted from its end")
        return Value(f"right({subject.sql}, {-first})", "text")
    if len(others) == 2:
        length = _constant(arguments[2])
        if length is not None and length < 0:
            raise Untranslatable("takes a part of a text of negative length")
        if length is None:
            others[1] = f"greatest({others[1]}, 0)"
    if first == 0:
        raise Untranslatable("takes a part of a text from position 0")
    return Value(f"substr({subject.sql}, {', '.join(others)})", subject.family)


def _constant(value: Value) -> int | None:
    sql = value.sql.strip("()")
    return int(sql) if re.fullmatch(r"-?\d+", sql) else None


def _count(value: Value) -> str:
    if value.family != "integer":
        raise Untranslatable(f"counts letters by {described(value)}")
    return value.sql if value.narrow or value.literal else f"({value.sql})::integer"


def _texts(name: str) -> Callable[[Arguments], Value]:
    def translated(arguments: Arguments) -> Value:
        return Value(f"{name}({', '.join(text(each).sql for each in arguments)})", "text")

    return translated


def _instr(arguments: Arguments) -> Value:
    inside, searched = (text(each).sql for each in arguments)
    return Value(f"strpos({inside}, {searched})", "integer", narrow=True)


def _coalesce(arguments: Arguments) -> Value:
    values = [arguments[0], *(_like(arguments[0], each) for each in arguments[1:])]
    same, family = unified(values)
    return Value(f"coalesce({', '.join(each.sql for each in same)})", family, narrow=True)


def _like(first: Value, other: Value) -> Value:
    """A value in the type of another one, if it is a moment."""
    if dates.is_moment(first) and other.family not in (first.family, "null"):
        return comparisons.aligned(first, other)[1]
    return other


def _nullif(arguments: Arguments) -> Value:
    left, right = arguments
    same = comparisons.compare("=", left, right).sql
    return replace(
        left,
        sql=f"(CASE WHEN {same} THEN NULL ELSE {left.sql} END)",
        literal=None,
        stored=False,
        moment=None,
    )


def _iif(arguments: Arguments) -> Value:
    otherwise = arguments[2] if len(arguments) > 2 else None
    return case([(truth(arguments[0]), arguments[1])], otherwise)


def _abs(arguments: Arguments) -> Value:
    value = number(arguments[0])
    return Value(f"abs({value.sql})", value.family, narrow=value.narrow)


def _round(arguments: Arguments) -> Value:
    digits = _constant(arguments[1]) if len(arguments) > 1 else 0
    if digits is None or digits < 0:
        raise Untranslatable("rounds to a number of digits that is not a literal")
    value = number(arguments[0])
    return Value(f"round(({value.sql})::numeric, {digits})::double precision", "float")


def _extreme(name: str) -> Callable[[Arguments], Value]:
    def translated(arguments: Arguments) -> Value:
        values, family = unified(arguments)
        sqls = [f'{v.sql} COLLATE "C"' if family == "text" else v.sql for v in values]
        nulls = " OR ".join(f"{v.sql} IS NULL" for v in values if v.literal is None)
        found = f"{name}({', '.join(sqls)})"
        if nulls:
            found = f"(CASE WHEN {nulls} THEN NULL ELSE {found} END)"
        return Value(found, family, narrow=True)

    return translated


def _sign(arguments: Arguments) -> Value:
    return Value(f"sign({number(arguments[0]).sql})::integer", "integer", narrow=True)


def _json_extract(arguments: Arguments) -> Value:
    if arguments[1].literal is None:
        raise Untranslatable("takes a value out of JSON by a path that is not a literal")
    return json_paths.extract(arguments[0], arguments[1].literal)


def _char(arguments: Arguments) -> Value:
    code = _constant(arguments[0])
    if not code:
        raise Untranslatable("calls the function char with a code that is not a literal")
    return Value(f"chr({code})", "text")


def _hex(arguments: Arguments) -> Value:
    if arguments[0].literal != "random" or arguments[0].family != "bytes":
        raise Untranslatable("calls the function hex, which has no equal in PostgreSQL")
    return Value("upper(replace(gen_random_uuid()::text, '-', ''))", "text")


_RANDOM = "decode(replace(gen_random_uuid()::text, '-', ''), 'hex')"


def _randomblob(arguments: Arguments) -> Value:
    if _constant(arguments[0]) != 16:
        raise Untranslatable("calls the function randomblob, which has no equal in PostgreSQL")
    return Value(_RANDOM, "bytes", literal="random")


_FUNCTIONS: dict[str, tuple[int, int, Callable[[Arguments], Value]]] = {
    "abs": (1, 1, _abs),
    "char": (1, 1, _char),
    "coalesce": (2, 100, _coalesce),
    "glob": (2, 2, lambda given: patterns.glob(given[1], given[0])),
    "hex": (1, 1, _hex),
    "if": (2, 3, _iif),
    "ifnull": (2, 2, _coalesce),
    "iif": (2, 3, _iif),
    "instr": (2, 2, _instr),
    "json_array_length": (1, 1, lambda given: json_paths.array_length(given[0])),
    "json_extract": (2, 2, _json_extract),
    "json_valid": (1, 1, lambda given: json_paths.valid(given[0])),
    "length": (1, 1, _length),
    "like": (2, 2, lambda given: patterns.like(given[1], given[0], None)),
    "likelihood": (2, 2, lambda given: given[0]),
    "likely": (1, 1, lambda given: given[0]),
    "lower": (1, 1, _texts("lower")),
    "ltrim": (1, 2, _texts("ltrim")),
    "max": (2, 100, _extreme("greatest")),
    "min": (2, 100, _extreme("least")),
    "nullif": (2, 2, _nullif),
    "randomblob": (1, 1, _randomblob),
    "replace": (3, 3, _texts("replace")),
    "round": (1, 2, _round),
    "rtrim": (1, 2, _texts("rtrim")),
    "sign": (1, 1, _sign),
    "substr": (2, 3, _substr),
    "substring": (2, 3, _substr),
    "trim": (1, 2, _texts("btrim")),
    "typeof": (1, 1, _typeof),
    "unlikely": (1, 1, lambda given: given[0]),
    "upper": (1, 1, _texts("upper")),
}
"""By name: the fewest and the most arguments, and the translation."""
