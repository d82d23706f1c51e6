"""How a value travels: SQLite storage class, Arrow, PostgreSQL.

One ``Cast`` per PostgreSQL type says which storage classes it accepts, which further rules a
value must meet (as SQL that SQLite can run), how it is read, how whole columns of it become
Arrow, and in which form both sides are compared. A cast is total on values that meet its rules;
it raises ``pa.ArrowInvalid`` on others. What it changes in a way that cannot be undone it marks.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import PGDialect

from pipeline.mapping.json_texts import unwrap

# No driver's style of parameters, which would double every percent sign.
DIALECT = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]
UTC_MICROSECONDS = pa.timestamp("us", "UTC")
_NAIVE_MICROSECONDS = pa.timestamp("us")


@dataclass(frozen=True)
class Rule:
    """What a value must meet: ``violated`` is SQL that is true where it does not.

    An ``always`` rule is one whose breach neither the reader, nor a cast, nor PostgreSQL would
    notice, so every row is held against it; the others are looked up only when a batch fails.
    The breach of a rule that is ``cast`` makes the cast fail.
    """

    code: str
    message: str
    violated: str
    always: bool = False
    cast: bool = False


@dataclass(frozen=True)
class Converted:
    """A column on its way: the values, and where they lost something (None: nowhere)."""

    values: pa.Array
    lossy: pa.Array | None = None


def _as_is(values: pa.Array) -> pa.Array:
    return values


def _same(expression: str) -> str:
    return expression


@dataclass(frozen=True, kw_only=True)
class Cast:
    """The way of one PostgreSQL type.

    Attributes:
        storage: SQLite storage classes that are accepted beside ``null``.
        sentinel: SQL literal that fixes the reader's Arrow type.
        raw: the Arrow type that the reader then delivers.
        rules: column expression -> rules beyond the storage class.
        checked_as: column expression -> the SQLite value that CHECK constraints speak of.
        read: column expression -> what SQLite is asked for.
        convert: raw column -> column as COPY takes it.
        convert_accepts_any: whether ``convert`` takes any text for good.
        target: column expression -> what PostgreSQL is asked for when it is read back.
        source_form: converted column -> the form in which both sides are compared.
        target_form: column as read back -> the form in which both sides are compared.
    """

    storage: tuple[str, ...]
    sentinel: str
    raw: pa.DataType
    rules: Callable[[str], tuple[Rule, ...]] = lambda _: ()
    checked_as: Callable[[str], str] = _same
    read: Callable[[str], str] = _same
    convert: Callable[[pa.Array], Converted]
    convert_accepts_any: bool = False
    target: Callable[[str], str] = _same
    source_form: Callable[[pa.Array], pa.Array] = _as_is
    target_form: Callable[[pa.Array], pa.Array] = _as_is

    def storage_rule(self, expression: str, declared: str) -> Rule:
        """The rule that a value is null or of an accepted storage class.

        The reader notices what does not fit its Arrow type, with two exceptions: it writes
        numbers as text, where the source's declared type has not done so already, and takes
        anything for bytes.
        """
        unnoticed = self.raw == pa.binary() or (
            self.raw == pa.string() and "integer" not in self.storage and self.convert_accepts_any
        )
        always = unnoticed and not (self.raw == pa.string() and affinity(declared) == "TEXT")
        violated = " AND ".join(f"typeof({expression}) <> '{s}'" for s in (*self.storage, "null"))
        return Rule("type", f"is not {' or '.join(self.storage)}", violated, always)

    def guarded_read(self, expression: str) -> str:
        """Like ``read``, but NULL where the storage class is not accepted."""
        accepted = ", ".join(f"'{s}'" for s in self.storage)
        return f"CASE WHEN typeof({expression}) IN ({accepted}) THEN {self.read(expression)} END"


class ByteSize(sa.types.UserDefinedType[int]):
    """Stands for a BLOB of which only the size is read; no table is declared with it."""


def cast_of(
    column: sa.Column[Any], *, naive_zone: str = "UTC", double_encoded: bool = False
) -> Cast:
    """The cast of a declared column.

    Args:
        column: it and its type.
        naive_zone: the zone of moments that name none.
        double_encoded: whether JSON within strings of JSON is unwrapped.

    Raises:
        TypeError: the declared type has no cast; the message names the column.
    """
    kind = column.type
    match kind:
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
            return _timestamptz(naive_zone)
        case sa.LargeBinary():
            return _BYTEA
        case ByteSize():
            return _BYTE_SIZE
    raise TypeError(f"{column} is declared as {kind!r}, which has no cast")


def type_name(kind: sa.types.TypeEngine[Any]) -> str:
    """A declared type in the words of PostgreSQL's ``format_type``."""
    name = kind.compile(dialect=DIALECT).lower().replace(", ", ",")
    return name.replace("varchar", "character varying").replace("float(53)", "double precision")


def affinity(declared: str) -> str:
    """What SQLite makes of a declared type (section 3.1 of its documentation of datatypes)."""
    name = declared.upper()
    if "INT" in name:
        return "INTEGER"
    if any(word in name for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if not name or "BLOB" in name:
        return "BLOB"
    if any(word in name for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def carried_type(declared: str) -> sa.types.TypeEngine[Any]:
    """The type of a column that only the source declares.

    First come the names that applications use for moments, truth values and JSON, then SQLite's
    own reading of the name.
    """
    name = declared.upper()
    if name.startswith(("DATETIME", "TIMESTAMP")):
        return sa.DateTime(timezone=True)
    if name.startswith("JSON"):
        return JSONB()
    if name.startswith("BOOL"):
        return sa.Boolean()
    if name.startswith("DATE") or not name:
        return sa.Text()
    by_affinity: dict[str, sa.types.TypeEngine[Any]] = {
        "INTEGER": sa.BigInteger(),
        "TEXT": sa.Text(),
        "BLOB": sa.LargeBinary(),
        "REAL": sa.Double(),
        "NUMERIC": sa.Double(),
    }
    return by_affinity[affinity(declared)]


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
    """The reader turns integers among reals into doubles, without a word."""
    violated = f"typeof({c}) = 'integer' AND {c} NOT BETWEEN -{_EXACT} AND {_EXACT}"
    return Rule("range", "is an integer that a double cannot hold exactly", violated, always=True)


_DOUBLE = Cast(
    storage=("real", "integer"),
    sentinel="0.5",
    raw=pa.float64(),
    rules=lambda c: (_exact_rule(c),),
    convert=Converted,
)


def _no_nul(c: str) -> Rule:
    return Rule("nul", "holds a NUL character", f"instr({c}, char(0)) > 0")


def _longer_than(values: pa.Array, length: int) -> bool:
    """Whether a text has more characters; they are counted only where bytes do not settle it."""
    if (pc.max(pc.binary_length(values)).as_py() or 0) <= length:
        return False
    return bool(pc.max(pc.utf8_length(values)).as_py() > length)


def _text(*, length: int | None) -> Cast:
    def rules(c: str) -> tuple[Rule, ...]:
        found = [_no_nul(c)]
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
        # PostgreSQL cuts excess blanks off without a word, so length is judged here.
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
    shortest = f"printf('%!.15g', {c})"
    real = (
        f"CASE WHEN CAST({shortest} AS REAL) = {c} THEN {shortest} ELSE printf('%!.17g', {c}) END"
    )
    return (
        f"CASE typeof({c}) WHEN 'text' THEN {c} WHEN 'real' THEN {real}"
        f" WHEN 'integer' THEN CAST({c} AS TEXT) ELSE {c} END"
    )


def _json_convert(values: pa.Array) -> Converted:
    values.validate(full=True)
    return Converted(pa.ExtensionArray.from_storage(pa.json_(pa.string()), values))


_DEEP = 900
"""Brackets that a JSON text needs to be nested deeper than every SQLite can judge."""

_JSONB = Cast(
    storage=("text", "integer", "real"),
    sentinel="''",
    raw=pa.string(),
    rules=lambda c: (
        _no_nul(c),
        _finite_rule(c),
        Rule(
            "json",
            "is not valid JSON",
            # What is nested too deep for SQLite is left to PostgreSQL to judge.
            f"typeof({c}) = 'text' AND NOT json_valid({c}) AND length({c})"
            f" - length(replace(replace({c}, '[', ''), '{{', '')) < {_DEEP}",
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
        # SQLite's own round() is off by one at times, and not alike in all its versions.
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
        target_form=lambda values: values.cast(wire),
    )


def _round_decimal(values: pa.Array, scale: int) -> pa.Array:
    """Round what a person reads, ties away from zero, as PostgreSQL's numeric does.

    A double is nearest to 2.675 without being it; its shortest decimal text is what was meant.
    """
    seen = pc.if_else(pc.less(pc.abs(values), 1e-30), 0.0, values)
    exact = seen.cast(pa.string()).cast(pa.decimal256(76, 46))
    return pc.round(exact, scale, round_mode="half_towards_infinity")


_FAR = pa.scalar(datetime(2037, 1, 1), _NAIVE_MICROSECONDS)
"""From here on Arrow knows a zone's standard time only."""

_YEAR_10000 = 253_402_300_800_000_000
_DIGITS = 38
"""What Arrow's decimals hold."""

_EXACT = 2**53
"""Up to here a double holds every integer."""

EXACT_DIGITS = 15
"""A decimal number of so many digits goes through a double and comes back the same."""

_HOUR_ONLY = len("2025-08-06 03")
_YEAR_ONE = -62_135_596_800_000_000
"""0001-01-01 in microseconds before 1970: the first moment that both databases can write."""

_MOMENT = (
    r"^(?P<moment>\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)?)"
    r"(?P<more>\d*)(?: *(?P<zone>Z|[+-](?:0\d|1[0-4]):[0-5]\d))?$"
)


def _moment_rules(c: str) -> tuple[Rule, ...]:
    accepted = " AND ".join(
        (
            f"{c} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*'",
            f"{c} NOT GLOB '*[^-0-9T:.+Z ]*'",
            f"{c} GLOB '*[0-9Z]'",
            f"(length({c}) = 10 OR substr({c}, 11, 2) GLOB '[ T][0-9]')",
            f"substr({c}, 12, 2) < '24'",
            f"substr({c}, 1, 4) > '0000'",
            f"(substr({c}, 9, 2) < '29' OR date(julianday(substr({c}, 1, 10)))"
            f" = substr({c}, 1, 10))",
            # A fraction near the end of the year 9999 is too much for SQLite, not for PostgreSQL.
            f"julianday(CASE WHEN instr({c}, '.') THEN substr({c}, 1, 19) || CASE WHEN"
            f" {c} GLOB '*[-+][0-9][0-9]:[0-9][0-9]' THEN substr({c}, -6) ELSE '' END"
            f" ELSE {c} END) IS NOT NULL",
            f"(instr({c}, '.') = 0 OR substr({c}, 20, 2) GLOB '.[0-9]')",
        )
    )
    return (
        _no_nul(c),
        Rule(
            "date",
            "is not a date",
            f"typeof({c}) = 'text' AND ({accepted}) IS NOT TRUE",
            cast=True,
        ),
    )


@functools.cache
def knows_zone(name: str) -> bool:
    """Whether moments of a time zone can be placed."""
    if name not in available_timezones():
        return False
    try:
        _instants(pa.array([datetime(2025, 1, 15, 12), datetime(2040, 1, 15, 12)]), name)
    except pa.ArrowInvalid:
        return False
    return True


def _instants(naive: pa.Array, zone: str) -> pa.Array:
    """Moments of a zone; an hour that is missing or doubled there raises."""
    if zone == "UTC":
        return naive.cast(UTC_MICROSECONDS)
    far = pc.fill_null(pc.greater_equal(naive, _FAR), False)
    near = pc.if_else(far, pa.scalar(None, naive.type), naive)
    found = pc.assume_timezone(near, zone).cast(UTC_MICROSECONDS)
    if not pc.any(far).as_py():
        return found
    beyond = pc.if_else(far, naive, pa.scalar(None, naive.type)).to_pylist()
    placed = pa.array([_placed(moment, ZoneInfo(zone)) for moment in beyond], UTC_MICROSECONDS)
    return pc.coalesce(found, placed)


def _placed(moment: datetime | None, zone: ZoneInfo) -> datetime | None:
    if moment is None:
        return None
    local = moment.replace(tzinfo=zone)
    if local.utcoffset() != local.replace(fold=1).utcoffset():
        raise pa.ArrowInvalid(f"{moment} is missing or doubled in {zone.key}")
    try:
        return local.astimezone(timezone.utc)  # noqa: UP017
    except OverflowError as error:
        raise pa.ArrowInvalid(f"{moment} is too far away") from error


def _moment_convert(values: pa.Array, zone: str) -> Converted:
    try:
        naive = values.cast(_NAIVE_MICROSECONDS)
    except pa.ArrowInvalid:
        found = _mixed_moments(values, zone)
    else:
        found = Converted(_instants(naive, zone))
        if pc.any(pc.equal(pc.binary_length(values), _HOUR_ONLY)).as_py():
            raise pa.ArrowInvalid("a text is a date with an hour only")
    ends = pc.min_max(found.values.cast(pa.int64())).as_py()
    if ends["min"] is not None and (ends["min"] < _YEAR_ONE or ends["max"] >= _YEAR_10000):
        raise pa.ArrowInvalid("a date lies before the year 1 or after the year 9999")
    return found


def _mixed_moments(values: pa.Array, naive_zone: str) -> Converted:
    """Moments with offsets, or with more than six digits of a second."""
    parts = pc.extract_regex(values, _MOMENT)
    if parts.null_count != values.null_count:
        raise pa.ArrowInvalid("a text is not a date")
    naive = pc.struct_field(parts, "moment").cast(_NAIVE_MICROSECONDS)
    moment = naive.cast(pa.int64())
    more = pc.struct_field(parts, "more")
    zone = pc.struct_field(parts, "zone")
    size = pc.binary_length(pc.struct_field(parts, "moment"))
    stray = pc.or_(
        pc.and_(pc.not_equal(more, ""), pc.not_equal(size, len("2025-08-06 03:07:13.716509"))),
        pc.and_(pc.not_equal(zone, ""), pc.less_equal(size, len("2025-08-06"))),
    )
    if pc.any(stray).as_py():
        raise pa.ArrowInvalid("a date has digits or an offset where none can be")
    up = pc.greater_equal(pc.utf8_slice_codeunits(more, 0, 1), "5").cast(pa.int64())
    offset = pc.if_else(pc.is_in(zone, value_set=pa.array(["", "Z"])), "+00:00", zone)
    minutes = pc.add(
        pc.multiply(pc.utf8_slice_codeunits(offset, 1, 3).cast(pa.int64()), 60),
        pc.utf8_slice_codeunits(offset, 4, 6).cast(pa.int64()),
    )
    signed = pc.if_else(
        pc.equal(pc.utf8_slice_codeunits(offset, 0, 1), "-"), pc.negate(minutes), minutes
    )
    instant = pc.subtract(pc.add(moment, up), pc.multiply(signed, 60_000_000))
    if naive_zone != "UTC":
        nowhere = pa.scalar(None, _NAIVE_MICROSECONDS)
        here = _instants(pc.if_else(pc.equal(zone, ""), naive, nowhere), naive_zone)
        instant = pc.coalesce(pc.add(here.cast(pa.int64()), up), instant)
    return Converted(instant.cast(UTC_MICROSECONDS), pc.match_substring_regex(more, "[1-9]"))


def _timestamptz(naive_zone: str) -> Cast:
    return Cast(
        storage=("text",),
        sentinel="''",
        raw=pa.string(),
        rules=_moment_rules,
        convert=lambda values: _moment_convert(values, naive_zone),
        target_form=lambda values: values.cast(UTC_MICROSECONDS),
    )


def md5_of_each(values: pa.Array) -> pa.Array:
    """MD5 of every BLOB of a batch, as PostgreSQL's ``md5()`` writes it; NULL stays NULL."""
    _, offsets, data = values.buffers()
    if not len(values):
        return pa.array([], pa.string())
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    view = memoryview(data or b"")
    sums = [
        hashlib.md5(view[a:b], usedforsecurity=False).hexdigest()
        for a, b in pairwise(ends.tolist())
    ]
    found = pa.array(sums, pa.string())
    if not values.null_count:
        return found
    return pc.if_else(values.is_valid(), found, pa.scalar(None, pa.string()))


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
    source_form=md5_of_each,
)
