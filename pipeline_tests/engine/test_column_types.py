"""Types of columns that only some databases use: moved, proven, kept in step, written back."""

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.core.errors import PipelineError
from pipeline.core.policies import DEFAULT, Policies
from pipeline.cutover import replay
from pipeline.cutover.source.changed_rows import NotReversible
from pipeline.move.proof.verification import Sample, verify_table
from pipeline.move.reading.prepare import prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.run.plan import plan_tables
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking
from pipeline.sqlite.snapshot import take_snapshot
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.targets import query

UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
LONG = "1234567890123456789012345678901234567890.1230"
KINDS: dict[str, sa.types.TypeEngine[Any]] = {
    "small": sa.SmallInteger(),
    "day": sa.Date(),
    "clock": sa.Time(),
    "moment": sa.DateTime(),
    "uuid": sa.Uuid(),
    "number": sa.Numeric(),
    "digits": sa.Numeric(45, 4),
    "single": sa.REAL(),
    "word": sa.Enum("new", "it's", native_enum=False),
}
TABLE = sa.Table("things", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
for _name, _kind in KINDS.items():
    TABLE.append_column(sa.Column(_name, _kind))
Row = tuple[Any, ...]
FIRST: Row = (-32768, "0001-01-01", "08:30", "2024-02-29T10:00", UUID, LONG, LONG, 0.5, "new")
SECOND: Row = (
    *(32767, "9999-12-31", "23:59:59.5", "0001-01-01", bytes.fromhex(UUID.replace("-", ""))),
    *(0.1, 7, -3, "it's"),
)
LOSSY: Row = (
    *(0, "2024-02-29", "10:00:00.1234565", "2025-01-01 00:00:00.0000005", UUID.upper()),
    *("007.50", "0.00005", 0.1, None),
)
NOTHING: Row = (None,) * len(KINDS)
STORED: list[tuple[str | None, ...]] = [
    ("-32768", "0001-01-01", "08:30:00", "2024-02-29 10:00:00", UUID, LONG, LONG, "0.5", "new"),
    (
        *("32767", "9999-12-31", "23:59:59.5", "0001-01-01 00:00:00", UUID, "0.1", "7.0000", "-3"),
        "it's",
    ),
    (
        *("0", "2024-02-29", "10:00:00.123457", "2025-01-01 00:00:00.000001", UUID, "7.50"),
        *("0.0001", "0.1", None),
    ),
    (None,) * len(KINDS),
]


class Source:
    """A file with one table, whose columns have no types of SQLite, and its target."""

    def __init__(self, path: Path, url: str, *rows: Row) -> None:
        """Create the file."""
        self.path, self.url = path, url
        self.run(f"CREATE TABLE things (id INTEGER PRIMARY KEY, {', '.join(KINDS)})")
        for number, row in enumerate(rows, 1):
            self.add(number, row)

    def add(self, number: int, row: Row) -> None:
        """Insert a row."""
        self.run(f"INSERT INTO things VALUES (?{', ?' * len(KINDS)})", (number, *row))

    def run(self, sql: str, parameters: Row = ()) -> list[Row]:
        """Execute a statement in the source."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(sql, parameters).fetchall()

    def move(self, act: Callable[..., Any] = move_all) -> Any:
        """Move or sync the table."""
        return act(self.path, self.url, tables=[TABLE])["things"]

    def stored(self) -> list[Row]:
        """The values of the target, as texts."""
        outputs = ", ".join(f"{name}::text" for name in KINDS)
        return query(self.url, f"SELECT {outputs} FROM things ORDER BY id")

    def failing(self) -> dict[str, list[str]]:
        """The checks of a verification that fail, and the columns that they name."""
        snapshot = take_snapshot(self.path, self.path.with_suffix(".seen"), tables=[TABLE])
        opened = SourceView(snapshot)
        with Target.connect(self.url, shown="the target") as target, target.read_only():
            checks = verify_table(
                prepare(TABLE, opened),
                source=opened,
                target=target,
                sample=Sample(2**62, 0, witness_all=True),
            )
        return {
            check.name: [str(getattr(found, "column", "")) for found in check.findings]
            for check in checks
            if check.blocking and not check.passed
        }


@pytest.fixture
def source(tmp_path: Path, target_url: str) -> Source:
    """Values of each type, some of which lose digits or another spelling."""
    return Source(tmp_path / "source.db", target_url, FIRST, SECOND, LOSSY, NOTHING)


def test_values_move_are_proven_merged_and_kept_in_step(source: Source) -> None:
    assert source.move().quarantined_rows == 0
    assert source.stored() == STORED
    assert source.failing() == {}
    kept = query(
        source.url,
        "SELECT column_name, storage, original FROM migration.conversions ORDER BY column_name",
    )
    assert kept == [
        ("clock", "text", "10:00:00.1234565"),
        ("digits", "text", "0.00005"),
        ("moment", "text", "2025-01-01 00:00:00.0000005"),
        ("number", "text", "007.50"),
        ("single", "real", "0.1"),
        ("uuid", "text", UUID.upper()),
    ]
    tracking.switch_on(source.path, [TABLE])
    assert source.move().written_rows == 0
    for act, number, spelling in (
        (move_all, "1.50", "hex(uuid)"),
        (sync_all, "1.5", "lower(uuid)"),
    ):
        source.run("UPDATE things SET number = ?, digits = 1e30 WHERE id = 1", (number,))
        source.run(f"UPDATE things SET uuid = {spelling} WHERE id = 2")
        source.run("INSERT INTO things (word, small) VALUES ('new', 1), ('old', 1)")
        moved = source.move(act)
        assert (moved.quarantined_rows, source.failing()) == (2 if act is sync_all else 1, {})
        assert source.stored()[0][5:] == (number, f"1{'0' * 30}.0000", "0.5", "new")
        assert source.stored()[1] == STORED[1]
    assert len(source.stored()) == 6


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("small", 32768, "is not between -32768 and 32767"),
        ("day", "2023-02-29", "is not a date in the form YYYY-MM-DD"),
        ("day", "2023-02-28 00:00:00", "is not a date in the form YYYY-MM-DD"),
        ("day", "0000-01-01", "is not a date in the form YYYY-MM-DD"),
        ("day", 1, "is not text"),
        ("clock", "24:00", "is not a time in the form HH:MM, HH:MM:SS or HH:MM:SS.ffffff"),
        ("clock", "10:00:00.", "is not a time in the form HH:MM, HH:MM:SS or HH:MM:SS.ffffff"),
        ("clock", "23:59:59.9999995", "is 24:00:00 when it is rounded to microseconds"),
        (
            "moment",
            "2025-01-01 10:00:00+07:00",
            "names a time zone, which the column does not keep",
        ),
        ("moment", "2025-01-01T10:00Z", "names a time zone, which the column does not keep"),
        ("moment", "2025-01-01 25:00", "is not a date"),
        ("uuid", UUID[:-1], "is not a UUID"),
        ("uuid", UUID[1:9] + "-" + UUID[9:], "is not a UUID"),
        ("uuid", b"\0" * 15, "is not 16 bytes"),
        ("uuid", 5, "is not text or blob"),
        ("number", "1e5", "is not a decimal number"),
        ("number", "NaN", "is not a decimal number"),
        ("number", 9e999, "is infinite"),
        ("number", "1" * 131_073, "has more than 131,072 digits before the point"),
        ("number", "0." + "1" * 16_384, "has more than 16,383 digits after the point"),
        ("digits", "1" * 42, "has more than 41 digits before the point"),
        ("digits", f"-{'9' * 41}.99995", "has more than 41 digits before the point"),
        ("digits", 1e41, "has more than 41 digits before the point"),
        ("single", 1e39, "is too large for a real"),
        ("single", 2**24 + 1, "is an integer that a real cannot hold exactly"),
        ("word", "old", "is none of 'new', 'it''s'"),
    ],
)
def test_a_value_that_a_type_does_not_take_is_rejected_with_its_reason(
    column: str, value: Any, reason: str, source: Source
) -> None:
    source.run(f"UPDATE things SET {column} = ? WHERE id = 4", (value,))
    assert source.move().quarantined_rows == 1
    assert source.stored() == STORED[:3]
    found = query(
        source.url,
        "SELECT r->>'column', r->>'message' FROM migration.quarantine,"
        " jsonb_array_elements(reasons) AS r",
    )
    assert found == [(column, reason)]
    assert source.failing() == {}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("small", "7"), ("day", "'2024-03-01'"), ("day", "'infinity'"), ("clock", "'24:00'")),
        *(("moment", "'2024-03-01'"), ("moment", "'-infinity'"), ("uuid", f"'{UUID[:-1]}2'")),
        *(("number", "'NaN'"), ("number", f"'{LONG}0'"), ("digits", "1"), ("single", "'NaN'")),
        *(("day", "'0044-03-15 BC'"), ("word", "'it''s'")),
    ],
)
def test_the_proof_and_the_witness_see_a_value_that_was_tampered_with(
    column: str, value: str, source: Source
) -> None:
    source.move()
    query(source.url, f"UPDATE things SET {column} = {value} WHERE id = 1")
    failing = source.failing()
    assert failing["witness"] == [column]
    assert failing["digests"] == [column, column]


def test_uuids_and_numbers_are_written_back_as_the_source_stores_them(
    tmp_path: Path, target_url: str
) -> None:
    bytes_, later = SECOND[4], f"{UUID[:-1]}2"
    source = Source(tmp_path / "source.db", target_url, (*NOTHING[:4], bytes_, 1.5, *NOTHING[6:]))
    source.run("ALTER TABLE things RENAME TO old")
    source.run(
        "CREATE TABLE things (id INTEGER PRIMARY KEY, "
        f"{', '.join(name + ' DECIMAL(9)' * (name == 'number') for name in KINDS)})"
    )
    source.run("INSERT INTO things SELECT * FROM old")
    source.move()
    query(target_url, f"INSERT INTO things (uuid, number) VALUES ('{later}', 2.50), (NULL, 100)")
    source.path = _replayed(source)
    assert source.run("SELECT uuid, number FROM things ORDER BY id") == [
        (bytes_, 1.5),
        (bytes.fromhex(later.replace("-", "")), 2.5),
        (None, 100),
    ]
    assert source.failing() == {}


CHANGES = (
    *("small = 5", "day = '2024-03-01'", "clock = '10:20:30.5'", "moment = '2024-03-01 10:20:30'"),
    *(f"uuid = '{UUID[:-1]}2'", "number = 2.50", "digits = 12.5", "single = 2.5", "word = 'it''s'"),
)


def _replayed(source: Source) -> Path:
    copy = source.path.with_suffix(".back")
    shutil.copy(source.path, copy)
    with Target.connect(source.url, shown="the target") as target, target.transaction():
        replay.replay(copy, target, [TABLE], policies=DEFAULT, folder=copy.parent)
    return copy


def test_changes_of_the_target_are_written_back_in_the_form_of_the_source(source: Source) -> None:
    source.move()
    query(source.url, f"UPDATE things SET {', '.join(CHANGES)} WHERE id = 1")
    listed = ", ".join(KINDS)
    query(source.url, f"INSERT INTO things ({listed}) SELECT {listed} FROM things WHERE id = 1")
    written = (
        *(5, "2024-03-01", "10:20:30.5", "2024-03-01 10:20:30.000000", f"{UUID[:-1]}2"),
        *("2.50", "12.5000", 2.5, "it's"),
    )
    source.path = _replayed(source)
    rows = source.run("SELECT * FROM things ORDER BY id")
    assert rows == [(1, *written), (2, *SECOND), (3, *LOSSY), (4, *NOTHING), (5, *written)]
    assert source.failing() == {}


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("day = 'infinity'", "infinity"),
        ("day = '0044-03-15 BC'", "0044-03-15 BC"),
        ("moment = '-infinity'", "-infinity"),
        ("moment = '12024-01-01'", "12024-01-01 00:00:00"),
        ("clock = '24:00'", "24:00:00"),
        ("number = 'NaN'", "NaN"),
        ("digits = 'NaN'", "NaN"),
        ("single = 'NaN'", "nan"),
    ],
)
def test_a_value_that_the_source_cannot_store_is_refused_by_name(
    change: str, shown: str, source: Source
) -> None:
    source.move()
    query(source.url, f"UPDATE things SET {change} WHERE id = 1")
    column = re.escape(change.split(" ", maxsplit=1)[0])
    with pytest.raises(NotReversible, match=f"things 1, {column}: SQLite cannot store {shown}"):
        _replayed(source)


@pytest.mark.parametrize("kind", [sa.Uuid(), sa.Date(), sa.Numeric(), sa.LargeBinary()], ids=repr)
def test_a_key_of_another_type_is_refused(kind: sa.types.TypeEngine[Any], source: Source) -> None:
    table = sa.Table("things", sa.MetaData(), sa.Column("id", kind, primary_key=True))
    with pytest.raises(PipelineError, match="only integers and texts identify rows"):
        move_all(source.path, source.url, tables=[table])
    assert query(source.url, "SELECT to_regclass('things')::text") == [(None,)]


def test_a_plan_tells_what_a_move_will_do(source: Source, tmp_path: Path) -> None:
    source.run("INSERT INTO things (day, clock, word) VALUES (7, 8, 'new')")
    snapshot = take_snapshot(source.path, tmp_path / "planned.db", tables=[TABLE])
    with Target.connect(source.url, shown="the target") as target:
        (plan,) = plan_tables([TABLE], source=SourceView(snapshot), target=target)
    losses = {loss.column: loss.examples for loss in plan.lossy}
    source.move()
    kept = query(
        source.url, "SELECT column_name, source_key, original, kept_as FROM migration.conversions"
    )
    assert losses == {column: (tuple(example),) for column, *example in kept}
    assert plan.rejected_rows == 1


def test_values_that_lose_something_can_be_quarantined(source: Source) -> None:
    policies = Policies(lossy_conversions="quarantine")
    source.run("INSERT INTO things (digits) VALUES (0.00001), ('7.00'), ('0.00001')")
    move_all(source.path, source.url, tables=[TABLE], policies=policies)
    assert query(source.url, "SELECT id FROM things ORDER BY id") == [(1,), (2,), (4,), (6,)]
    reasons = "SELECT r->>'column' FROM migration.quarantine, jsonb_array_elements(reasons) AS r"
    found = query(source.url, f"{reasons} WHERE source_key = '3' ORDER BY 1")
    assert [column for (column,) in found] == sorted(KINDS.keys() - {"small", "day", "word"})


def test_a_forbidden_null_is_replaced_by_a_value_of_the_type(source: Source) -> None:
    given = {"small": 1, "day": "2024-01-01", "clock": "08:00", "uuid": UUID, "number": 2.5}
    given |= {"digits": "7", "single": 0.5, "word": "new", "moment": "2024-01-01"}
    table = TABLE.to_metadata(sa.MetaData())
    for name in given:
        table.columns[name].nullable = False
    source.run("DELETE FROM things WHERE id = 3")
    policies = Policies(forbidden_nulls={f"things.{name}": each for name, each in given.items()})
    moved = move_all(source.path, source.url, tables=[table], policies=policies)["things"]
    assert moved.quarantined_rows == 0
    assert source.stored()[-1] == (
        *("1", "2024-01-01", "08:00:00", "2024-01-01 00:00:00", UUID, "2.5", "7.0000", "0.5"),
        "new",
    )


def test_a_number_that_the_server_refuses_stands_alone(source: Source) -> None:
    source.move()
    query(source.url, "ALTER TABLE things ADD CONSTRAINT odd CHECK (number <> 2.50)")
    given = ("3.50", "2.50", "4.50")
    for at, number in enumerate(given, 11):
        source.run("INSERT INTO things (id, number) VALUES (?, ?)", (at, number))
    assert source.move().quarantined_rows == 1
    stored = query(source.url, "SELECT id, number::text FROM things WHERE id > 10 ORDER BY id")
    assert stored == [(11, "3.50"), (13, "4.50")]
    assert query(source.url, "SELECT source_key FROM migration.quarantine") == [("12",)]
    assert source.failing() == {}
