"""Every value of SQLite arrives in PostgreSQL as what it means, or its row stays behind."""

import json
import random
import re
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.errors import SettingsError
from pipeline.declared.forms import DecimalText
from pipeline.mapping.casts.types import cast_for
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.targets import new_database, query, reasons

few = settings(max_examples=8, phases=[Phase.explicit, Phase.generate, Phase.shrink])
"""Each example is a whole move, of up to a hundred values."""

MOMENT = sa.DateTime(timezone=True)
TINY = Decimal("0.00")
NEW_YEAR = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def target(server: URL) -> Iterator[str]:
    """One database for all; every move begins with dropping what the last one left."""
    with new_database(server, "types") as made:
        yield libpq(made)


@dataclass(frozen=True)
class Outcome:
    """What became of a column of values; keys are their places in it.

    Attributes:
        arrived: as PostgreSQL holds them now.
        rejected: reason codes.
        lossy: what the ledger kept, as (storage class, text).
    """

    arrived: dict[int, Any]
    rejected: dict[int, set[str]]
    lossy: dict[int, tuple[str, str]]

    @property
    def values(self) -> list[Any]:
        """What arrived, in order."""
        return [self.arrived[at] for at in sorted(self.arrived)]


def moved(
    url: str,
    kind: sa.types.TypeEngine[Any],
    values: list[Any],
    *,
    declared: str = "",
    sql: str = "?",
) -> Outcome:
    """Move a table with one column of values.

    Args:
        url: the target.
        kind: the column's type there.
        values: what is bound to ``sql``.
        declared: the column's type in SQLite; without one every storage class stays as it is.
        sql: what is stored.
    """
    query(url, "DROP TABLE IF EXISTS t; DROP SCHEMA IF EXISTS migration CASCADE")
    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    table.append_column(sa.Column("value", kind))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "source.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, value {declared})")
            for at, value in enumerate(values):
                place = sql if "?" in sql else str(value)
                bound = (at, value) if "?" in place else (at,)
                connection.execute(f"INSERT INTO t VALUES (?, {place})", bound)
        move_all(path, url, tables=[table])
    shown = "value::text" if isinstance(kind, JSONB) else "value"
    arrived = dict(query(url, f"SELECT id, {shown} FROM t"))
    lossy = query(url, "SELECT source_key, storage, original FROM migration.conversions")
    return Outcome(
        {at: bytes(v) if isinstance(v, memoryview) else v for at, v in arrived.items()},
        {int(at): codes for at, codes in reasons(url, "t").items()},
        {int(key): (storage, original) for key, storage, original in lossy},
    )


LITERALS = (
    *("NULL", "0", "1", "2", "2147483647", "2147483648", "-2147483648", "-2147483649"),
    *("9007199254740992", "9007199254740993", "9223372036854775807", "-9223372036854775808"),
    *("0.0", "1.0", "1.5", "2.675", "-9.99", "10.0", "1e300", "9e999", "-9e999"),
    *("''", "'1'", "'1.5'", "'null'", "'{}'", "'กิน'", "'2025-01-01'", "'2025-01-01T00:00:00Z'"),
    *("x''", "x'31'", "x'7b7d'", "x'323032352d30312d3031'", "x'00ff'"),
)
"""Values of all five storage classes, as SQLite writes them."""

TEXTS = {
    "''": "",
    "'1'": "1",
    "'1.5'": "1.5",
    "'null'": "null",
    "'{}'": "{}",
    "'กิน'": "กิน",
    "'2025-01-01'": "2025-01-01",
    "'2025-01-01T00:00:00Z'": "2025-01-01T00:00:00Z",
}
INT32 = {t: int(t) for t in ("0", "1", "2", "2147483647", "-2147483648")}
INT64 = {t: int(t) for t in LITERALS if re.fullmatch(r"-?\d+", t)}
REALS = {t: float(t) for t in ("0.0", "1.0", "1.5", "2.675", "-9.99", "10.0", "1e300")}
ARRIVES: dict[str, tuple[sa.types.TypeEngine[Any], dict[str, Any]]] = {
    "integer": (sa.Integer(), INT32),
    "bigint": (sa.BigInteger(), INT64),
    "boolean": (sa.Boolean(), {"0": False, "1": True}),
    "double": (
        sa.Double(),
        {
            **REALS,
            **{t: float(t) for t in INT64 if abs(int(t)) <= 2**53},
            "9e999": float("inf"),
            "-9e999": float("-inf"),
        },
    ),
    "numeric(3,2)": (
        sa.Numeric(3, 2),
        {
            **{t: Decimal(t).quantize(TINY) for t in ("0", "1", "2", "0.0", "1.0", "1.5", "-9.99")},
            "2.675": Decimal("2.68"),
        },
    ),
    "varchar(10)": (sa.String(10), {t: v for t, v in TEXTS.items() if len(v) <= 10}),
    "text": (sa.Text(), TEXTS),
    "jsonb": (
        JSONB(),
        {
            **{t: t for t in INT64},
            **{t: t for t in ("0.0", "1.0", "1.5", "2.675", "-9.99", "10.0")},
            "1e300": "1" + "0" * 300,
            **{f"'{t}'": t for t in ("1", "1.5", "null", "{}")},
        },
    ),
    "timestamptz": (MOMENT, {"'2025-01-01'": NEW_YEAR, "'2025-01-01T00:00:00Z'": NEW_YEAR}),
    "bytea": (
        sa.LargeBinary(),
        {t: bytes.fromhex(t[2:-1]) for t in LITERALS if t.startswith("x")},
    ),
    "smallint": (sa.SmallInteger(), {t: int(t) for t in ("0", "1", "2")}),
    "real": (
        sa.REAL(),
        {
            **{t: float(t) for t in ("0", "1", "2", "0.0", "1.0", "1.5", "10.0")},
            **{"2.675": 2.675, "-9.99": -9.99},
            **{"9e999": float("inf"), "-9e999": float("-inf")},
        },
    ),
    "date": (sa.Date(), {"'2025-01-01'": date(2025, 1, 1)}),
    "time": (sa.Time(), {}),
    "timestamp": (sa.DateTime(), {"'2025-01-01'": datetime(2025, 1, 1)}),
    "uuid": (sa.Uuid(), {}),
    "numeric": (
        sa.Numeric(),
        {
            **{t: Decimal(t) for t in INT64},
            **{t: Decimal(repr(v)) for t, v in REALS.items()},
            **{f"'{t}'": Decimal(t) for t in ("1", "1.5")},
        },
    ),
    "numeric(50,2)": (
        sa.Numeric(50, 2),
        {
            **{t: Decimal(t) for t in INT64},
            **{t: Decimal(t) for t in ("0.0", "1.0", "1.5", "-9.99", "10.0")},
            "2.675": Decimal("2.68"),
            **{f"'{t}'": Decimal(t) for t in ("1", "1.5")},
        },
    ),
    "enum": (sa.Enum("1", "กิน", native_enum=False), {"'1'": "1", "'กิน'": "กิน"}),
}
"""For each type what arrives, by literal; NULL arrives as NULL, all other rows are rejected."""


@pytest.mark.parametrize("kind", ARRIVES)
def test_a_type_takes_these_values_and_no_others(kind: str, target: str) -> None:
    declared, expected = ARRIVES[kind]
    everything = moved(target, declared, LITERALS, sql="literal")
    arrived = {LITERALS[at]: value for at, value in everything.arrived.items()}
    assert arrived == {"NULL": None, **expected}
    assert {LITERALS[at] for at in everything.rejected} == set(LITERALS) - set(arrived)


@pytest.mark.parametrize("kind", ARRIVES)
def test_a_type_takes_the_same_values_when_none_is_rejected(kind: str, target: str) -> None:
    declared, expected = ARRIVES[kind]
    taken = ["NULL", *expected]
    only_good = moved(target, declared, taken, sql="literal")
    assert dict(zip(taken, only_good.values, strict=True)) == {"NULL": None, **expected}


@pytest.mark.parametrize("kind", ARRIVES)
def test_a_column_of_nulls_alone_moves(kind: str, target: str) -> None:
    assert moved(target, ARRIVES[kind][0], [None, None]).values == [None, None]


@pytest.mark.parametrize(
    "kind",
    [sa.Interval(), sa.Time(timezone=True), sa.Enum("a", name="e"), sa.Uuid(native_uuid=False)],
    ids=repr,
)
def test_a_type_without_a_cast_is_named(kind: sa.types.TypeEngine[Any]) -> None:
    with pytest.raises(SettingsError, match=r"t\.value is declared as .* Declare it as an integer"):
        cast_for(sa.Table("t", sa.MetaData(), sa.Column("value", kind)).c.value)


letters = st.one_of(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    st.sampled_from("กขคงจฉาิีุู่้๊๋์ๆฯ"),
    st.sampled_from("e\u0301\u0323\u200d\ufeff\u2028\t\n\r\x01\x7f\"'\\"),
    st.sampled_from("🍚🇹🇭👩‍🌾🏽"),
)


@few
@given(st.lists(st.text(letters, max_size=30), max_size=60))
@example(["".join(map(chr, (p * 65_536 + 0xFFFD for p in range(17)))), "", "ข้าว" * 100_000])
def test_text_arrives_letter_by_letter(target: str, values: list[str]) -> None:
    assert moved(target, sa.Text(), values).values == values


@few
@given(st.lists(st.text(letters, min_size=3, max_size=7) | st.sampled_from(["กินข้าวว", "a    "])))
def test_a_text_is_measured_in_characters(target: str, values: list[str]) -> None:
    found = moved(target, sa.String(5), values, declared="VARCHAR(5)")
    assert found.arrived == {at: v for at, v in enumerate(values) if len(v) <= 5}
    assert found.rejected == {at: {"length"} for at, v in enumerate(values) if len(v) > 5}


whole = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([s * 2**p + d for p in (31, 53) for s in (1, -1) for d in (-1, 0, 1)]),
)


@few
@given(st.lists(whole))
def test_an_integer_arrives_exactly_or_not_at_all(target: str, values: list[int]) -> None:
    narrow = moved(target, sa.Integer(), values)
    assert narrow.arrived == {at: v for at, v in enumerate(values) if -(2**31) <= v < 2**31}
    assert set(narrow.rejected) == set(range(len(values))) - set(narrow.arrived)
    assert moved(target, sa.BigInteger(), values).values == values


@few
@given(st.lists(st.floats(allow_nan=False)))
@example([-0.0, 5e-324, 1e-320, 1.7976931348623157e308, 0.1 + 0.2])
def test_a_double_arrives_bit_by_bit(target: str, values: list[float]) -> None:
    found = moved(target, sa.Double(), values).values
    assert [struct.pack(">d", v) for v in found] == [struct.pack(">d", v) for v in values]


ties = st.builds(
    lambda half, ulps: (2 * half + 1) / 200 + ulps * 2.0**-50, *[st.integers(-9, 999)] * 2
)
TRAPS = [2.675, 0.125, 4.995, 1.005, -0.125, -2.675, -0.0, 0.0, 1e-320, -5e-324, 0.005, -0.005]
TRAPS += [9.99, 9.994999999999999, 9.995, 9.999, -9.995, 10.0, 5.004999999999999, 5.005, 1e22]


@few
@given(st.lists(st.floats(-10.5, 10.5) | ties | st.floats(allow_nan=False), max_size=80))
@example(TRAPS)
@example([value for value in TRAPS if abs(value) < 9.99])
def test_a_float_is_rounded_as_postgresql_rounds_what_people_read(
    target: str, values: list[float]
) -> None:
    found = moved(target, sa.Numeric(3, 2), values)
    finite = [value for value in values if abs(value) < 1e308]
    rounded = query(
        target,
        "SELECT x, round(x::text::numeric, 2) FROM unnest(%s::float8[]) AS x",
        (finite,),
    )
    expected = {at: v for at, (_, v) in zip(_places(values), rounded, strict=True) if abs(v) < 10}
    assert found.arrived == expected
    assert set(found.rejected) == set(range(len(values))) - set(expected)
    changed = {at: values[at] for at, v in expected.items() if float(v) != values[at]}
    assert {at: float(original) for at, (_, original) in found.lossy.items()} == changed
    assert {storage for storage, _ in found.lossy.values()} <= {"real"}


def _places(values: list[float]) -> list[int]:
    return [at for at, value in enumerate(values) if abs(value) < 1e308]


@few
@given(st.lists(whole.filter(lambda v: abs(v) < 10**15) | st.just(2**53 + 1)))
@example([2**53 + 1])
def test_a_wide_numeric_never_changes_an_integer_unnoticed(target: str, values: list[int]) -> None:
    found = moved(target, sa.Numeric(20, 2), values)
    unnoticed = {at for at, v in found.arrived.items() if v != values[at]} - set(found.lossy)
    assert {values[at] for at in unnoticed} == set()


@pytest.mark.parametrize("kind", [DecimalText(10, 2), DecimalText(40, 2)], ids=repr)
def test_a_decimal_text_is_taken_or_rejected_whatever_is_beside_it(
    kind: DecimalText, target: str
) -> None:
    before = kind.precision - 2
    good = ["1.005", "-0", 3, 2.5, 1e-7, -(2**62), f"{'9' * before}.994", 1e6]
    if before < 20:
        good.remove(-(2**62))
    bad = ["1e5", f"{'9' * before}.995", "9" * (before + 1), "+1", "1.", float("inf"), -(10.0**40)]
    alone = [moved(target, kind, [value]) for value in (*good, *bad)]
    beside = moved(target, kind, [*good, *bad])
    assert [found.arrived[0] for found in alone[: len(good)]] == beside.values
    assert list(beside.arrived) == list(range(len(good)))
    codes = [found.rejected[0] for found in alone[len(good) :]]
    assert codes == [beside.rejected[at] for at in range(len(good), len(good) + len(bad))]
    assert codes[:3] == [{"number"}, {"range"}, {"range"}]


numbers = st.one_of(
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**63, -(2**63), 10**400, 0, -0.0, 5e-324]),
)
names = st.text(letters, max_size=5)
documents = st.recursive(
    st.none() | st.booleans() | numbers | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def meaning(text: str) -> Any:
    """A JSON text with its numbers as exact decimals."""
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


@few
@given(st.lists(documents, max_size=40), st.booleans())
@example([[[[]]], {"": {"": None}}, "🍚", 10**400, 1e-320], True)
def test_json_keeps_its_meaning(target: str, values: list[Any], escaped: bool) -> None:
    texts = [json.dumps(value, ensure_ascii=escaped) for value in values]
    found = moved(target, JSONB(), texts)
    assert list(map(meaning, found.values)) == list(map(meaning, texts))
    assert found.lossy == {}


def test_json_null_is_not_sql_null(target: str) -> None:
    assert moved(target, JSONB(), ["null", None, '"null"']).values == ["null", None, '"null"']


@few
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | whole))
@example([1.0, 0.1 + 0.2, 1e23, 5e-324, -0.0, 2.0**53 + 2, -(2**63)])
def test_numbers_that_sqlite_stored_in_a_json_column_arrive_exactly(
    target: str, values: list[float]
) -> None:
    as_text = moved(target, JSONB(), [json.dumps(v) for v in values], declared="JSON")
    as_they_are = moved(target, JSONB(), values, declared="JSON")
    for found in (as_text, as_they_are):
        assert [type(v)(t) for v, t in zip(values, found.values, strict=True)] == values


members = st.tuples(st.sampled_from(["a", "b", '"', "\\", "ก"]), st.text('a"\\:ก', max_size=4))


def written(pairs: list[tuple[str, str]], *, escaped: bool) -> str:
    """A JSON object with exactly these members, quotation marks written out or as escapes."""

    def string(text: str) -> str:
        plain = json.dumps(text)
        return '"' + plain[1:-1].replace('\\"', r"\u0022") + '"' if escaped else plain

    return "[{" + ", ".join(f"{string(name)}: {string(text)}" for name, text in pairs) + "}]"


@few
@given(st.lists(st.tuples(st.lists(members, max_size=4), st.booleans()), max_size=40))
@example([([("a", ""), ("a", '"' * 4)], True)])
def test_a_json_member_that_is_dropped_is_reported(
    target: str, values: list[tuple[list[tuple[str, str]], bool]]
) -> None:
    texts = [written(pairs, escaped=escaped) for pairs, escaped in values]
    found = moved(target, JSONB(), texts)
    assert [json.loads(text)[0] for text in found.values] == [dict(pairs) for pairs, _ in values]
    repeated = {at for at, (pairs, _) in enumerate(values) if len(dict(pairs)) < len(pairs)}
    assert found.lossy == {at: ("text", texts[at]) for at in repeated}


@pytest.mark.parametrize("inner", ["1" * 5_000, "[" * 1500 + "]" * 1500], ids=["long", "deep"])
def test_a_dropped_member_is_found_beside_what_python_cannot_parse(inner: str, target: str) -> None:
    texts = [f'{{"a": 1, "a": {inner}}}', f'{{"a":1, "b":{inner}}}']
    assert moved(target, JSONB(), texts).lossy == {0: ("text", texts[0])}


zones = st.integers(-14 * 60 - 59, 14 * 60 + 59).map(lambda m: timezone(timedelta(minutes=m)))
instants = st.one_of(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30, 12)),
    st.sampled_from(
        [datetime(2024, 2, 29, 23, 59, 59), datetime(1900, 3, 1), datetime(2000, 2, 29)]
    ),
    st.sampled_from([datetime(1, 1, 2), datetime(1969, 12, 31, 23, 59, 59, 999_999)]),
)


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, datetime, bool]:
    """A moment as text, what it means, and whether it has digits that PostgreSQL cannot keep."""
    moment, between = draw(instants), draw(st.sampled_from(" T"))
    day = moment.date().isoformat()
    match draw(st.sampled_from(["day", "minute", "second", "digits", "micro", "more"])):
        case "day":
            return day, datetime.combine(moment.date(), datetime.min.time(), UTC), False
        case "minute":
            moment, digits = moment.replace(second=0, microsecond=0), ""
            clock = moment.strftime("%H:%M")
        case "second":
            moment, clock, digits = moment.replace(microsecond=0), moment.strftime("%H:%M:%S"), ""
        case "digits":
            micro = draw(st.integers(0, 999)) * 1000
            moment, digits = moment.replace(microsecond=micro), f".{micro // 1000:03}"
            clock = moment.strftime("%H:%M:%S")
        case "micro":
            clock, digits = moment.strftime("%H:%M:%S"), f".{moment.microsecond:06}"
        case _:
            clock, digits = moment.strftime("%H:%M:%S"), f".{moment.microsecond:06}"
            digits += draw(st.text("0123456789", min_size=1, max_size=6))
    more = digits[7:]
    up = timedelta(microseconds=int(more[:1] >= "5"))
    text = f"{day}{between}{clock}{digits}"
    if draw(st.booleans()):
        return text, moment.replace(tzinfo=UTC) + up, bool(more.strip("0"))
    zone = draw(zones)
    minutes = int(zone.utcoffset(None).total_seconds() // 60)
    shown = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    if minutes == 0 and draw(st.booleans()):
        shown = "Z"
    text += draw(st.sampled_from(["", " "])) + shown
    return text, moment.replace(tzinfo=zone) + up, bool(more.strip("0"))


@few
@given(st.lists(moments(), max_size=80))
def test_a_moment_arrives_to_the_microsecond(
    target: str, values: list[tuple[str, datetime, bool]]
) -> None:
    found = moved(target, MOMENT, [text for text, _, _ in values], declared="DATETIME")
    assert found.values == [meant for _, meant, _ in values]
    assert found.lossy == {at: ("text", t) for at, (t, _, lossy) in enumerate(values) if lossy}


@pytest.mark.parametrize("year", [1, 1600, 1899, 1900, 1969, 2000, 2023, 2024, 9999])
def test_days_that_the_calendar_lacks_are_rejected(year: int, target: str) -> None:
    texts = [
        f"{year:04}-{m:02}-{d:02}" for m in (0, 1, 2, 4, 12, 13) for d in (0, 1, 28, 29, 30, 31, 32)
    ]
    there = {}
    for at, text in enumerate(texts):
        try:
            day = date.fromisoformat(text)
        except ValueError:
            continue
        there[at] = datetime(day.year, day.month, day.day, tzinfo=UTC)
    found = moved(target, MOMENT, texts)
    assert found.arrived == there
    assert found.rejected == {at: {"date"} for at in range(len(texts)) if at not in there}


@few
@given(st.lists(st.none() | st.binary(max_size=50), max_size=60))
@example([b""])
@example([b"", None])
def test_a_blob_arrives_byte_by_byte(target: str, values: list[bytes | None]) -> None:
    assert moved(target, sa.LargeBinary(), values, declared="BLOB").values == values


def test_a_blob_of_a_mebibyte_arrives_beside_empty_ones(target: str) -> None:
    values = [random.Random(1).randbytes(2**20), b"", bytes(2**20), None, b"\0"]
    assert moved(target, sa.LargeBinary(), values).values == values
