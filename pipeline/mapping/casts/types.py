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
from pipeline.mapping.casts.cast import Cast, Converted, ForeseenRule, Rule, no_nul_rule, shortest
from pipeline.mapping.casts.epochs import epoch
from pipeline.mapping.casts.forms import (
    MIXED_BYTES,
    decimal_text,
    md5_hashes,
    mixed_text,
    word_boolean,
)
from pipeline.mapping.casts.json_texts import unwrap
from pipeline.mapping.casts.moments import timestamptz

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
    match kind:
        case EpochMoment():
            return epoch(kind.unit, naive_zone)
        case WordBoolean():
            return word_boolean(kind.true, kind.false)
        case DecimalText():
            return decimal_text(kind.precision or _DIGITS, kind.scale or 0)
        case MixedText():
            return mixed_text(numeric=kind.numeric)
        case MixedBytes():
            return MIXED_BYTES
        case JSONB():
            return _DOUBLE_ENCODED_JSONB if double_encoded else _JSONB
        case sa.Boolean():
            return _BOOLEAN
        case sa.BigInteger():
            return _integer(bits=64)
        case sa.Integer():
            return _integer(bits=32)
        case sa.Double():
            return _DOUBLE
        case sa.Numeric() if kind.precision is not None and kind.precision <= _DIGITS:
            return _numeric(precision=kind.precision, scale=kind.scale or 0)
        case sa.String():
            return _text(length=kind.length)
        case sa.DateTime(timezone=True):
            return timestamptz(naive_zone)
        case sa.LargeBinary():
            return _BYTEA
        case ByteSize():
            return _BYTE_SIZE
    raise SettingsError(
        f"{column} is declared as {kind!r}, a type whose values cannot be moved",
        remedy="Declare it as an integer, a boolean, a text, a Double, a Numeric of at most"
        f" {_DIGITS} digits, a DateTime with a time zone, a LargeBinary or a JSONB",
    )


def type_name(kind: sa.types.TypeEngine[Any]) -> str:
    """A declared type in the notation of PostgreSQL's ``format_type``."""
    name = kind.compile(dialect=DIALECT).lower().replace(", ", ",")
    return name.replace("varchar", "character varying").replace("float(53)", "double precision")


def largest_integer(kind: sa.types.TypeEngine[Any]) -> int:
    """The largest value of an integer type."""
    return 2**63 - 1 if isinstance(kind, sa.BigInteger) else 2**31 - 1


def _integer(*, bits: int) -> Cast:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    wire = pa.int32() if bits == 32 else pa.int64()

    def rules(c: str) -> tuple[Rule, ...]:
        if bits == 64:
            return ()
        violated = f"typeof({c}) = 'integer' AND {c} NOT BETWEEN {low} AND {high}"
        return (Rule("range", f"is not between {low} and {high}", violated, cast=True),)

    return Cast(
        storage=("integer",),
        sentinel="0",
        raw=pa.int64(),
        rules=rules,
        convert=lambda values: Converted(values.cast(wire)),
    )


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
_LARGEST = "1.7976931348623157e308"


def _finite_rule(c: str) -> Rule:
    violated = f"typeof({c}) = 'real' AND {c} NOT BETWEEN -{_LARGEST} AND {_LARGEST}"
    return Rule("range", "is infinite", violated)


def _exact_rule(c: str) -> Rule:
    """The reader silently converts integers in a column of reals to doubles."""
    violated = f"typeof({c}) = 'integer' AND {c} NOT BETWEEN -{_EXACT} AND {_EXACT}"
    return Rule("range", "is an integer that a double cannot hold exactly", violated, always=True)


_DOUBLE = Cast(
    storage=("real", "integer"),
    sentinel="0.5",
    raw=pa.float64(),
    rules=lambda c: (_exact_rule(c),),
    convert=Converted,
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
        _finite_rule(c),
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


def _numeric(*, precision: int, scale: int) -> Cast:
    wire = pa.decimal128(precision, scale)
    limit = 10 ** (precision - scale)

    def rounded(c: str) -> str:
        # SQLite's round() is sometimes off by one, and differs between versions.
        scaled = f"({c} * {10**scale}.0)"
        whole = f"CAST({scaled} AS INTEGER)"
        rest = f"({scaled} - {whole})"
        return f"(({whole} + ({rest} >= 0.5) - ({rest} <= -0.5)) / {10**scale}.0)"

    def rules(c: str) -> tuple[Rule, ...]:
        violated = f"typeof({c}) IN ('real', 'integer') AND NOT abs({rounded(c)}) < {limit}"
        message = f"has more than {precision - scale} digits before the point"
        exact = (_exact_rule(c),) if limit > _EXACT else ()
        return (Rule("range", message, violated), *exact)

    def convert(values: pa.Array) -> Converted:
        factor = float(10**scale)
        rounded = pc.divide(pc.round(pc.multiply(values, factor)), factor)
        exact = pc.equal(rounded, values)
        if precision <= EXACT_DIGITS and pc.all(exact, min_count=0).as_py():
            return Converted(pc.round(values, scale).cast(wire))
        return Converted(_round_decimal(values, scale).cast(wire), pc.invert(exact))

    return Cast(
        storage=("real", "integer"),
        sentinel="0.5",
        raw=pa.float64(),
        rules=rules,
        checked_as=rounded,
        convert=convert,
        target=lambda c: f"{c}::text",
        target_form=lambda values: _decimals(values, wire),
    )


def _decimals(values: pa.Array, wire: pa.DataType) -> pa.Array:
    """The target's numbers; as texts if one of them is none, which PostgreSQL accepts."""
    odd = pc.is_in(values, pa.array(["NaN", "Infinity", "-Infinity"]))
    if not pc.any(odd).as_py():
        return values.cast(wire)
    numbers = pc.if_else(odd, pa.scalar(None, pa.string()), values).cast(wire)
    return pc.if_else(odd, values, numbers.cast(pa.string()))


def _round_decimal(values: pa.Array, scale: int) -> pa.Array:
    """Round the shortest decimal text of a double, ties away from zero, like PostgreSQL's numeric.

    The double nearest to 2.675 is not equal to it; its shortest decimal text is the intended value.
    """
    seen = pc.if_else(pc.less(pc.abs(values), 1e-30), 0.0, values)
    exact = seen.cast(pa.string()).cast(pa.decimal256(76, 46))
    return pc.round(exact, scale, round_mode="half_towards_infinity")


_DIGITS = 38
"""The precision of Arrow's decimals."""
_EXACT = 2**53
"""A double represents every integer up to this one."""
EXACT_DIGITS = 15
"""A decimal number with this many digits survives the conversion to a double and back."""


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
