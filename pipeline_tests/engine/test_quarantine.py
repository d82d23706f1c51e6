"""Rejected rows are kept whole, are left alone, and go as soon as the source is mended."""

import sqlite3
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.mapping.contract import Rejected, StoredValue
from pipeline.move.ledger import quarantine
from pipeline.postgres.target import Target
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import plain_key_source
from pipeline_tests.support.targets import new_database, query, reasons


@dataclass(frozen=True)
class Text:
    """TEXT of any bytes, which Python's driver cannot bind."""

    data: bytes


KINDS = {
    "number": sa.Integer(),
    "flag": sa.Boolean(),
    "score": sa.Numeric(3, 2),
    "weight": sa.Double(),
    "word": sa.String(5),
    "doc": JSONB(),
    "moment": sa.DateTime(timezone=True),
    "body": sa.LargeBinary(),
}
THING = sa.Table(
    "thing",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    *(sa.Column(name, kind) for name, kind in KINDS.items()),
    sa.Column("refused", sa.Integer, nullable=False),
)
DDL = f"CREATE TABLE thing (id INTEGER PRIMARY KEY, {', '.join(KINDS)}, refused)"


def write(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Make a database with these rows; what is bound stays of its storage class."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(DDL)
        for row in rows:
            marks = ", ".join("CAST(? AS TEXT)" if isinstance(v, Text) else "?" for v in row)
            plain = [v.data if isinstance(v, Text) else v for v in row]
            connection.execute(f"INSERT INTO thing VALUES ({marks})", plain)


def read(path: Path) -> list[list[tuple[str, Any]]]:
    """All rows, every value as its storage class and its bytes."""
    columns = ", ".join(f"typeof({name}), {name}" for name in ("id", *KINDS, "refused"))
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        rows = connection.execute(f"SELECT {columns} FROM thing ORDER BY id").fetchall()
    return [
        [
            (storage.decode(), struct.pack(">d", v) if isinstance(v, float) else v)
            for storage, v in zip(row[::2], row[1::2], strict=True)
        ]
        for row in rows
    ]


def restored(stored: StoredValue) -> Any:
    """The value that quarantine keeps, as it is bound."""
    value = stored.value
    if value is None:
        assert stored.storage == "null"
        return None
    match stored.storage:
        case "integer":
            return int(value)
        case "real":
            return struct.unpack(">d", value)[0]
        case "text":
            return Text(value)
    assert stored.storage == "blob"
    return value


def kept(url: str, table: str) -> list[Rejected]:
    """What is in quarantine."""
    with Target.connect(url, shown="the target") as target:
        return quarantine.read(target, table)


@pytest.fixture(scope="module")
def url(server: URL) -> Iterator[str]:
    """One database for all examples of the round trip."""
    with new_database(server, "quarantine") as made:
        yield libpq(made)


texts = st.one_of(
    st.text(max_size=20).map(str.encode),
    st.sampled_from(
        [b"", b"\0", b"a\0b\0", b"nan", b"NaN", b"-Infinity", b"1e999", b"0x10", b"1.0"]
    ),
    st.sampled_from([b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80\0"]),
    st.binary(max_size=10),
)
stored_values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([2**63 - 1, -(2**63), 2**53 + 1, 0]),
    st.floats(allow_nan=False),
    st.sampled_from([-0.0, 1.0, 5e-324, 1e-320, 1.7976931348623157e308, float("inf"), -(2.0**63)]),
    texts.map(Text),
    st.binary(max_size=30),
)
EVERYTHING = [None, 2**63 - 1, -(2**63), -0.0, 5e-324, float("-inf"), Text(b"a\0b"), Text(b"\xff")]


@settings(max_examples=8, phases=[Phase.explicit, Phase.generate, Phase.shrink])
@given(
    rows=st.lists(st.lists(stored_values, min_size=len(KINDS), max_size=len(KINDS)), max_size=12),
    fault=st.sampled_from([None, Text(b"x"), b"1", 0.5]),
)
@example(rows=[[value] * len(KINDS) for value in EVERYTHING], fault=None)
@example(rows=[[b"", Text(b""), b"\0" * 100, Text(b"NaN"), 1e308, 1.0, 1, None]], fault=b"1")
def test_a_row_can_be_rebuilt_from_quarantine_bit_by_bit(
    url: str, rows: list[list[Any]], fault: Any
) -> None:
    query(url, "DROP TABLE IF EXISTS thing; DROP SCHEMA IF EXISTS migration CASCADE")
    with tempfile.TemporaryDirectory() as folder:
        source, copy = Path(folder) / "source.db", Path(folder) / "copy.db"
        write(source, [[at, *row, fault] for at, row in enumerate(rows, 1)])
        moved = move_all(source, url, tables=[THING])["thing"]
        rejected = kept(url, "thing")
        write(copy, [[restored(value) for value in row.values] for row in rejected])
        assert (moved.moved_rows, moved.quarantined_rows) == (0, len(rows))
        assert read(copy) == read(source)
    assert all(row.row_id == row.key == str(row.values[0].value, "ascii") for row in rejected)


BAD_KEYS = {
    "sound": "'b', 'x'",
    "with NUL": "CAST(x'620063' AS TEXT), 1",
    "of invalid UTF-8": "CAST(x'ff' AS TEXT), 1",
    "NULL": "NULL, 1",
    "BLOB": "x'62', 1",
    "twice": "'a', 1",
}


@pytest.mark.parametrize("ddl", ["id TEXT PRIMARY KEY, n", "id, n", "id NOT NULL PRIMARY KEY, n"])
@pytest.mark.parametrize("bad", BAD_KEYS)
def test_a_row_of_a_table_with_a_text_key_can_be_rejected(
    url: str, tmp_path: Path, ddl: str, bad: str
) -> None:
    without_rowid = "NOT NULL" in ddl
    if (bad == "twice" and "PRIMARY KEY" in ddl) or (bad == "NULL" and without_rowid):
        pytest.skip("SQLite does not take such a row")
    query(url, "DROP TABLE IF EXISTS word; DROP SCHEMA IF EXISTS migration CASCADE")
    word = sa.Table("word", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True))
    word.append_column(sa.Column("n", sa.Integer))
    ddl = f"CREATE TABLE word ({ddl}){' WITHOUT ROWID' if without_rowid else ''}"
    source = SourceFile.make(tmp_path / "source.db", ddl)
    source.run(f"INSERT INTO word VALUES ('a', 1), ('z', 2), ({BAD_KEYS[bad]})")
    move_all(source.path, url, tables=[word])
    gone = {"a"} if bad == "twice" else set()
    assert {key for (key,) in query(url, "SELECT id FROM word")} == {"a", "z"} - gone
    assert len(kept(url, "word")) == 1 + len(gone)


def seen(url: str) -> list[tuple[Any, ...]]:
    """Quarantine with the transactions that wrote it."""
    return query(
        url,
        "SELECT q.xmin::text, q.*, v.xmin::text, v.column_name, v.storage, v.value::text"
        " FROM migration.quarantine q JOIN migration.quarantine_values v USING (table_name, row_id)"
        " ORDER BY q.table_name, q.row_id, v.position",
    )


@pytest.fixture
def family(source: SourceFile) -> SourceFile:
    """Three families; content 2 is too long, asset 1 is no BLOB, ranking 1 is above 5."""
    source.add_family(contents=3)
    source.run("UPDATE learning_content SET language = 'much too long' WHERE id = 2")
    source.run("UPDATE fragment_assets SET asset_data = 'text' WHERE id = 1")
    source.run("UPDATE rankings SET rank_score = 7 WHERE id = 1")
    return source


HELD = {
    "learning_content": {"2": {"length"}},
    "content_fragments": {"3": {"held"}, "4": {"held"}},
    "fragment_assets": {"1": {"type"}, "3": {"held"}, "4": {"held"}},
    "rankings": {"1": {"check"}, "2": {"held"}, **{str(r): {"held"} for r in (5, 6, 7, 8)}},
}


def all_reasons(url: str) -> dict[str, dict[str, set[str]]]:
    """Reason codes by table and key."""
    return {table: found for table in HELD if (found := reasons(url, table))}


def test_children_of_rejected_rows_are_held(family: SourceFile, target_url: str) -> None:
    move_all(family.path, target_url)
    assert all_reasons(target_url) == HELD


def test_a_row_that_nobody_is_the_parent_of_is_an_orphan(
    family: SourceFile, target_url: str
) -> None:
    family.run("UPDATE rankings SET fragment_id = 99, asset_id = 3 WHERE id = 12")
    family.run("UPDATE rankings SET fragment_id = 99 WHERE id = 1")
    move_all(family.path, target_url)
    orphans = {"12": {"orphan", "held"}, "1": {"check", "orphan"}}
    assert all_reasons(target_url) == {**HELD, "rankings": {**HELD["rankings"], **orphans}}


def test_quarantine_that_stays_is_not_touched(family: SourceFile, target_url: str) -> None:
    move_all(family.path, target_url, run_id="first")
    before = seen(target_url)
    assert {row[1:3] for row in before} == {(t, key) for t in HELD for key in HELD[t]}
    moves = move_all(family.path, target_url, run_id="second")
    assert {move.strategy for move in moves.values()} == {"unchanged"}
    assert seen(target_url) == before


def test_a_row_that_changes_but_stays_rejected_is_replaced(
    family: SourceFile, target_url: str
) -> None:
    move_all(family.path, target_url, run_id="first")
    before = seen(target_url)
    family.run("UPDATE learning_content SET title = 'new' WHERE id = 2")
    family.run("UPDATE rankings SET fragment_id = 99 WHERE id = 1")
    move_all(family.path, target_url, run_id="second")
    after = seen(target_url)
    replaced = [("learning_content", "2"), ("rankings", "1")]
    assert [row for row in after if row[1:3] not in replaced] == [
        row for row in before if row[1:3] not in replaced
    ]
    runs = query(
        target_url, "SELECT table_name, row_id FROM migration.quarantine WHERE run_id = 'second'"
    )
    assert sorted(runs) == replaced
    (content,) = kept(target_url, "learning_content")
    assert StoredValue("title", "text", b"new") in content.values
    assert reasons(target_url, "rankings")["1"] == {"check", "orphan"}


def test_a_row_whose_reasons_change_is_replaced_though_its_values_do_not(
    family: SourceFile, target_url: str
) -> None:
    move_all(family.path, target_url, run_id="first")
    family.run("DELETE FROM content_fragments WHERE id = 3")
    move_all(family.path, target_url, run_id="second")
    found = query(
        target_url, "SELECT table_name, row_id FROM migration.quarantine WHERE run_id = 'second'"
    )
    assert sorted(found) == [("fragment_assets", "3"), ("rankings", "5"), ("rankings", "6")]
    assert reasons(target_url, "fragment_assets")["3"] == {"orphan"}
    assert reasons(target_url, "rankings")["6"] == {"orphan", "held"}


def test_a_mended_parent_arrives_with_all_that_it_held(family: SourceFile, target_url: str) -> None:
    move_all(family.path, target_url)
    family.run("UPDATE learning_content SET language = 'thai' WHERE id = 2")
    moves = move_all(family.path, target_url)
    assert {name: move.written_rows for name, move in moves.items()} == {
        "learning_content": 1,
        "content_fragments": 2,
        "fragment_assets": 2,
        "rankings": 4,
    }
    assert all_reasons(target_url) == {
        "fragment_assets": {"1": {"type"}},
        "rankings": {"1": {"check"}, "2": {"held"}},
    }


def test_a_mended_row_leaves_quarantine_and_arrives(family: SourceFile, target_url: str) -> None:
    move_all(family.path, target_url)
    family.run("UPDATE fragment_assets SET asset_data = x'01' WHERE id = 1")
    family.run("UPDATE rankings SET rank_score = 5 WHERE id = 1")
    move_all(family.path, target_url)
    assert [
        bytes(data)
        for (data,) in query(target_url, "SELECT asset_data FROM fragment_assets WHERE id = 1")
    ] == [b"\1"]
    assert [
        id_ for (id_,) in query(target_url, "SELECT id FROM rankings WHERE id < 3 ORDER BY id")
    ] == [1, 2]
    still = {
        "fragment_assets": {key: HELD["fragment_assets"][key] for key in ("3", "4")},
        "rankings": {str(r): {"held"} for r in (5, 6, 7, 8)},
    }
    assert all_reasons(target_url) == {**HELD, **still}


def test_rows_deleted_from_the_source_leave_quarantine(family: SourceFile, target_url: str) -> None:
    move_all(family.path, target_url)
    family.run("DELETE FROM rankings WHERE id IN (1, 5)")
    move_all(family.path, target_url)
    left = {key: codes for key, codes in HELD["rankings"].items() if key not in ("1", "5")}
    assert reasons(target_url, "rankings") == left
    (values,) = query(
        target_url,
        "SELECT count(DISTINCT row_id) FROM migration.quarantine_values"
        " WHERE table_name = 'rankings'",
    )
    assert values == (len(left),)


def test_a_row_that_goes_bad_moves_from_the_target_to_quarantine(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=3)
    move_all(source.path, target_url)
    assert all_reasons(target_url) == {}
    source.run("UPDATE rankings SET rank_score = 7 WHERE id = 1")
    source.run("UPDATE rankings SET created_at = 'never' WHERE id = 2")
    move_all(source.path, target_url)
    assert query(target_url, "SELECT min(id), count(*) FROM rankings") == [(3, 10)]
    assert all_reasons(target_url) == {"rankings": {"1": {"check"}, "2": {"date"}}}


def test_a_parent_that_goes_bad_takes_its_children_with_it(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=3)
    move_all(source.path, target_url)
    source.run("UPDATE learning_content SET language = 'much too long' WHERE id = 2")
    move_all(source.path, target_url, delete_share=0.5)
    children = {
        "learning_content": {"2": {"length"}},
        "content_fragments": {"3": {"held"}, "4": {"held"}},
        "fragment_assets": {"3": {"held"}, "4": {"held"}},
        "rankings": {str(r): {"held"} for r in (5, 6, 7, 8)},
    }
    assert all_reasons(target_url) == children
    move_all(source.path, target_url, delete_share=0.5)
    assert all_reasons(target_url) == children
    source.run("UPDATE learning_content SET language = 'thai' WHERE id = 2")
    move_all(source.path, target_url)
    assert all_reasons(target_url) == {}
    assert query(target_url, "SELECT count(*) FROM rankings") == [(12,)]


@pytest.mark.parametrize("table", ["learning_content", "rankings"])
@pytest.mark.parametrize("bad", [2**31, 2**40, 2**63 - 1, -(2**31) - 1])
def test_an_id_that_does_not_fit_is_rejected_and_the_next_id_stays_usable(
    source: SourceFile, target_url: str, table: str, bad: int
) -> None:
    source.add_family(contents=1)
    source.add(table, {"id": bad})
    move_all(source.path, target_url)
    assert reasons(target_url, table) == {str(bad): {"range"}}
    ((following,),) = query(target_url, f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))")
    assert following < 100


def test_a_row_that_shares_its_key_keeps_its_other_reasons(tmp_path: Path, target_url: str) -> None:
    source = plain_key_source(tmp_path / "plain.db")
    source.add("learning_content", {"id": 1}, {"id": 2}, {"id": 2, "tags": "no json"})
    move_all(source.path, target_url)
    assert query(
        target_url,
        "SELECT row_id, r->>'code' FROM migration.quarantine, jsonb_array_elements(reasons) AS r"
        " ORDER BY 1, 2",
    ) == [("2", "duplicate_key"), ("3", "duplicate_key"), ("3", "json")]
