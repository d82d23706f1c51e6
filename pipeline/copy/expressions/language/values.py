"""Values of translated expressions: their SQL, and what SQLite would store for them.

SQLite decides by the value how it compares and calculates; PostgreSQL decides by the type. A
``Value`` therefore carries what is known of the stored values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.core.quoting import quoted
from pipeline.declared.forms import DecimalText, EpochMoment, MixedBytes, MixedText, WordBoolean

Family = Literal[
    "integer", "float", "numeric", "boolean", "text", "bytes", "json", "json_value", "moment",
    "naive_moment", "date", "time", "uuid", "words", "epoch", "mixed", "null",
]  # fmt: skip
"""``json_value`` is a value taken out of JSON; ``words`` and ``epoch`` are forms of the source."""

NUMBERS = frozenset({"integer", "float", "numeric"})
MOMENTS = frozenset({"moment", "naive_moment", "date"})
PER_SECOND = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000}


class Untranslatable(Exception):
    """An expression has no equal in PostgreSQL; the text is the reason, without a subject."""


@dataclass(frozen=True)
class TargetColumn:
    """A column of the target.

    Attributes:
        name: its name there.
        kind: its declared type, with the form of the source's values.
        collation: of the source's column, in upper case.
    """

    name: str
    kind: sa.types.TypeEngine[Any]
    collation: str = "BINARY"


@dataclass(frozen=True)
class Value:
    """A translated expression.

    Attributes:
        sql: can be an operand as it is.
        literal: the text or the number, as written, of a literal.
        stored: a column or a CAST, which SQLite converts the other side of a comparison to.
        collation: None if the expression has none.
        explicit: the collation is given by COLLATE.
        narrow: calculations may exceed its type, but not SQLite's.
        moment: the same value as a timestamptz, if it is the current time.
        never_false: a condition that the type of the column guarantees.
    """

    sql: str
    family: Family
    literal: str | None = None
    stored: bool = False
    collation: str | None = None
    explicit: bool = False
    narrow: bool = False
    moment: str | None = None
    never_false: bool = False
    kind: sa.types.TypeEngine[Any] | None = None


def of_column(column: TargetColumn, prefix: str = "") -> Value:
    """The value of a column."""
    sql, family = f"{prefix}{quoted(column.name)}", family_of(column.kind)
    if isinstance(column.kind, sa.Enum):
        sql = f"({sql})::text"
    narrow = family == "integer" and not isinstance(column.kind, sa.BigInteger)
    return Value(
        sql, family, stored=True, collation=column.collation, narrow=narrow, kind=column.kind
    )


def family_of(kind: sa.types.TypeEngine[Any]) -> Family:
    """What a column of a type stores."""
    match kind:
        case MixedText() | MixedBytes():
            return "mixed"
        case WordBoolean():
            return "words"
        case EpochMoment():
            return "epoch"
        case sa.Boolean():
            return "boolean"
        case sa.Integer():
            return "integer"
        case sa.Float():
            return "float"
        case DecimalText() | sa.Numeric():
            return "numeric"
        case JSONB():
            return "json"
        case sa.DateTime():
            return "moment" if kind.timezone else "naive_moment"
        case sa.Date():
            return "date"
        case sa.Time():
            return "time"
        case sa.Uuid():
            return "uuid"
        case sa.LargeBinary():
            return "bytes"
        case sa.String():
            return "text"
    raise Untranslatable(f"uses a column of the type {kind!r}")


_TYPES: dict[Family, sa.types.TypeEngine[Any]] = {
    "integer": sa.BigInteger(),
    "float": sa.Double(),
    "numeric": sa.Numeric(),
    "boolean": sa.Boolean(),
    "bytes": sa.LargeBinary(),
    "json": JSONB(),
    "moment": sa.DateTime(timezone=True),
    "naive_moment": sa.DateTime(),
    "date": sa.Date(),
    "time": sa.Time(),
    "uuid": sa.Uuid(),
}


def type_of(value: Value) -> sa.types.TypeEngine[Any]:
    """The type of a column that has the values of an expression."""
    return value.kind or _TYPES.get(value.family, sa.Text())


def described(value: Value) -> str:
    """What a value is, in a sentence."""
    words = {
        "words": "a boolean that the source writes as words",
        "mixed": "a column with values of several storage classes",
        "json_value": "a JSON value",
        "moment": "a timestamp",
        "naive_moment": "a timestamp",
        "epoch": "a timestamp that the source writes as a number",
        "uuid": "a UUID",
        "integer": "an integer",
        "bytes": "a BLOB",
    }
    return words.get(value.family, f"a {value.family}")


def truth(value: Value) -> str:
    """SQL for a value as a condition."""
    match value.family:
        case "boolean" | "words":
            return value.sql
        case "null":
            return "NULL::boolean"
        case "integer" | "float" | "numeric":
            if value.literal is not None:
                return "TRUE" if float(value.literal) else "FALSE"
            return f"({value.sql} <> 0)"
        case "json_value":
            return f"({number(value).sql} <> 0)"
    raise Untranslatable(f"uses {described(value)} as a condition")


def number(value: Value) -> Value:
    """A value as a number, for calculations."""
    match value.family:
        case "boolean":
            return Value(f"({value.sql})::integer", "integer", narrow=True)
        case "json_value":
            return Value(
                f"(CASE jsonb_typeof({value.sql}) WHEN 'number' THEN ({value.sql} #>> '{{}}')"
                f"::numeric WHEN 'boolean' THEN ({value.sql})::boolean::integer END)",
                "numeric",
            )
        case "integer" | "float" | "numeric" | "null":
            return value
    raise Untranslatable(f"calculates with {described(value)}")


def text(value: Value) -> Value:
    """A value as SQLite's text of it."""
    match value.family:
        case "text" | "null":
            return value
        case "integer":
            if value.literal is not None:
                return of_text(value.literal)
            return Value(f"({value.sql})::text", "text")
        case "boolean":
            return Value(f"({value.sql})::integer::text", "text")
        case "json_value":
            return Value(f"({value.sql} #>> '{{}}')", "text")
        case "mixed" if isinstance(value.kind, MixedText):
            return Value(value.sql, "text")
        case "date":
            return Value(f"to_char(({value.sql})::timestamp, 'YYYY-MM-DD')", "text")
    raise Untranslatable(f"uses {described(value)} as a text")


def of_text(letters: str) -> Value:
    """A text literal."""
    if "\0" in letters:
        raise Untranslatable("contains the character NUL, which PostgreSQL cannot store")
    return Value(text_literal(letters), "text", literal=letters)


def text_literal(letters: str) -> str:
    """A text as a literal of PostgreSQL, whatever its settings."""
    doubled = letters.replace("'", "''")
    backslash = "\\"
    if backslash in doubled:
        return f"E'{doubled.replace(backslash, 2 * backslash)}'"
    return f"'{doubled}'"


def unified(values: Sequence[Value]) -> tuple[tuple[Value, ...], Family]:
    """Values of one expression, such as the branches of CASE, as one family."""
    families = {each.family for each in values} - {"null"}
    if not families:
        return tuple(values), "null"
    if len(families) == 1:
        return tuple(values), next(iter(families))
    if families <= NUMBERS | {"boolean"}:
        order: tuple[Family, ...] = ("float", "numeric", "integer")
        return tuple(map(number, values)), next(each for each in order if each in families)
    if families <= {"text", "json_value"}:
        return tuple(map(text, values)), "text"
    raise Untranslatable("mixes " + " and ".join(sorted(described(each) for each in values)))


def collated(value: Value, collation: str) -> Value:
    """A value with an explicit collation."""
    return replace(value, collation=collation.upper(), explicit=True)
