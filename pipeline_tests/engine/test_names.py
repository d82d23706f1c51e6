"""Names are data: tables and columns that are declared with the worst ones move like any other."""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.declared.rules import TableRules
from pipeline.migrations.declaration import NAMES
from pipeline.move.ledger import overrides, quarantine, unmanaged_rows, watermarks
from pipeline.move.proof.verification import Sample, verify_table
from pipeline.move.reading.prepare import prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.run.plan import plan_tables
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking
from pipeline.sqlite.snapshot import take_snapshot
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import did
from pipeline_tests.support.targets import query

EVIL = """x"'; DROP--"""
PARENTS = [EVIL, "plain", "up.per", "a b\n%s:c", "$1", "ก้ิ\u202e", "select"]


def declared(name: str) -> sa.MetaData:
    """A parent and a child whose names, and those of their columns, are of one kind."""
    made = sa.MetaData(naming_convention=NAMES)
    sa.Table(
        name,
        made,
        sa.Column(f"k{name}", sa.Integer, primary_key=True),
        sa.Column(f"v{name}", sa.Text, nullable=False),
        sa.Column(f"at{name}", sa.DateTime(timezone=True)),
        sa.Index(f"i{name}", f"v{name}"),
        info=TableRules(changed_by=f"at{name}", description="d").info,
    )
    number = sa.Column(f"n{name}", sa.Numeric(3, 1))
    sa.Table(
        f"c{name}",
        made,
        sa.Column(f"k{name}", sa.Integer, primary_key=True),
        sa.Column(f"p{name}", sa.ForeignKey(made.tables[name].c[f"k{name}"], ondelete="CASCADE")),
        number,
        sa.Column(f"b{name}", sa.LargeBinary),
        sa.CheckConstraint(number >= 0, name="low"),
        info=TableRules("d").info,
    )
    return made


def q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize(
    ("name", "tracked"),
    [(name, at % 2 == 0) for at, name in enumerate(PARENTS)],
    ids=ascii,
)
def test_any_name_moves_follows_is_checked_and_mended(
    name: str, tracked: bool, tmp_path: Path, target_url: str
) -> None:
    metadata = declared(name)
    tables = metadata.sorted_tables
    parent, child = (q(table.name) for table in tables)
    source = SourceFile.make(
        tmp_path / "s.db",
        f"CREATE TABLE {parent} ({q('k' + name)} INTEGER PRIMARY KEY, {q('v' + name)} TEXT,"
        f" {q('at' + name)} TEXT); CREATE TABLE {child} ({q('k' + name)} INTEGER PRIMARY KEY,"
        f" {q('p' + name)} INTEGER, {q('n' + name)} REAL, {q('b' + name)} BLOB,"
        f" {q('e' + name)} BLOB)",
    )
    query(target_url, "CREATE TABLE bystander (id int)")
    day = "2025-01-01 00:00:00"
    source.run(f"INSERT INTO {parent} VALUES (1, ?, ?), (2, NULL, ?)", (EVIL, day, day))
    source.run(
        f"INSERT INTO {child} VALUES (1, 1, 2.25, x'00', x'aa'), (2, 2, 1, x'01', NULL),"
        " (3, 1, -1, NULL, NULL), (4, 1, 1, NULL, NULL)"
    )
    if tracked:
        tracking.switch_on(source.path, tables)
    moves = move_all(source.path, target_url, tables=tables)
    assert [move.moved_rows for move in moves.values()] == [1, 2]
    assert [move.quarantined_rows for move in moves.values()] == [1, 2]

    source.run(f"UPDATE {parent} SET {q('v' + name)} = 'new', {q('at' + name)} = '2026-01-01'")
    source.run(f"DELETE FROM {child} WHERE {q('k' + name)} = 4")
    moves = sync_all(source.path, target_url, tables=tables, delete_share=1)
    assert did(moves) == {tables[0].name: (2, 0, 0), tables[1].name: (1, 1, 0)}
    assert query(target_url, f"SELECT {q('v' + name)} FROM {parent}") == [("new",), ("new",)]

    with (
        tempfile.TemporaryDirectory() as folder,
        Target.connect(target_url, shown="the target") as target,
    ):
        opened = SourceView(take_snapshot(source.path, Path(folder) / "s.db", tables=tables))
        with target.read_only():
            for table in tables:
                found = verify_table(
                    prepare(table, opened),
                    source=opened,
                    target=target,
                    sample=Sample(2**30, 1),
                )
                blocking = [c for c in found if c.blocking and not c.passed]
                assert blocking == []
        assert [plan.obstacle for plan in plan_tables(tables, source=opened, target=target)] == [
            None,
            None,
        ]
        assert unmanaged_rows.unmanaged(target.rows, [table.name for table in tables]) == {}
        (row,) = quarantine.read(target, tables[1].name)
        assert row.key == "3"
        records = list(overrides.export(target, [tables[1]]))
        (record,) = [r for r in records if r["column"] == f"n{name}"]
        with target.transaction():
            assert overrides.import_overrides(target, [{**record, "value": "1.5"}]) == 1
    moves = move_all(source.path, target_url, tables=tables)
    assert moves[tables[1].name].quarantined_rows == 0
    with Target.connect(target_url, shown="the target") as target:
        assert overrides.forget(target, tables[1].name) == 1
        assert watermarks.read(target, tables[1].name) is None
        assert unmanaged_rows.unmanaged(target.rows, [tables[1].name]) == {}
    if tracked:
        assert tracking.switch_off(source.path)
    with closing(sqlite3.connect(source.path)) as connection:
        triggers = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger'"
        assert connection.execute(triggers).fetchone() == (0,)
    assert query(target_url, "SELECT count(*) FROM bystander") == [(0,)]
