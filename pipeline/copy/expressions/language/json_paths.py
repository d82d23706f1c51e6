"""JSON: SQLite's operators and functions on columns that hold JSON."""

import re

from sqlglot import exp

from pipeline.copy.expressions.language.values import Untranslatable, Value, of_text

_PATH = re.compile(r"\$((?:\.[A-Za-z_][A-Za-z_0-9]*|\.\"[^\"\\]+\"|\[\d+\])*)")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z_0-9]*)|\.\"([^\"\\]+)\"|\[(\d+)\]")


def valid(value: Value) -> Value:
    """``json_valid``."""
    match value.family:
        case "json":
            return Value(f"({value.sql} IS NOT NULL OR NULL)", "boolean", never_false=True)
        case "text":
            return Value(f"({value.sql} IS JSON)", "boolean")
    raise Untranslatable("calls json_valid with a value that is no text")


def extract(value: Value, path: str) -> Value:
    """``json_extract`` with one path."""
    return _at(value, _steps(path))


def operator(value: Value, path: exp.Expr | None) -> Value:
    """``->`` and ``->>``."""
    if not isinstance(path, exp.JSONPath):
        raise Untranslatable("takes a value out of JSON by a path that is not a literal")
    steps: list[str] = []
    for part in path.expressions:
        if isinstance(part, exp.JSONPathRoot):
            continue
        if not isinstance(part, exp.JSONPathKey | exp.JSONPathSubscript):
            raise Untranslatable("takes a value out of JSON by a path that PostgreSQL lacks")
        if not isinstance(part.this, str | int):
            raise Untranslatable("takes a value out of JSON by a path that PostgreSQL lacks")
        steps.append(str(part.this))
    return _at(value, steps)


def array_length(value: Value) -> Value:
    """``json_array_length``, which is 0 for a value that is no array."""
    array = _document(value)
    sql = (
        f"(CASE WHEN jsonb_typeof({array}) = 'array' THEN jsonb_array_length({array})"
        f" WHEN {array} IS NOT NULL THEN 0 END)"
    )
    return Value(sql, "integer", narrow=True)


def _steps(path: str) -> list[str]:
    found = _PATH.fullmatch(path)
    if not found:
        raise Untranslatable(f"takes a value out of JSON by the path {path}")
    return ["".join(groups) for groups in _STEP.findall(found[1])]


def _at(value: Value, steps: list[str]) -> Value:
    if value.family == "json_value" and value.literal is None:
        document = value.sql
    else:
        document = _document(value)
    if not steps:
        raise Untranslatable("takes the whole value out of JSON")
    elements = ", ".join(of_text(step).sql for step in steps)
    return Value(f"({document} #> ARRAY[{elements}])", "json_value")


def _document(value: Value) -> str:
    match value.family:
        case "json":
            return value.sql
        case "text":
            return f"({value.sql})::jsonb"
    raise Untranslatable("takes a value out of JSON that is no text")
