"""A source that an attacker has made runs nothing, ends nothing, and is told in a sentence."""

import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError, SourceError
from pipeline.core.policies import DEFAULT, Policies
from pipeline.doctor import source as source_doctor
from pipeline.mapping.contract import Rejected
from pipeline.migrations.content import metadata
from pipeline.move.reading.batch_converter import BatchConverter
from pipeline.move.reading.pinned_source import pinned
from pipeline.move.reading.prepare import prepare, surveyed
from pipeline.move.reading.source_view import SourceView
from pipeline.sqlite import opening, tracking
from pipeline.sqlite.snapshot import take_snapshot
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.targets import query, reasons

TABLES = metadata.sorted_tables
SENTENCES = re.compile(r"[A-Z\w].*\. [A-Z].*\.", re.S)
PAGE = 512


def read_all(path: Path, folder: Path, policies: Policies = DEFAULT) -> list[Rejected]:
    """Read a source as a move does, as far as no target is needed; what would be rejected."""
    source = SourceView(take_snapshot(path, folder / "copy.db", tables=TABLES, busy_seconds=1))
    found: list[Rejected] = []
    for table in TABLES:
        prepared = prepare(table, source, policies)
        converter = BatchConverter(source, prepared.mapping, prepared.contract, prepared.survey)
        for _ in converter:
            pass
        with source.sqlite() as connection:
            found += prepared.contract.explain(
                connection,
                sorted(converter.rejected),
                row_id_column=source.row_id_column(prepared.mapping),
                held={parent.name: set() for _, parent in prepared.mapping.parents},
                known={},
            )
    return found


def follow_all(path: Path, folder: Path) -> None:
    """Read a source as a sync does, as far as no target is needed."""
    with pinned(path, folder, tables=TABLES, busy_seconds=1) as live:
        for table in TABLES:
            mapping = live.match(table)
            live.position(table)
            versions = live.take_versions(mapping)
            surveyed(mapping.version_mapping, versions)
            live.take_rows(mapping, keys=list(range(50)), row_ids=[])
            prepared = surveyed(mapping, live)
            for _ in BatchConverter(live, mapping, prepared.contract, prepared.survey):
                pass


def refused(path: Path, folder: Path) -> str:
    """What is said of a source, by a move and by a sync alike."""
    said = []
    for read in (read_all, follow_all):
        with pytest.raises(SourceError) as caught:
            read(path, folder)
        assert SENTENCES.fullmatch(str(caught.value)), str(caught.value)
        said.append(caught.value.problem)
    assert said[0] == said[1]
    return said[0]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@pytest.fixture
def sound(tmp_path: Path) -> bytes:
    """A small file of many pages."""
    made = SourceFile.make(tmp_path / "sound.db", f"PRAGMA page_size = {PAGE};" + CONTENT_DDL)
    made.add_family(contents=6)
    made.run("UPDATE fragment_assets SET asset_data = randomblob(3000) WHERE id % 3 = 0")
    tracking.switch_on(made.path, TABLES)
    made.run("UPDATE rankings SET assessed_by = 'x'")
    return made.path.read_bytes()


# Pages that are not what they should be.


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 40))):
        data[rng.randrange(100, len(data))] ^= 1 << rng.randrange(8)


def flip_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(3):
        data[rng.randrange(16, 112)] = rng.randrange(256)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data) // PAGE) * PAGE :]


def swap(data: bytearray, rng: random.Random) -> None:
    a, b = (PAGE * rng.randrange(1, len(data) // PAGE) for _ in range(2))
    data[a : a + PAGE], data[b : b + PAGE] = data[b : b + PAGE], data[a : a + PAGE]


def alias(data: bytearray, rng: random.Random) -> None:
    """Pages that are copies of each other, so that trees share branches or run in circles."""
    for _ in range(4):
        a, b = (PAGE * rng.randrange(1, len(data) // PAGE) for _ in range(2))
        data[a : a + PAGE] = data[b : b + PAGE]


def misdirect(data: bytearray, rng: random.Random) -> None:
    """Every pointer of some inner pages goes to one and the same page, maybe to itself."""
    inner = [at for at in range(PAGE, len(data), PAGE) if data[at] in (2, 5)]
    for at in rng.sample(inner, min(3, len(inner))):
        to = rng.randrange(1, len(data) // PAGE).to_bytes(4, "big")
        data[at + 8 : at + 12] = to
        for cell in range(int.from_bytes(data[at + 3 : at + 5], "big")):
            place = int.from_bytes(data[at + 12 + 2 * cell : at + 14 + 2 * cell], "big")
            if place + 4 <= PAGE:
                data[at + place : at + place + 4] = to


def forge_roots(data: bytearray, rng: random.Random) -> None:
    """Tables whose root is another table's, an overflow page, or none at all."""
    for at in [m.start() for m in re.finditer(b"rankings|fragment_assets", bytes(data[:8192]))]:
        end = at + len(b"fragment_assets")
        data[end] = rng.randrange(256)


FAULTS = [flip, flip_header, cut, swap, alias, misdirect, forge_roots]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_spoiled_file_is_read_or_refused_in_a_sentence(
    fault: Callable[[bytearray, random.Random], None], sound: bytes, tmp_path: Path
) -> None:
    path, said = tmp_path / "spoiled.db", 0
    for seed in range(12):
        data = bytearray(sound)
        fault(data, random.Random(f"{fault.__name__} {seed}"))
        path.write_bytes(data)
        for read in (read_all, follow_all):
            with within(10):
                try:
                    read(path, tmp_path)
                except PipelineError as error:
                    said += 1
                    assert SENTENCES.fullmatch(str(error)), str(error)
        with within(10):
            assert list(source_doctor.examine(path, snapshots=tmp_path, tables=TABLES))
    assert said


def test_trees_whose_branches_are_one_and_the_same_page_do_not_go_on_for_ever(
    sound: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "circles.db"
    path.write_bytes(sound)
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'rankings'"
        root = connection.execute(query).fetchone()[0]
    at = PAGE * (root - 1)
    assert sound[at] == 5
    leaf = int.from_bytes(sound[at + 8 : at + 12], "big")
    # 12 levels, each with 60 branches, and every branch is the next level.
    data, levels = bytearray(sound), 12
    first = len(data) // PAGE + 1
    for level in range(levels):
        below = first + level + 1 if level < levels - 1 else leaf
        cells = b"".join(below.to_bytes(4, "big") + b"\x05" for _ in range(60))
        pointers = b"".join((PAGE - 5 * (at + 1)).to_bytes(2, "big") for at in range(60))
        head = b"\x05\0\0" + (60).to_bytes(2, "big") + (PAGE - len(cells)).to_bytes(2, "big")
        page = head + b"\0" + below.to_bytes(4, "big") + pointers
        data += page.ljust(PAGE - len(cells), b"\0") + cells
    data[PAGE * (root - 1) : PAGE * root] = data[PAGE * (first - 1) : PAGE * first]
    data[28:32] = (len(data) // PAGE).to_bytes(4, "big")
    path.write_bytes(data)
    for read in (read_all, follow_all):
        with within(5), pytest.raises(SourceError):
            read(path, tmp_path)
    with within(5):
        found = {s.name: s for s in source_doctor.examine(path, snapshots=tmp_path, tables=TABLES)}
    assert found["integrity"].state == "error"
    assert "foreign keys" not in found


# Schemas that would act, or take what there is of time and memory.


def rewrite(path: Path, old: str, new: str) -> None:
    """Change a table's definition past SQLite's own judgement."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ?, ?)", (old, new))


COMPUTED = {
    "loads a library": ("load_extension('/tmp/evil')", 30.0, "malformed database schema"),
    "is a bomb": ("zeroblob(900000000)", 30.0, "MemoryError"),
    "is a bomb in small pieces": ("zeroblob(1000000)", 30.0, "they are too large"),
    "goes on for ever": (
        "replace(hex(zeroblob(5000000)), hex(zeroblob(2000000)) || '1', '')",
        0.5,
        "they take longer than 0.5 s",
    ),
    "is no SQL": ("nosuchfunction(1)", 30.0, "nosuchfunction"),
}


@pytest.mark.parametrize("what", COMPUTED)
def test_columns_that_compute_what_they_should_not_are_refused(
    what: str, source: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add_family(contents=2)
    expression, seconds, words = COMPUTED[what]
    monkeypatch.setattr(opening, "COMPUTING_SECONDS", seconds)
    with closing(sqlite3.connect(source.path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = substr(sql, 1, length(sql) - 1) || ?"
            " WHERE name = 'rankings'",
            (f", e AS ({expression}))",),
        )
    with within(10):
        said = refused(source.path, tmp_path)
    assert words in said


def test_columns_that_compute_little_move(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=1)
    source.run("ALTER TABLE rankings ADD COLUMN twice FLOAT AS (rank_score * 2)")
    move_all(source.path, target_url)
    assert query(target_url, "SELECT DISTINCT twice FROM rankings") == [(9.0,)]


def test_triggers_checks_and_views_of_the_source_are_not_run(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    source.run(
        "CREATE TRIGGER evil BEFORE UPDATE ON rankings BEGIN SELECT load_extension('/tmp/evil');"
        " DELETE FROM rankings; END"
    )
    source.run("CREATE VIEW everything AS SELECT load_extension('/tmp/evil') FROM rankings")
    rewrite(source.path, "rank_score FLOAT", "rank_score FLOAT CHECK (load_extension('/tmp/e'))")
    assert move_all(source.path, target_url)["rankings"].moved_rows == 4
    opened = SourceView(take_snapshot(source.path, tmp_path / "copy.db", tables=TABLES))
    with opened.writable([]) as connection:
        connection.execute("UPDATE rankings SET rank_score = 1")
    assert query(target_url, "SELECT count(*) FROM rankings") == [(4,)]
    with opened.sqlite() as connection:
        assert connection.execute("SELECT sum(rank_score) FROM rankings").fetchone() == (4.0,)


def test_a_virtual_table_in_the_place_of_a_table_is_no_table(
    source: SourceFile, tmp_path: Path
) -> None:
    source.run("DROP TABLE rankings")
    source.run("CREATE VIRTUAL TABLE rankings USING fts5(id, fragment_id, asset_id, rank_score)")
    assert "is a virtual table" in refused(source.path, tmp_path)


ILL_NAMED = {
    "a system column": ['"ctid"'],
    "a name that is too long": ['"' + "ก" * 22 + '"'],
    "more than a table has room for": [f'"c{at}"' for at in range(1200)],
    "names of its rows": ['"rowid"', '"_rowid_"', '"oid"'],
}


@pytest.mark.parametrize("what", ILL_NAMED)
def test_columns_that_no_target_can_have_are_named(
    what: str, tmp_path: Path, target_url: str
) -> None:
    columns = ", ".join(ILL_NAMED[what])
    ddl = CONTENT_DDL.replace("rank_score FLOAT", f"rank_score FLOAT, {columns}")
    ddl = ddl.replace("rankings (id INTEGER NOT NULL PRIMARY KEY", "rankings (id INTEGER NOT NULL")
    source = SourceFile.make(tmp_path / "s.db", ddl)
    source.add("rankings", {"fragment_id": None, "id": 1})
    with pytest.raises(SourceError) as caught:
        move_all(source.path, target_url)
    assert "rankings of the source has" in caught.value.problem
    assert SENTENCES.fullmatch(str(caught.value))


def test_many_columns_with_names_that_would_be_sql_are_carried(
    tmp_path: Path, target_url: str
) -> None:
    hostile = [
        '"; DROP TABLE rankings; --',
        "a\nb",
        "\x1b[31m",
        "%s",
        "titlе",
        "$1",
        "'||x||'",
        "?",
    ]
    names = hostile + [f"c{at}" for at in range(300)]
    listed = ", ".join('"' + name.replace('"', '""') + '" TEXT' for name in names)
    ddl = CONTENT_DDL.replace("rank_score FLOAT", f"rank_score FLOAT, {listed}")
    source = SourceFile.make(tmp_path / "s.db", ddl)
    source.add_family(contents=1)
    source.run(
        "UPDATE rankings SET " + ", ".join('"' + n.replace('"', '""') + "\" = 'v'" for n in names)
    )
    source.add("rankings", {"id": 99, "rank_score": 9})
    with within(20):
        moves = move_all(source.path, target_url)
        assert sync_all(source.path, target_url)["rankings"].quarantined_rows == 1
        sync_all(source.path, target_url)
    assert moves["rankings"].moved_rows == 4
    assert reasons(target_url, "rankings") == {"99": {"check"}}
    there = query(
        target_url,
        "SELECT attname FROM pg_attribute WHERE attrelid = 'rankings'::regclass AND attnum > 8",
    )
    assert {name for (name,) in there} == set(names)


def test_names_that_are_the_pipelines_own_do_no_harm(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=1)
    for name in ("held learning_content", "versions0", "live", "pipeline_stage", "sqlite"):
        source.run(f'CREATE TABLE "{name}" (key)')
    source.run('CREATE INDEX "pipeline key of rankings" ON rankings(id)')
    move_all(source.path, target_url)
    source.add("rankings", {"id": 50, "updated_at": "2026-01-01 00:00:00"})
    assert sync_all(source.path, target_url)["rankings"].written_rows == 1


# Values and files that are too large, and what lies beside a file.


def test_a_row_that_is_too_large_is_told_before_it_takes_the_memory(
    source: SourceFile, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    source.run("UPDATE fragment_assets SET asset_data = zeroblob(3000000) WHERE id = 2")
    read_all(source.path, tmp_path, replace(DEFAULT, max_value_bytes=3_001_000))
    with pytest.raises(SourceError) as caught:
        read_all(source.path, tmp_path, replace(DEFAULT, max_value_bytes=2_000_000))
    assert "fragment_assets of the source has a row of 3,000," in caught.value.problem
    assert "MAX_VALUE_BYTES" in caught.value.remedy


def test_a_sparse_file_that_no_disk_holds_is_not_copied(source: SourceFile, tmp_path: Path) -> None:
    source.add_family(contents=1)
    os.truncate(source.path, 2**43)
    with pytest.raises(SourceError, match=r"needs [\d]+ MiB"), within(5):
        read_all(source.path, tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 50_000])
def test_json_of_any_depth_moves_or_is_rejected(
    text: str, source: SourceFile, target_url: str
) -> None:
    source.add("learning_content", {"id": 1, "tags": text}, {"id": 2})
    with within(20):
        move = move_all(source.path, target_url)["learning_content"]
    assert move.moved_rows + move.quarantined_rows == 2
    assert move.moved_rows >= 1


@pytest.mark.parametrize("suffix", ["-wal", "-journal", "-shm"])
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_forged_file_beside_the_source_is_passed_over_or_told(
    suffix: str, journal: str, source: SourceFile, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    source.run(f"PRAGMA journal_mode = {journal}")
    before = source.path.read_bytes()
    beside = source.path.with_name(source.path.name + suffix)
    magic = {
        "-wal": bytes.fromhex("377f0682002de218"),
        "-journal": bytes.fromhex("d9d505f920a163d7"),
    }
    for seed in range(3):
        beside.write_bytes(magic.get(suffix, b"") + random.Random(seed).randbytes(5000))
        with within(10):
            try:
                assert read_all(source.path, tmp_path) == []
            except SourceError as error:
                assert SENTENCES.fullmatch(str(error))
        assert source.path.read_bytes() == before
