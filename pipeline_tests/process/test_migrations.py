"""Two migrations in one target: each by itself, side by side, and without a trace of the other."""

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy.engine import URL

from pipeline.backup import manifest as manifests
from pipeline.backup.errors import BackupError
from pipeline.config import environment, settings
from pipeline.config.settings import libpq
from pipeline.cutover import states
from pipeline.migrations import registry
from pipeline.migrations.content import CONTENT
from pipeline.migrations.declaration import Migration
from pipeline.migrations.spaces import SPACES
from pipeline.orchestration.common.resources import SourceDatabase
from pipeline.postgres.target import Target
from pipeline_tests.support.backups import everything
from pipeline_tests.support.commands import Ran, pipeline
from pipeline_tests.support.runs import loaded, use
from pipeline_tests.support.targets import new_database, query

BOTH = "content,spaces"
THERE = registry.find()


class Site:
    """One target, the samples of both migrations, and the settings that name them."""

    def __init__(self, url: URL, folder: Path) -> None:
        """Make the samples."""
        self.url = libpq(url)
        self.sources = {name: folder / f"{name}.db" for name in THERE.names}
        for migration in THERE:
            migration.make_sample(self.sources[migration.name])
        self.variables = {
            "MIGRATIONS": BOTH,
            "SQLITE_DATABASE_URL": f"sqlite:///{self.sources['content']}",
            "SPACES_DATABASE_URL": f"sqlite:///{self.sources['spaces']}",
            "DATABASE_URL": self.url,
            "PIPELINE_HOME": str(folder / "home"),
        }

    def __call__(self, *arguments: str, **more: str) -> Ran:
        """Run a command."""
        return pipeline(*arguments, **{**self.variables, **more})

    def rows(self, table: str) -> int:
        """How many rows the target has."""
        return int(query(self.url, f'SELECT count(*) FROM public."{table}"')[0][0])

    def state(self, migration: Migration) -> str:
        """Who may write."""
        with Target.connect(self.url, shown="the target") as target:
            return states.read(target, migration.name).state


@pytest.fixture(scope="module")
def moved(
    server: URL, dagster_tables: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Both samples in one target."""
    with new_database(server, "both_moved", template=dagster_tables) as made:
        site = Site(made, tmp_path_factory.mktemp("both"))
        for name in THERE.names:
            ran = site("migrate", name)
            assert ran.code == 0, ran.out + ran.err
        yield site


def test_both_migrations_move_into_one_target(moved: Site) -> None:
    for migration in THERE:
        with closing(sqlite3.connect(moved.sources[migration.name])) as source:
            for table in migration.tables:
                there = source.execute(f'SELECT count(*) FROM "{table.name}"').fetchone()[0]
                waiting = query(
                    moved.url,
                    "SELECT count(*) FROM migration.quarantine WHERE table_name = %s",
                    (table.name,),
                )[0][0]
                assert moved.rows(table.name) + waiting == there
    again = moved("sync", "spaces", "--verbose")
    assert again.code == 0
    assert "users" in again.out
    assert "rankings" not in again.out


def test_without_a_name_the_first_migration_is_meant(moved: Site) -> None:
    assert "rankings" in moved("verify").out
    ran = moved("verify", MIGRATIONS="spaces,content")
    assert ran.code == 0, ran.err
    assert "note_blocks" in ran.out
    assert "rankings" not in ran.out


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [
        (
            ("migrate", "space"),
            "No migration is called space. Did you mean spaces? Use content or spaces.",
        ),
        (("redrive", "nothing"), "No table is called nothing. Use one of learning_content,"),
        (("restore", "target", "x"), "No migration is called x."),
    ],
)
def test_what_is_not_there_is_refused_by_name(
    moved: Site, arguments: tuple[str, ...], detail: str
) -> None:
    ran = moved(*arguments)
    assert ran.code == 2
    assert detail in ran.err


def test_a_migration_that_is_not_enabled_is_refused(moved: Site) -> None:
    ran = moved("migrate", "spaces", MIGRATIONS="content")
    assert ran.code == 2
    assert "The migration spaces is not enabled. Set MIGRATIONS=content,spaces." in ran.err
    ran = moved("redrive", "note_blocks", MIGRATIONS="content")
    assert (ran.code, "is not enabled" in ran.err) == (2, True)


def test_a_table_tells_which_migration_is_redriven(moved: Site) -> None:
    ran = moved("redrive", "note_blocks")
    assert ran.code == 0, ran.err
    assert "1 row of note_blocks is still in quarantine" in ran.out


def test_one_run_moves_tables_of_both(moved: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, moved.variables)
    with loaded(BOTH) as defs:
        whole = defs.resolve_implicit_global_asset_job_def()
    wanted = ("learning_content", "users", "content_fragments", "spaces", "lessons")
    result = whole.execute_in_process(
        instance=dg.DagsterInstance.ephemeral(),
        asset_selection=[dg.AssetKey(name) for name in wanted],
    )
    assert result.success
    ways: dict[str, Any] = {
        name: result.asset_materializations_for_node(name)[0].metadata["strategy"].value
        for name in wanted
    }
    assert ways == dict.fromkeys(wanted, "unchanged")


def test_a_run_that_is_done_with_one_source_keeps_the_other(
    moved: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, moved.variables)
    with dg.build_resources({"source": SourceDatabase()}) as made:
        views = made.source.views(SPACES, run_id="both")
        kept = views.pin(SPACES.tables)
        other = made.source.views(CONTENT, run_id="both")
        other.pin(CONTENT.tables)
        other.release()
        with kept.sqlite() as connection:
            assert connection.execute("SELECT count(*) FROM live.users").fetchone() == (8,)
        assert made.source.views(SPACES, run_id="both") is views
        assert views.pin(SPACES.tables) is kept


def test_each_migration_is_cut_over_and_comes_back_by_itself(
    server: URL, moved: Site, tmp_path: Path
) -> None:
    with new_database(server, "both_live") as made:
        site = Site(made, tmp_path)
        for name in THERE.names:
            assert site("migrate", name).code == 0
            assert site("plan", name).code == 0
            assert site("backup", name).code == 0
        for table, count in (("space_members", 2), ("messages", 3)):
            ran = site("cutover", "sign-off", table, "--by", "Ann", "--reason", "known")
            assert f"{count} rows of {table} may remain in quarantine" in ran.out, ran.err
        for table in ("note_blocks", "notifications"):
            assert site("cutover", "sign-off", table, "--by", "Ann", "--reason", "x").code == 0
        shut = site("cutover", "live", "spaces")
        assert shut.code == 1
        assert "realtime is on, and events arrive: never checked" in shut.err
        assert site("realtime", "on").code == 0
        ran = site("cutover", "live", "spaces")
        assert ran.code == 0, ran.out + ran.err
        assert "the migration spaces is live" in ran.out
        assert (site.state(SPACES), site.state(CONTENT)) == ("live", "shadow")
        refused = site("sync", "spaces")
        assert (refused.code, "the migration is live" in refused.err) == (1, True)
        assert site("sync", "content").code == 0
        query(site.url, "INSERT INTO messages (space_id, user_id, content) VALUES (1, 1, 'new')")
        ran = site("rollback", "spaces")
        assert ran.code == 0, ran.out + ran.err
        assert site.state(SPACES) == "shadow"
        with closing(sqlite3.connect(site.sources["spaces"])) as source:
            found = source.execute("SELECT content FROM messages ORDER BY id DESC LIMIT 1")
            assert found.fetchone() == ("new",)


def test_a_backup_of_one_leaves_the_other_as_it_is(server: URL, tmp_path: Path) -> None:
    with new_database(server, "both_kept") as made:
        site = Site(made, tmp_path)
        for name in THERE.names:
            assert site("migrate", name).code == 0
        assert site("backup", "spaces").code == 0
        before = everything(site.url)
        query(site.url, "DELETE FROM messages WHERE id < 50; DELETE FROM rankings WHERE id < 50")
        query(site.url, "DELETE FROM migration.quarantine")
        note = "INSERT INTO migration.outbox (table_name) VALUES ('rankings') RETURNING change"
        noted = [query(site.url, note)[0][0] for _ in range(3)]
        other = everything(site.url)
        ran = site("restore", "target", "spaces", "--yes")
        assert ran.code == 0, ran.err
        after = everything(site.url)
        assert after["public.messages"] == before["public.messages"]
        assert after["public.rankings"] == other["public.rankings"]
        assert other["public.rankings"] != before["public.rankings"]
        # The other one goes on to count behind its own rows.
        assert query(site.url, note)[0][0] > max(noted)
        waiting = query(site.url, "SELECT DISTINCT table_name FROM migration.quarantine")
        assert {table for (table,) in waiting} <= set(SPACES.metadata.tables)
        assert len(waiting) >= 3
        nothing = site("restore", "target", "--yes")
        assert (
            nothing.code,
            "There is no backup of content with a verified restore" in nothing.err,
        ) == (2, True)
        (name,) = [path.name for path in (tmp_path / "home" / "backups").glob("20*")]
        wrong = site("restore", "target", "content", "--from", name, "--yes")
        message = "belongs to the migration spaces, not to content"
        assert (wrong.code, message in wrong.err) == (2, True)


def test_the_source_of_each_is_kept_in_its_own_backups(
    monkeypatch: pytest.MonkeyPatch, moved: Site
) -> None:
    from pipeline.backup import store

    home = Path(moved.variables["PIPELINE_HOME"])
    assert moved("backup", "content").code == 0
    kept = store.named(home, "content", None)
    assert kept.source == str(moved.sources["content"])
    assert {t.name for t in kept.target_tables if t.schema == "public"} == set(
        CONTENT.metadata.tables
    )
    with pytest.raises(BackupError, match="There is no backup of spaces with a verified restore"):
        store.named(home, "spaces", None)
    for name, value in moved.variables.items():
        monkeypatch.setenv(name, value)
    assert environment.databases(settings.load(), SPACES).source == moved.sources["spaces"]


def test_what_the_gate_tells_to_do_is_for_its_own_migration(moved: Site) -> None:
    ran = moved("cutover", "status", "spaces")
    assert "pipeline cutover freeze spaces" in " ".join(ran.out.split())
    refused = moved("cutover", "close", "spaces", "--yes")
    assert refused.code == 1


def test_the_rules_of_a_table_are_the_same_in_every_process() -> None:
    """A table with several CHECKs keeps them in a set, whose order is another one each time."""
    code = (
        "from pipeline.mapping.matching import SourceColumn, match;"
        "from pipeline.move.ledger.watermarks import rules_digest;"
        "from pipeline.migrations.spaces import metadata;"
        "made = [object() for _ in range({})];"
        "print([rules_digest(match(t, [SourceColumn(c.name, '') for c in t.columns]))"
        " for t in metadata.sorted_tables])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code.format(n)], capture_output=True, text=True, check=True
        ).stdout
        for n in range(4)
    }
    assert len(found) == 1


def test_a_subset_of_two_families_is_refused_before_anything_runs(moved: Site) -> None:
    ran = moved("migrate", "spaces", "--limit", "3")
    assert ran.code == 2
    assert "A subset needs exactly one root table; candidates: user, users" in ran.err


def test_what_hangs_on_a_migration_that_is_not_enabled_is_refused(moved: Site) -> None:
    ran = moved("anki", "sync", MIGRATIONS="spaces")
    assert (ran.code, "The migration content is not enabled" in ran.err) == (2, True)
    ran = moved("realtime", "on", MIGRATIONS="content")
    assert (ran.code, "The migration spaces is not enabled" in ran.err) == (2, True)


def test_a_fault_of_a_source_names_its_own_setting(moved: Site) -> None:
    ran = moved("migrate", "spaces", SPACES_DATABASE_URL="sqlite:////no/such.db")
    assert (ran.code, "Set SPACES_DATABASE_URL to" in ran.err) == (2, True)
    ran = moved("doctor", "spaces", SPACES_DATABASE_URL="sqlite:////no/such.db")
    assert "SPACES_DATABASE_URL" in ran.out
    assert "SQLITE_DATABASE_URL" not in ran.out


def test_a_ledger_of_one_migration_is_brought_up_to_date(
    target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query(
        target_url,
        "CREATE SCHEMA migration; CREATE TABLE migration.cutover (id bigint GENERATED ALWAYS AS"
        " IDENTITY PRIMARY KEY, state text NOT NULL, run_id text NOT NULL, at timestamptz DEFAULT"
        " now()); INSERT INTO migration.cutover (state, run_id) VALUES ('live', 'x')",
    )
    for _ in range(2):
        use(monkeypatch, {"DATABASE_URL": target_url, "PIPELINE_HOME": str(tmp_path)})
    with Target.connect(target_url, shown="the target") as target:
        assert states.read(target, "content").state == "live"
        assert states.read(target, "spaces").state == "shadow"
        with target.transaction():
            states.change(target, "spaces", "frozen", run_id="y")
        assert states.read(target, "content").state == "live"


def test_a_backup_of_before_there_were_migrations_does_not_take_the_ledger_of_others(
    moved: Site, tmp_path: Path
) -> None:
    home = str(tmp_path / "home")
    assert moved("backup", "content", PIPELINE_HOME=home).code == 0
    (folder,) = (tmp_path / "home" / "backups").glob("20*")
    old = manifests.read(folder)
    tables = tuple(replace(table, only="") for table in old.target_tables)
    whole = json.loads(manifests.sealed(replace(old, target_tables=tables)))
    del whole["seal"], whole["migration"]
    for table in whole["target_tables"]:
        del table["only"]
    text = json.dumps(whole, sort_keys=True, ensure_ascii=True)
    seal = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(whole | {"seal": seal}))
    assert moved("backup", "list", PIPELINE_HOME=home).row(folder.name)[0] == "content"
    ran = moved("restore", "target", "--yes", PIPELINE_HOME=home)
    assert (ran.code, "contains the ledger of all migrations" in ran.err) == (2, True)
