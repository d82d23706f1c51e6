"""A row is clean or rejected whichever way it comes: trusted, judged, alone or in company."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.move.reading.batch_converter import BatchConverter, convert
from pipeline.move.reading.prepare import Prepared, prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.reading.surveys import Range
from pipeline.postgres import schema
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import take_snapshot
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.targets import new_database, query

Row = dict[str, Any]
Rows = dict[int, tuple[Any, ...]]


@dataclass(frozen=True)
class Text:
    """TEXT of any bytes, which Python's driver cannot bind."""

    data: bytes


THING = sa.Table(
    "thing",
    sa.MetaData(naming_convention={"ck": "%(table_name)s_%(constraint_name)s_check"}),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("small", sa.Integer),
    sa.Column("big", sa.BigInteger),
    sa.Column("flag", sa.Boolean),
    sa.Column("score", sa.Numeric(3, 2)),
    sa.Column("weight", sa.Double),
    sa.Column("word", sa.String(5), nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("doc", JSONB),
    sa.Column("moment", sa.DateTime(timezone=True)),
    sa.Column("body", sa.LargeBinary),
)
THING.append_constraint(
    sa.CheckConstraint(
        sa.and_(THING.c.score >= sa.text("0.0"), THING.c.score <= sa.text("5.0")), name="score"
    )
)
THING.append_constraint(
    sa.CheckConstraint(THING.c.word.in_(["a", "b", "กินข้าว", "toolong"]), name="word")
)
COLUMNS = [column.name for column in THING.columns if column.name != "id"]
DECLARED = {
    "as an application declares them": "small INTEGER, big BIGINT, flag BOOLEAN, score FLOAT,"
    " weight REAL, word VARCHAR(5), note TEXT, doc JSON, moment DATETIME, body BLOB",
    "without types": ", ".join(COLUMNS),
}
UNTYPED = DECLARED["without types"]
SOUND: Row = {
    "small": 1,
    "big": 2**40,
    "flag": 0,
    "score": 2.675,
    "weight": 0.1,
    "word": "a",
    "note": "กิน",
    "doc": '{"a": [1, 2]}',
    "moment": "2025-08-06 03:07:13.716509",
    "body": b"\x00\xff",
}
OTHER: Row = {**SOUND, "small": 7, "note": "ดื่ม", "doc": "[]", "moment": "2025-01-01"}

CLEAN: dict[str, list[Any]] = {
    "small": [None, 0, 2**31 - 1, -(2**31)],
    "big": [None, 2**63 - 1, -(2**63)],
    "flag": [None, 1],
    "score": [None, 0, 5, -0.0, -0.001, 5.004, 5.004999999999999, -0.0049999999999999996, 1e-320],
    "weight": [None, 2**53, 1e308, 5e-324, float("inf")],
    "word": ["b"],
    "note": [None, "", "a'\"\\", "🍚" * 300, "\x01"],
    "doc": [
        None,
        "null",
        " [1e400] ",
        3,
        0.1,
        -(2**63),
        '"\\ud83c\\udf5a"',
        "[" * 2500 + "]" * 2500,
    ],
    "moment": [
        *(None, "2024-02-29", "2025-01-01T10:30", "2025-01-01 10:30:00.1234567 +07:00"),
        *("0001-01-01 00:00:00", "9999-12-31 23:59:59.999999Z", "2025-01-01 10:30:00-14:59"),
    ],
    "body": [None, b"", b"x" * 5000],
}
WRONG_CLASS = {"type"}
BROKEN: dict[str, list[tuple[Any, set[str]]]] = {
    "small": [
        (2**31, {"range"}),
        (-(2**40), {"range"}),
        (0.5, WRONG_CLASS),
        ("x", WRONG_CLASS),
        (b"1", WRONG_CLASS),
    ],
    "big": [(0.5, WRONG_CLASS), ("x", WRONG_CLASS), (b"1", WRONG_CLASS), (1e300, WRONG_CLASS)],
    "flag": [(2, {"range"}), (-1, {"range"}), (0.5, {"type", "range"}), ("x", {"type", "range"})],
    "score": [
        (5.006, {"check"}),
        (-0.006, {"check"}),
        (9.996, {"range", "check"}),
        (-15, {"range", "check"}),
        (float("inf"), {"range", "check"}),
        ("x", WRONG_CLASS),
        (b"1", WRONG_CLASS),
    ],
    "weight": [
        (2**53 + 1, {"range"}),
        (-(2**63), {"range"}),
        ("x", WRONG_CLASS),
        (b"1", WRONG_CLASS),
    ],
    "word": [
        (None, {"null"}),
        ("", {"check"}),
        ("a ", {"check"}),
        ("a\0", {"nul", "check"}),
        ("toolong", {"length"}),
        ("กินข้าว", {"length"}),
        ("too long", {"length", "check"}),
        (b"a", {"type", "check"}),
    ],
    "note": [
        ("a\0b", {"nul"}),
        (b"abc", WRONG_CLASS),
        (Text(b"\xff"), {"conversion"}),
        (Text("ก".encode()[:2]), {"conversion"}),
        (Text(b"\xed\xa0\x80"), {"conversion"}),
    ],
    "doc": [
        (b"{}", WRONG_CLASS),
        (b"1", WRONG_CLASS),
        ("", {"json"}),
        ("{", {"json"}),
        ("{'a': 1}", {"json"}),
        ("[1,]", {"json"}),
        ("NaN", {"json"}),
        ("01", {"json"}),
        ("\ufeff{}", {"json"}),
        ("1\0", {"nul"}),
        (float("inf"), {"range"}),
        (Text(b'"\xff"'), {"conversion"}),
    ],
    "moment": [
        *(
            (text, {"date"})
            for text in ("", "x", "next tuesday", "10:30", "2025-02-30", "2025-13-01")
        ),
        *(
            (text, {"date"})
            for text in ("2023-02-29", "1900-02-29", "2025-00-10", "2025-04-31 10:30")
        ),
        *((text, {"date"}) for text in ("2025-01-01 24:00:00", "2025-01-01 23:60", "0000-01-01")),
        *((text, {"date"}) for text in ("2025-01-01 10", "2025-01-01T10", "2025-01-01 10:30:60")),
        *((text, {"date"}) for text in ("2025-1-1", "2025-01-01 ", " 2025-01-01", "2025-01-01x")),
        *(
            (text, {"date"})
            for text in ("20250101T1030", "2025-W01-1", "-2025-01-01", "12025-01-01")
        ),
        *(
            (text, {"date"})
            for text in ("2025-01-015", "2025-01-01 10:305", "2025-01-01 10:30:155")
        ),
        *((text, {"date"}) for text in ("2025-01-01Z", "2025-01-01 Z", "2025-01-01+07:00")),
        *((text, {"date"}) for text in ("2025-01-01 10:30+0700", "2025-01-01 10:30+7", "now")),
        *((text, {"date"}) for text in ("2025-01-01 10:30+99:99", "2025-01-01 10:30-15:00")),
        ("2025-01-01\0", {"nul"}),
        (0.5, WRONG_CLASS),
        (1754449633, WRONG_CLASS),
        (b"2025-01-01", WRONG_CLASS),
    ],
    "body": [
        ("", WRONG_CLASS),
        ("abc", WRONG_CLASS),
        (0, WRONG_CLASS),
        (0.5, WRONG_CLASS),
        (Text(b"\xff"), WRONG_CLASS),
    ],
}
"""Values that break the contract, and why, when they are stored as they stand here."""

ONLY_SEEN_LATER: dict[str, list[Any]] = {
    "score": [5.005, 9.995, 9.994999999999999, -0.005, -9.995],
    "doc": ['"\\u0000"', '"\\ud800"', '{"\\udc00": 1}', "1e999999", "[" * 2500],
    "moment": [
        *("0001-01-01 00:00:00+07:00", "9999-12-31 23:59:59-07:00"),
        "9999-12-31 23:59:59.9999999",
    ],
}
"""Values that the contract need not understand; whoever sees them has to come to one result."""

EVERY_VALUE = [
    (column, value)
    for column in COLUMNS
    for value in (
        *CLEAN[column],
        *(value for value, _ in BROKEN[column]),
        *ONLY_SEEN_LATER.get(column, []),
    )
]


@pytest.fixture(scope="module")
def url(server: URL) -> Iterator[str]:
    """One database for all; every test begins with dropping what the last one left."""
    with new_database(server, "contract") as made:
        yield libpq(made)


@pytest.fixture(params=list(DECLARED))
def columns(request: pytest.FixtureRequest) -> str:
    """The source's columns."""
    return DECLARED[request.param]


SHOWN = f"SELECT id, {', '.join(f'{column}::text' for column in COLUMNS)} FROM thing"


def by_id(rows: list[tuple[Any, ...]]) -> Rows:
    return {row[0]: row[1:] for row in rows}


@dataclass(frozen=True)
class Given:
    """A source with the table ``thing``, and an empty target."""

    path: Path
    url: str

    def write(self, columns: str, rows: list[Row]) -> None:
        """Replace all rows; their ids count from 1."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("DROP TABLE IF EXISTS thing")
            connection.execute(f"CREATE TABLE thing (id INTEGER PRIMARY KEY, {columns})")
            for at, row in enumerate(rows, 1):
                values = [row[column] for column in COLUMNS]
                marks = ", ".join("CAST(? AS TEXT)" if isinstance(v, Text) else "?" for v in values)
                plain = [v.data if isinstance(v, Text) else v for v in values]
                connection.execute(f"INSERT INTO thing VALUES ({at}, {marks})", plain)

    def moved(self) -> Rows:
        """What is in the target after a real move."""
        move_all(self.path, self.url, tables=[THING], delete_share=1.0)
        return by_id(query(self.url, SHOWN))

    def reasons(self) -> dict[int, set[tuple[str, str]]]:
        """What is in quarantine: (column, code) by id."""
        found = query(
            self.url,
            "SELECT row_id, r->>'column', r->>'code' FROM migration.quarantine,"
            " jsonb_array_elements(reasons) r",
        )
        return {
            int(row_id): {(column, code) for h, column, code in found if h == row_id}
            for row_id, _, _ in found
        }

    @contextmanager
    def surveyed(self) -> Iterator["Bench"]:
        """The source surveyed, and a session with the target."""
        copy = self.path.with_suffix(".copy")
        source = SourceView(take_snapshot(self.path, copy, tables=[THING]))
        with Target.connect(self.url, shown="the target") as target:
            yield Bench(source, prepare(THING, source), target)


@dataclass(frozen=True)
class Bench:
    """Where a table is sifted by hand."""

    source: SourceView
    prepared: Prepared
    target: Target

    def contract_checked(self) -> Rows:
        """What arrives when the contract sees every row from the start."""
        survey, mapping = self.prepared.survey, self.prepared.mapping
        return self._set_down(
            [
                BatchConverter(
                    self.source, mapping, self.prepared.contract, survey, check_contract=True
                )
            ]
        )

    def trusted(self, *, beside_a_rejected_row: bool = False) -> Rows:
        """What arrives when every row is a batch of its own, trusted first.

        Args:
            beside_a_rejected_row: whether the survey has rejected one more row.
        """
        survey, mapping = self.prepared.survey, self.prepared.mapping
        converters = []
        for at in range(1, survey.rows + 1):
            rejected = [row_id for row_id in survey.rejected if row_id == at]
            one = replace(
                survey,
                ranges=(Range(at, at, 1, 8),),
                rejected=(*rejected, *([0] if beside_a_rejected_row else [])),
            )
            converters.append(BatchConverter(self.source, mapping, self.prepared.contract, one))
        return self._set_down(converters)

    def _set_down(self, converters: list[BatchConverter]) -> Rows:
        bare = schema.prepare(self.prepared.mapping, schema.TargetTableState(exists=False))
        with self.target.transaction():
            self.target.run("DROP TABLE IF EXISTS thing", *bare)
            for converted in (converted for converter in converters for converted in converter):
                for at in range(converted.batch.num_rows):
                    with suppress(DataFault), self.target.savepoint():
                        self.target.copy("thing", converted.batch.slice(at, 1))
            rows = by_id(self.target.rows(SHOWN))
            self.target.run("DROP TABLE thing")
        return rows


@contextmanager
def given_rows(url: str, columns: str, rows: list[Row]) -> Iterator[Given]:
    """A source that holds these rows."""
    query(url, "DROP TABLE IF EXISTS thing; DROP SCHEMA IF EXISTS migration CASCADE")
    with tempfile.TemporaryDirectory() as folder:
        source = Given(Path(folder) / "source.db", url)
        source.write(columns, rows)
        yield source


@pytest.fixture
def every_value(url: str, columns: str) -> Iterator[Given]:
    """One row for each value of ``EVERY_VALUE``, sound but for that."""
    with given_rows(url, columns, [{**SOUND, c: v} for c, v in EVERY_VALUE]) as source:
        yield source


def named(rows: Rows) -> dict[str, Any]:
    """Rows of ``every_value`` by what is odd about them; what is odd is shown."""
    return {
        f"{at} {column} {value!r:.50}": row[COLUMNS.index(column)]
        for at, row in sorted(rows.items())
        for column, value in [EVERY_VALUE[at - 1]]
    }


def test_a_value_arrives_trusted_exactly_when_it_does_judged(every_value: Given) -> None:
    with every_value.surveyed() as bench:
        assert named(bench.trusted()) == named(bench.contract_checked())


def test_a_value_arrives_beside_a_rejected_row_exactly_when_it_does_judged(
    every_value: Given,
) -> None:
    with every_value.surveyed() as bench:
        assert named(bench.trusted(beside_a_rejected_row=True)) == named(bench.contract_checked())


def test_a_move_lets_in_what_the_contract_does(every_value: Given) -> None:
    with every_value.surveyed() as bench:
        contract_checked = bench.contract_checked()
    assert named(every_value.moved()) == named(contract_checked)


def test_a_merge_lets_in_what_a_fill_does(every_value: Given, columns: str, url: str) -> None:
    filled = every_value.moved()
    with given_rows(url, columns, [OTHER] * len(EVERY_VALUE)) as source:
        assert len(source.moved()) == len(EVERY_VALUE)
        source.write(columns, [{**SOUND, c: v} for c, v in EVERY_VALUE])
        assert named(source.moved()) == named(filled)


def test_clean_values_arrive_and_broken_ones_do_not(url: str) -> None:
    values = [(c, v) for c in COLUMNS for v in (*CLEAN[c], *(v for v, _ in BROKEN[c]))]
    clean = {at for at, (c, v) in enumerate(values, 1) if any(v is w for w in CLEAN[c])}
    with given_rows(url, UNTYPED, [{**SOUND, c: v} for c, v in values]) as source:
        arrived = set(source.moved())
    assert {values[at - 1] for at in clean - arrived} == set()
    assert {values[at - 1] for at in arrived - clean} == set()


def test_the_contract_knows_what_converts(url: str) -> None:
    values = [(c, v, set()) for c in COLUMNS for v in CLEAN[c]]
    values += [(c, v, codes) for c in COLUMNS for v, codes in BROKEN[c]]
    with (
        given_rows(url, UNTYPED, [{**SOUND, c: v} for c, v, _ in values]) as source,
        source.surveyed() as bench,
    ):
        mapping, contract = bench.prepared.mapping, bench.prepared.contract
        (part,) = bench.prepared.survey.ranges
        broken = {
            *bench.prepared.survey.rejected,
            *bench.source.violating_row_ids(mapping, contract, part),
        }
        unconvertible = set()
        for at in {*range(1, part.rows + 1)} - {*bench.prepared.survey.rejected}:
            try:
                convert(mapping, bench.source.read(mapping, Range(at, at, 1, 8)))
            except pa.ArrowInvalid:
                unconvertible.add(at)
    of_conversion = {at for at, (_, _, codes) in enumerate(values, 1) if "conversion" in codes}
    assert {values[at - 1][:2] for at in (unconvertible - broken) ^ of_conversion} == set()
    refused = {at for at in broken - unconvertible if values[at - 1][2] & LEFT_TO_POSTGRESQL}
    survey = {*bench.prepared.survey.rejected}
    assert {values[at - 1][:2] for at in broken - unconvertible - refused - survey} == set()


LEFT_TO_POSTGRESQL = {"null", "check", "nul", "json", "range"}
"""Codes of rules that PostgreSQL enforces by itself, so a conversion need not."""


def test_every_broken_value_has_its_reason(url: str) -> None:
    broken = [(c, v, codes) for c in COLUMNS for v, codes in BROKEN[c]]
    with given_rows(url, UNTYPED, [{**SOUND, c: v} for c, v, _ in broken]) as source:
        source.moved()
        found = source.reasons()
    assert {broken[at - 1][:2]: found.get(at) for at in range(1, len(broken) + 1)} == {
        (c, v): {(c, code) for code in codes} for c, v, codes in broken
    }


faults = st.fixed_dictionaries({}, optional={c: st.sampled_from(BROKEN[c]) for c in COLUMNS})


@settings(max_examples=8, phases=[Phase.explicit, Phase.generate, Phase.shrink])
@given(st.lists(faults.filter(lambda row: len(row) > 1), min_size=1, max_size=12))
def test_a_row_with_several_faults_has_all_their_reasons(
    url: str, several: list[dict[str, tuple[Any, set[str]]]]
) -> None:
    rows = [{**SOUND, **{c: value for c, (value, _) in row.items()}} for row in several]
    with given_rows(url, UNTYPED, rows) as source:
        assert source.moved() == {}
        assert source.reasons() == {
            at: {(c, code) for c, (_, codes) in row.items() for code in codes}
            for at, row in enumerate(several, 1)
        }


@pytest.mark.parametrize("doc", ["{", "", "1\0", '"\\u0000"', '"\\ud800"', "1e999999"], ids=repr)
def test_a_row_whose_json_breaks_leaves_the_target(url: str, doc: str) -> None:
    with given_rows(url, UNTYPED, [SOUND, SOUND]) as source:
        assert set(source.moved()) == {1, 2}
        source.write(UNTYPED, [SOUND, {**SOUND, "doc": doc}])
        assert set(source.moved()) == {1}
        assert set(source.reasons()) == {2}


NOTHING: Row = {**dict.fromkeys(COLUMNS), "word": "a"}
CHANGED: Row = {**SOUND, "doc": '{"a": 1, "a": 2}', "moment": "2025-01-01 10:30:00.1234567"}
"""Three values that cannot be kept as they are: a score, a document and a moment."""


def test_a_value_may_take_the_place_of_null_and_the_other_way_round(url: str) -> None:
    with given_rows(url, UNTYPED, [NOTHING, CHANGED]) as source:
        nothing, changed = source.moved().values()
        source.write(UNTYPED, [CHANGED, NOTHING])
        assert list(source.moved().values()) == [changed, nothing]
    originals = query(
        url, 'SELECT source_key, original FROM migration.conversions ORDER BY original COLLATE "C"'
    )
    assert originals == [("1", str(CHANGED[c])) for c in ("score", "moment", "doc")]


odd = st.fixed_dictionaries(
    {},
    optional={c: st.sampled_from([v for column, v in EVERY_VALUE if column == c]) for c in COLUMNS},
)


@settings(max_examples=8, phases=[Phase.explicit, Phase.generate, Phase.shrink])
@given(
    columns=st.sampled_from(list(DECLARED.values())),
    rows=st.lists(odd.map(lambda row: {**SOUND, **row}) | st.just(SOUND), min_size=1, max_size=12),
)
def test_any_rows_come_to_the_same_whichever_way_they_go(
    url: str, columns: str, rows: list[Row]
) -> None:
    with given_rows(url, columns, rows) as source:
        with source.surveyed() as bench:
            contract_checked = bench.contract_checked()
            assert bench.trusted() == contract_checked
            assert bench.trusted(beside_a_rejected_row=True) == contract_checked
        assert source.moved() == contract_checked
        source.write(columns, [OTHER] * (len(rows) + 2))
        source.moved()
        source.write(columns, rows)
        assert source.moved() == contract_checked
        assert set(source.reasons()) == set(range(1, len(rows) + 1)) - set(contract_checked)
