"""The casts of all supported types: SQLite storage class, Arrow, PostgreSQL."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import PGDialect

from pipeline.core.errors import SettingsError
from pipeline.declared.forms import (
    DecimalText,
    EpochMoment,
    MixedBytes,
    MixedText,
    WordBoolean,
)
from pipeline.declared.kinds import is_single, is_wide
from pipeline.mapping.casts import dates, decimals, identifiers, numbers
from pipeline.mapping.casts.cast import Cast, Converted, ForeseenRule, Rule, no_nul_rule, shortest
from pipeline.mapping.casts.epochs import epoch
from pipeline.mapping.casts.forms import (
    MIXED_BYTES,
    md5_hashes,
    mixed_text,
    word_boolean,
)
from pipeline.mapping.casts.json_texts import unwrap
from pipeline.mapping.casts.moments import timestamptz
from pipeline.mapping.casts.numbers import finite_rule

# No driver's style of parameters, which would double every percent sign.
DIALECT = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]


class ByteSize(sa.types.UserDefinedType[int]):
    """The size of a BLOB, in place of the BLOB; no table is declared with this type."""


def cast_for(
    column: sa.Column[Any], *, naive_zone: str = "UTC", double_encoded: bool = False
) -> Cast:
    """The cast of a declared column.

    Raises:
        SettingsError: values of the declared type cannot be moved.
    """
    kind = column.type
    found = (
        _form(kind, naive_zone)
        or _number(kind)
        or _moment(kind, naive_zone)
        or _other(kind, double_encoded=double_encoded)
    )
    if found is None:
        raise SettingsError(
            f"{column} is declared as {kind!r}, a type whose values cannot be moved",
            remedy="Declare it as an integer, a boolean, a Text or String, a Double, a REAL,"
            " a Numeric, a DateTime, a Date, a Time without a time zone, a Uuid, an Enum with"
            " native_enum=False, a LargeBinary or a JSONB",
        )
    return found


def _form(kind: sa.types.TypeEngine[Any], naive_zone: str) -> Cast | None:
    match kind:
        case EpochMoment():
            return epoch(kind.unit, naive_zone)
        case WordBoolean():
            return word_boolean(kind.true, kind.false)
        case DecimalText() if not is_wide(kind):
            return decimals.decimal_text(kind.precision or 0, kind.scale or 0)
        case MixedText():
            return mixed_text(numeric=kind.numeric)
        case MixedBytes():
            return MIXED_BYTES
    return None


def _number(kind: sa.types.TypeEngine[Any]) -> Cast | None:
    match kind:
        case sa.SmallInteger():
            return numbers.integer(bits=16)
        case sa.BigInteger():
            return numbers.integer(bits=64)
        case sa.Integer():
            return numbers.integer(bits=32)
        case sa.Float():
            return numbers.SINGLE if is_single(kind) else numbers.DOUBLE
        case sa.Numeric() if is_wide(kind):
            return decimals.wide(kind.precision, kind.scale or 0)
        case sa.Numeric():
            return numbers.numeric(precision=kind.precision or 0, scale=kind.scale or 0)
    return None


def _moment(kind: sa.types.TypeEngine[Any], naive_zone: str) -> Cast | None:
    match kind:
        case sa.DateTime(timezone=True):
            return timestamptz(naive_zone)
        case sa.DateTime():
            return dates.TIMESTAMP
        case sa.Date():
            return dates.DATE
        case sa.Time(timezone=False):
            return dates.TIME
    return None


def _other(kind: sa.types.TypeEngine[Any], *, double_encoded: bool) -> Cast | None:
    match kind:
        case JSONB():
            return _DOUBLE_ENCODED_JSONB if double_encoded else _JSONB
        case sa.Boolean():
            return _BOOLEAN
        case sa.Uuid(native_uuid=True):
            return identifiers.UUID
        case sa.Enum():
            return None if kind.native_enum else identifiers.word(tuple(kind.enums))
        case sa.String():
            return _text(length=kind.length)
        case sa.LargeBinary():
            return _BYTEA
        case ByteSize():
            return _BYTE_SIZE
    return None


def type_name(kind: sa.types.TypeEngine[Any]) -> str:
    """A declared type in the notation of PostgreSQL's ``format_type``."""
    match kind:
        case sa.Float():
            return "real" if is_single(kind) else "double precision"
        case sa.Numeric() if kind.precision is None:
            return "numeric"
        case sa.Numeric():
            return f"numeric({kind.precision},{kind.scale or 0})"
    name = kind.compile(dialect=DIALECT).lower().replace(", ", ",")
    return name.replace("varchar", "character varying")


def largest_integer(kind: sa.types.TypeEngine[Any]) -> int:
    """The largest value of an integer type."""
    if isinstance(kind, sa.SmallInteger):
        return 2**15 - 1
    return 2**63 - 1 if isinstance(kind, sa.BigInteger) else 2**31 - 1


def _boolean_convert(values: pa.Array) -> Converted:
    if pc.any(pc.invert(pc.is_in(values, pa.array([0, 1, None], pa.int64())))).as_py():
        raise pa.ArrowInvalid("a truth value is neither 0 nor 1")
    return Converted(values.cast(pa.bool_()))


_BOOLEAN = Cast(
    storage=("integer",),
    sentinel="0",
    raw=pa.int64(),
    rules=lambda c: (Rule("range", "is neither 0 nor 1", f"{c} NOT IN (0, 1)", cast=True),),
    convert=_boolean_convert,
)


def _longer_than(values: pa.Array, length: int) -> bool:
    """Whether a text has more characters; characters are counted only if bytes do not decide."""
    if (pc.max(pc.binary_length(values)).as_py() or 0) <= length:
        return False
    return bool(pc.max(pc.utf8_length(values)).as_py() > length)


def _text(*, length: int | None) -> Cast:
    def rules(c: str) -> tuple[Rule, ...]:
        found = [no_nul_rule(c)]
        if length is not None:
            found.append(
                Rule(
                    "length",
                    f"is longer than {length} characters",
                    f"length({c}) > {length}",
                    cast=True,
                )
            )
        return tuple(found)

    def convert(values: pa.Array) -> Converted:
        values.validate(full=True)
        # PostgreSQL silently removes excess trailing blanks, so the length is checked here.
        if length is not None and _longer_than(values, length):
            raise pa.ArrowInvalid(f"a text is longer than {length} characters")
        return Converted(values)

    return Cast(
        storage=("text",),
        sentinel="''",
        raw=pa.string(),
        rules=rules,
        convert=convert,
        convert_accepts_any=True,
    )


def _json_read(c: str) -> str:
    return (
        f"CASE typeof({c}) WHEN 'text' THEN {c} WHEN 'real' THEN {shortest(c)}"
        f" WHEN 'integer' THEN CAST({c} AS TEXT) ELSE {c} END"
    )


def _json_convert(values: pa.Array) -> Converted:
    values.validate(full=True)
    return Converted(pa.ExtensionArray.from_storage(pa.json_(pa.string()), values))


_DEEP = 900
"""The number of brackets from which nesting may exceed the limit of SQLite."""
_JSONB = Cast(
    storage=("text", "integer", "real"),
    sentinel="''",
    raw=pa.string(),
    rules=lambda c: (
        no_nul_rule(c),
        finite_rule(c),
        Rule(
            "json",
            "is not valid JSON",
            # PostgreSQL checks JSON that is nested too deep for SQLite.
            f"typeof({c}) = 'text' AND NOT json_valid({c}) AND length({c})"
            f" - length(replace(replace({c}, '[', ''), '{{', '')) < {_DEEP}",
        ),
        ForeseenRule(
            "json",
            r"has the escape \u0000, which jsonb cannot store",
            # A backslash before the escape makes it a text.
            rf"typeof({c}) = 'text' AND instr(replace({c}, '\\', ''), '\u0000') > 0",
        ),
    ),
    read=_json_read,
    convert=_json_convert,
    target=lambda c: f"{c}::text",
    source_form=lambda values: values.storage,
)


def _double_encoded_convert(values: pa.Array) -> Converted:
    values.validate(full=True)
    inner, unwrapped = unwrap(values)
    return Converted(_json_convert(inner).values, unwrapped)


_DOUBLE_ENCODED_JSONB = replace(_JSONB, convert=_double_encoded_convert)


_BYTE_SIZE = Cast(
    storage=("integer",),
    sentinel="0",
    raw=pa.int64(),
    convert=Converted,
    target=lambda c: f"octet_length({c})::bigint",
)
_BYTEA = Cast(
    storage=("blob",),
    sentinel="x'00'",
    raw=pa.binary(),
    convert=Converted,
    target=lambda c: f"md5({c})",
    source_form=md5_hashes,
)
