"""A name in the target that stands for more, or less, than one plain table is refused by name."""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from pipeline.backup import restore
from pipeline.core.errors import ShapeError
from pipeline.core.findings import describe
from pipeline.core.place import PUBLIC
from pipeline.core.policies import DEFAULT
from pipeline.cutover import gate
from pipeline.doctor.target import examine
from pipeline.migrations.content import metadata
from pipeline.move.context.options import MoveOptions
from pipeline.move.engine import run
from pipeline.move.reading.pinned_source import pinned
from pipeline.move.run.plan import plan_tables
from pipeline.move.run.scope import ChangesOnly
from pipeline.move.run.views import SourceViews
from pipeline.postgres.target import Target
from pipeline.realtime import feed_objects as realtime_objects
from pipeline_tests.support.backups import Place, until
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.pairs import Pair
from pipeline_tests.support.targets import query
from pipeline_tests.support.verification import opened, standing

TABLES = metadata.sorted_tables

WAYS = ["full", "sync", "subset"]
KINDS = {
    "a child": (
        "CREATE TABLE archive () INHERITS (fragment_assets);"
        " INSERT INTO archive SELECT id + 100, fragment_id, asset_type, asset_data, asset_metadata,"
        " created_at, created_by FROM ONLY fragment_assets",
        r"public\.archive",
    ),
    "a parent": (
        "CREATE TABLE everything (LIKE fragment_assets);"
        " ALTER TABLE fragment_assets INHERIT everything",
        r"public\.everything",
    ),
    "a partitioned table": (
        "ALTER TABLE rankings DROP CONSTRAINT rankings_asset_id_fkey;"
        " ALTER TABLE fragment_assets RENAME TO old;"
        " CREATE TABLE fragment_assets (LIKE old INCLUDING DEFAULTS) PARTITION BY RANGE (id);"
        " ALTER TABLE fragment_assets ATTACH PARTITION old DEFAULT",
        "a partitioned table",
    ),
    "a partition": (
        "CREATE TABLE everything (LIKE fragment_assets) PARTITION BY RANGE (id);"
        " ALTER TABLE everything ATTACH PARTITION fragment_assets DEFAULT",
        r"public\.everything",
    ),
    "a view": (
        "ALTER TABLE fragment_assets RENAME TO old;"
        " CREATE VIEW fragment_assets AS SELECT * FROM old",
        "a view",
    ),
    "a materialized view": (
        "ALTER TABLE fragment_assets RENAME TO old;"
        " CREATE MATERIALIZED VIEW fragment_assets AS SELECT * FROM old",
        "a materialized view",
    ),
    "a foreign table": (
        "ALTER TABLE fragment_assets RENAME TO old; CREATE FOREIGN DATA WRAPPER nowhere;"
        " CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere;"
        " CREATE FOREIGN TABLE fragment_assets (id int) SERVER elsewhere",
        "a foreign table",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_not_one_plain_table_is_refused_before_anything_moves(
    pair: Pair, kind: str
) -> None:
    sql, named = KINDS[kind]
    pair.do(sql)
    pair.source.run(
        "UPDATE learning_content SET title = 'new', updated_at = '2026-01-01' WHERE id = 1"
    )
    pair.source.add("fragment_assets", {"id": 50, "fragment_id": 1})
    titles = query(pair.url, "SELECT id, title FROM learning_content ORDER BY 1")
    archived = query(pair.url, "SELECT count(*) FROM archive") if kind == "a child" else None
    for strategy in WAYS:
        with pytest.raises(ShapeError, match=rf"public\.fragment_assets .*{named}") as caught:
            pair.move(strategy)
        assert caught.value.remedy
    assert query(pair.url, "SELECT id, title FROM learning_content ORDER BY 1") == titles
    if archived:
        assert query(pair.url, "SELECT count(*) FROM archive") == archived == [(7,)]


@pytest.mark.parametrize("kind", ["a child", "a partition"])
def test_every_other_command_names_it_too(pair: Pair, tmp_path: Path, kind: str) -> None:
    place = Place.at(pair.source.path, pair.url, tmp_path)
    kept = place.back_up().manifest
    sql, named = KINDS[kind]
    pair.do(sql)
    said = re.compile(rf"public\.fragment_assets .*{named}")
    source, table = opened(pair.source.path, tmp_path), metadata.tables["fragment_assets"]
    with Target.connect(pair.url, shown="the target") as target:
        (plan,) = plan_tables([table], source=source, target=target)
        assert said.search(plan.obstacle or "")
        with pytest.raises(ShapeError, match=said):
            realtime_objects.require_tables(target, TABLES)
        with target.read_only(), pinned(pair.source.path, tmp_path, tables=TABLES) as live:
            (answer,) = gate.ask(target, live, TABLES, DEFAULT)
        assert not answer.yes and said.search(answer.detail)
        verified = standing(target, source, table)
        assert {said.search(describe(f)) is not None for f in verified["keys"].findings} == {True}
    (diagnostic,) = (s for s in examine(place.target, tables=TABLES, bytes_needed=0) if s.remedy)
    assert (diagnostic.name, diagnostic.state) == ("contents", "error") and said.search(
        diagnostic.detail
    )
    with pytest.raises(ShapeError, match=said):
        place.back_up()
    before = query(pair.url, "SELECT count(*) FROM fragment_assets")
    with pytest.raises(ShapeError, match=said):
        restore.restore(pair.url, shown="it", tables=kept.target_tables, folder=place.folder(kept))
    assert query(pair.url, "SELECT count(*) FROM fragment_assets") == before


def test_a_child_that_appears_while_a_move_waits_for_the_table_is_seen(pair: Pair) -> None:
    pair.do(
        "CREATE TABLE archive (LIKE fragment_assets INCLUDING CONSTRAINTS);"
        " INSERT INTO archive SELECT id + 100,"
        " fragment_id, asset_type, asset_data, asset_metadata, created_at FROM fragment_assets"
    )
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation IS NOT NULL)"
    with ThreadPoolExecutor(1) as pool, closing(psycopg2.connect(pair.url)) as other:
        other.cursor().execute("ALTER TABLE archive INHERIT fragment_assets")
        moving = pool.submit(
            move_all, pair.source.path, pair.url, tables=[metadata.tables["fragment_assets"]]
        )
        until(pair.url, waiting)
        other.commit()
        with pytest.raises(ShapeError, match=r"public\.archive"):
            moving.result()
    assert query(pair.url, "SELECT count(*) FROM archive") == [(7,)]


def test_rows_that_policies_hide_from_the_owner_are_not_taken_for_missing(pair: Pair) -> None:
    pair.do(
        "DROP ROLE IF EXISTS plain_owner; CREATE ROLE plain_owner LOGIN;"
        " GRANT ALL ON SCHEMA public, migration TO plain_owner;"
        " GRANT ALL ON ALL TABLES IN SCHEMA migration TO plain_owner;"
        + "".join(f" ALTER TABLE {table.name} OWNER TO plain_owner;" for table in TABLES)
        + " ALTER TABLE rankings ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        " CREATE POLICY a_few ON rankings USING (id < 3)"
    )
    try:
        owner = pair.url.replace("//postgres", "//plain_owner")
        with pytest.raises(ShapeError, match=r"public\.rankings .*hide rows .*plain_owner"):
            move_all(pair.source.path, owner)
        pair.do("ALTER TABLE rankings NO FORCE ROW LEVEL SECURITY")
        assert move_all(pair.source.path, owner)["rankings"].target_rows == 12
    finally:
        pair.do(
            "REASSIGN OWNED BY plain_owner TO postgres; DROP OWNED BY plain_owner;"
            " DROP ROLE plain_owner"
        )


def test_a_temporary_table_does_not_stand_before_the_moved_one(pair: Pair, tmp_path: Path) -> None:
    pair.source.add("rankings", {"id": 99, "fragment_id": 1, "rank_score": 1.005})
    pair.do("CREATE TABLE pipeline_stage (id int); CREATE TABLE pipeline_conversions (id int)")
    with (
        Target.connect(pair.url, shown="the target") as target,
        SourceViews(lambda: pair.source.path, tmp_path / "runs", name="run") as views,
    ):
        target.run("CREATE TEMPORARY TABLE rankings (LIKE public.rankings)")
        changes, options = ChangesOnly(or_everything=False), MoveOptions("shadowed")
        assert len(list(run(TABLES, views, target, PUBLIC, changes, options))) == len(TABLES)
        assert target.rows("SELECT id FROM pg_temp.rankings") == []
    assert query(pair.url, "SELECT id FROM rankings WHERE id = 99") == [(99,)]
    assert query(pair.url, "SELECT source_key FROM migration.conversions") == [("99",)]


def test_a_table_that_belongs_to_an_extension_is_refused(pair: Pair) -> None:
    pair.do("CREATE EXTENSION pg_trgm; ALTER EXTENSION pg_trgm ADD TABLE rankings")
    with pytest.raises(ShapeError, match=r"public\.rankings .*extension pg_trgm"):
        pair.move("sync")
