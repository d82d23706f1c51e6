"""What a plan and doctor say of the room that a move needs on the target's disk."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from bench.proxy import relay
from bench.workloads import MAKERS
from pipeline.config.settings import libpq
from pipeline.doctor import target as target_doctor
from pipeline.doctor.diagnostics import Diagnostic
from pipeline.migrations.content import metadata
from pipeline.move.run.disk_space import DiskNeed, TargetDisk
from pipeline.move.run.plan import plan_tables
from pipeline.move.run.views import SourceViews
from pipeline.postgres.target import Target
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query

TABLES = metadata.sorted_tables
TOTAL = (
    "SELECT sum(pg_table_size(oid))::bigint, sum(pg_indexes_size(oid))::bigint FROM pg_class"
    " WHERE relname = ANY(%s)"
)
HUGE = 2**50


def planned(path: Path, url: str, folder: Path) -> DiskNeed:
    """What the plans of all tables add up to."""
    with (
        Target.connect(url, shown="the target") as target,
        SourceViews(lambda: path, folder / "runs", name="plan") as views,
    ):
        plans = plan_tables(TABLES, source=views.copy(TABLES, target=target), target=target)
    return sum((plan.disk_need for plan in plans), DiskNeed())


@pytest.mark.parametrize("workload", ["rows", "blobs"])
def test_the_estimate_is_near_what_a_move_takes(
    workload: str, target_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "source.db"
    MAKERS[workload](path, 0.02)
    room = planned(path, target_url, tmp_path)
    whole = DiskNeed.of_file(path.stat().st_size, existing=0)
    ((before,),) = query(target_url, "SELECT pg_current_wal_insert_lsn()::text")
    move_all(path, target_url)
    ((wal,),) = query(
        target_url, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)::bigint", (before,)
    )
    ((tables, indexes),) = query(target_url, TOTAL, ([table.name for table in TABLES],))
    assert 0.9 < room.tables / tables < 1.35
    # Few rows leave most of their pages empty.
    assert 0.9 < (room.tables + room.indexes) / (tables + indexes) < 1.35
    assert 0.8 < room.wal / int(wal) < 1.5
    assert 0.8 < whole.tables / (tables + indexes) < 1.4
    # What is there need not be added.
    assert planned(path, target_url, tmp_path) == DiskNeed()


def disk_space(url: URL, *, bytes_needed: int) -> Diagnostic:
    found = target_doctor.examine(url, tables=TABLES, bytes_needed=bytes_needed)
    (last,) = [each for each in found if each.name == "disk space"]
    return last


def test_doctor_warns_only_where_the_disk_is_known_to_be_too_small(
    database: URL, target_url: str, source: SourceFile
) -> None:
    near = disk_space(database, bytes_needed=2**20)
    assert near.state == "ok"
    assert "a move adds about 1.3 MiB of tables, 1.3 MiB of write-ahead log;" in near.detail
    assert re.search(r" [KMGT]iB free$", near.detail)
    small = disk_space(database, bytes_needed=HUGE)
    assert (small.state, small.remedy) == ("warning", "Free up disk space on the server")
    # By an address, the server may be anywhere.
    with relay(database) as far:
        unknown = disk_space(far.url, bytes_needed=HUGE)
    assert unknown.state == "ok"
    assert unknown.detail.endswith("the free space on the server is unknown")
    source.add_family(contents=2)
    move_all(source.path, target_url)
    assert "a move adds about nothing" in disk_space(database, bytes_needed=1000).detail


def test_free_space_is_not_known_to_a_user_who_may_not_see_the_folder(
    database: URL, target_url: str
) -> None:
    query(target_url, "CREATE ROLE unseeing LOGIN")
    try:
        unseeing = database.set(username="unseeing")
        with Target.connect(libpq(unseeing), shown="x") as target:
            assert TargetDisk.of(target.rows, unseeing).free is None
    finally:
        query(target_url, "DROP ROLE unseeing")


@pytest.mark.dagster
def test_a_plan_prints_the_room(source: SourceFile, target_url: str, tmp_path: Path) -> None:
    source.add_family(contents=2)
    ran = pipeline("plan", **usable(source, target_url, tmp_path))
    assert ran.code == 0, ran.err
    (line,) = [each for each in ran.out.splitlines() if each.startswith("disk space")]
    assert re.search(r"\d [KMGT]?i?B of tables", line)
    assert re.search(r" [KMGT]iB free$", line)
    printed = json.loads(pipeline("plan", "--json", **usable(source, target_url, tmp_path)).out)
    assert all(set(each["disk_need"]) == {"tables", "indexes", "wal"} for each in printed)
    assert TargetDisk(1, 10).fits(DiskNeed(5, 3, 2))
    assert not replace(TargetDisk(1, 10), free=9).fits(DiskNeed(5, 3, 2))
