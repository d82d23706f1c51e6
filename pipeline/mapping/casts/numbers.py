"""Casts of numbers: integers, floating-point numbers, and decimals of at most 38 digits."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.mapping.casts.cast import Cast, Converted, Rule

DIGITS = 38
"""The precision of Arrow's decimals."""
_EXACT = 2**53
"""A double represents every integer up to this one."""
_EXACT_SINGLE = 2**24
"""A real represents every integer up to this one."""
EXACT_DIGITS = 15
"""A decimal number with this many digits survives the conversion to a double and back."""
_LARGEST = "1.7976931348623157e308"


def finite_rule(c: str) -> Rule:
    """The rule that a number is not infinite."""
    violated = f"typeof({c}) = 'real' AND {c} NOT BETWEEN -{_LARGEST} AND {_LARGEST}"
    return Rule("range", "is infinite", violated)


def _exact_rule(c: str, most: int = _EXACT, type_: str = "double") -> Rule:
    """The reader silently converts integers in a column of reals to doubles."""
    violated = f"typeof({c}) = 'integer' AND {c} NOT BETWEEN -{most} AND {most}"
    message = f"is an integer that a {type_} cannot hold exactly"
    return Rule("range", message, violated, always=True)


DOUBLE = Cast(
    storage=("real", "integer"),
    sentinel="0.5",
    raw=pa.float64(),
    rules=lambda c: (_exact_rule(c),),
    convert=Converted,
)
_SINGLE_ENDS = 3.4028235677973366e38
"""The smallest number that a real would round to infinity."""


def _single_convert(values: pa.Array) -> Converted:
    found = values.cast(pa.float32(), safe=False)
    if pc.any(pc.and_(pc.is_inf(found), pc.is_finite(values))).as_py():
        raise pa.ArrowInvalid("a number is too large for a real")
    return Converted(found, pc.not_equal(found.cast(pa.float64()), values))


SINGLE = Cast(
    storage=("real", "integer"),
    sentinel="0.5",
    raw=pa.float64(),
    rules=lambda c: (
        _exact_rule(c, _EXACT_SINGLE, "real"),
        Rule(
            "range",
            "is too large for a real",
            f"typeof({c}) = 'real' AND abs({c} + 0.0) BETWEEN {_SINGLE_ENDS!r} AND {_LARGEST}",
            cast=True,
        ),
    ),
    convert=_single_convert,
)


_WIRES = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}


def integer(*, bits: int) -> Cast:
    """The cast of an integer type of this size."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

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
        convert=lambda values: Converted(values.cast(_WIRES[bits])),
    )


def numeric(*, precision: int, scale: int) -> Cast:
    """The cast of a numeric of at most 38 digits."""
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
        target_form=lambda values: read_decimals(values, wire),
    )


def read_decimals(values: pa.Array, wire: pa.DataType) -> pa.Array:
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
