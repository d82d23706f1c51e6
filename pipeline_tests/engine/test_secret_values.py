"""Values of secret columns are nowhere for people or in Dagster, whatever is wrong with them."""

import csv
import io
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from pydantic import TypeAdapter
from rich.console import Console
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.core.errors import OverrideError, PipelineError
from pipeline.core.findings import (
    CheckResult,
    Conflict,
    Lossy,
    Overridden,
    Quarantined,
    ValueDiffers,
    describe,
)
from pipeline.core.policies import Policies
from pipeline.declared.rules import ColumnRules, TableRules
from pipeline.mapping import secret
from pipeline.mapping.matching import SourceColumn, match
from pipeline.migrations.declaration import Migration
from pipeline.move.ledger import overrides
from pipeline.move.run.plan import TablePlan
from pipeline.orchestration import jobs, schedules
from pipeline.orchestration.assets.plan import plan_asset
from pipeline.orchestration.assets.tables import table_assets
from pipeline.orchestration.common import checks, printing, report
from pipeline.orchestration.common.metadata import PLAN
from pipeline.orchestration.common.resources import SourceDatabase, TargetDatabase
from pipeline.orchestration.common.run_options import resource
from pipeline.postgres.target import Target
from pipeline.reporting import grids, quarantine_files
from pipeline.sqlite import tracking
from pipeline_tests.support.commands import usable
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.plans import found_by
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.spaces_world import double_encoded, move
from pipeline_tests.support.targets import everything_stored, query

CANARIES = ("c4n4ry", "7.3141592", "31415926", "1987-06-05", "04:03:02")
"""Pieces of the secret values."""

VAULT = sa.Table(
    "vault",
    sa.MetaData(naming_convention={"uq": "%(table_name)s_%(column_0_N_name)s_key"}),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("token", sa.Text, nullable=False, unique=True, info=ColumnRules(secret=True).info),
    sa.Column("short", sa.String(12), info=ColumnRules(secret=True).info),
    sa.Column("doc", JSONB, info=ColumnRules(secret=True, double_encoded=True).info),
    sa.Column("at", sa.DateTime(timezone=True), info=ColumnRules(secret=True).info),
    sa.Column("score", sa.Numeric(3, 2), info=ColumnRules(secret=True).info),
    sa.Column("level", sa.Integer, info=ColumnRules(secret=True).info),
    sa.Column("note", sa.String(10)),
    sa.Column("changed_at", sa.DateTime(timezone=True)),
    info=TableRules("What nobody is to see.", changed_by="changed_at").info,
)
DDL = f"CREATE TABLE vault ({', '.join(VAULT.columns.keys())}, PRIMARY KEY (id));"
LONG = "c4n4ry" + "".join(chr(0x4E00 + (i * 7919) % 20000) for i in range(3000))
"""Too long for an index, and not to be compressed."""

BAD: dict[str, dict[str, Any]] = {
    "blob": {"token": b"c4n4ry"},
    "number": {"token": 31415926},
    "null": {"token": None},
    "nul": {"token": "c4n4ry\0"},
    "long": {"token": LONG},
    "longer": {"short": "c4n4ry and more"},
    "no json": {"doc": "{c4n4ry"},
    "refused json": {"doc": r'"{\"c4n4ry\":\"\\u0000\"}"'},
    "no date": {"at": "1987-06-05 99:04:03:02"},
    "hour": {"at": "1987-06-05 04"},
    "score": {"score": 731.41592},
    "text level": {"level": "c4n4ry"},
    "large level": {"level": 31415926000},
    "note": {"note": "much too long for it"},
}
"""A row for each way to be rejected."""


def add(source: SourceFile, key: str, **values: Any) -> None:
    sound = {"token": f"c4n4ry {key}", "changed_at": "2024-01-15T09:30:00.000Z"}
    row = {"id": key, **sound, **values}
    marks = ", ".join("?" * len(row))
    source.run(f"INSERT INTO vault ({', '.join(row)}) VALUES ({marks})", list(row.values()))


@pytest.fixture
def vault(tmp_path: Path) -> SourceFile:
    """Sound rows, lossy ones, and one for each way to be rejected."""
    source = SourceFile.make(tmp_path / "vault.db", DDL)
    add(source, "sound", doc='{"a": "c4n4ry"}', at="1987-06-05T04:03:02Z", score=1.5, level=1)
    add(source, "lossy", at="1987-06-05 04:03:02.1234567", score=7.3141592)
    add(source, "doubled", doc=double_encoded({"a": "c4n4ry"}))
    for key, values in BAD.items():
        add(source, key, **values)
    source.run("UPDATE vault SET token = CAST(x'63346e347279ff' AS TEXT) WHERE id = 'number'")
    return source


GUARDED = Migration(
    "vault",
    VAULT.metadata,
    setting="VAULT_DATABASE_URL",
    make_sample=lambda _: None,
    owners=("team:vault",),
)
"""A migration of the vault alone."""


def told(text: str) -> set[str]:
    """The canaries that are in a text."""
    return {canary for canary in CANARIES if canary in text}


class World:
    """Jobs of one table, as a run of Dagster records them, and all that they produce."""

    def __init__(self, source: SourceFile, url: str, home: Path) -> None:
        """Nothing is moved yet."""
        self.source, self.url, self.home = source, url, home
        self.printed = io.StringIO()
        moves = table_assets(GUARDED, every=schedules.interval("* * * * *"))
        plan = plan_asset(GUARDED)
        self.defs = dg.Definitions(
            assets=[plan, *moves],
            jobs=[
                jobs.migrate(GUARDED),
                jobs.sync(GUARDED, []),
                jobs.redrive(GUARDED),
                jobs.verify(GUARDED),
                dg.define_asset_job(GUARDED.named("plan"), dg.AssetSelection.assets(plan)),
            ],
            resources={**resource(), "source": SourceDatabase(), "target": TargetDatabase()},
        )

    def run(self, name: str) -> dict[str, bool]:
        """Run a job and print what a command prints; the outcome of its checks by name."""
        with dg.DagsterInstance.get() as instance:
            # One connection for all that a run records.
            instance.optimize_for_webserver(
                statement_timeout=60_000, pool_recycle=3600, max_overflow=4
            )
            result = self.defs.resolve_job_def(GUARDED.named(name)).execute_in_process(
                instance=instance, raise_on_error=False
            )
        console = Console(file=self.printed, width=250)
        tables = report.tables_of(result.all_events)
        printing.show(console, tables, run_id="1", verbose=True)
        for sentence in report.failures_of(result):
            console.print(sentence)
        for made in (
            result.asset_materializations_for_node(GUARDED.named("make_plan"))
            if name == "plan"
            else ()
        ):
            plans: Any = made.metadata[PLAN].value
            grids.show_plan(console, [_plan_of(plan) for plan in plans])
            console.print(json.dumps(plans))
        return {c: e.passed for table in tables for c, e in table.checks.items()}

    def leaks(self, capfd: pytest.CaptureFixture[str]) -> dict[str, set[str]]:
        """Where the canaries are, of all that was produced; databases and backups left out."""
        out, err = capfd.readouterr()
        produced = {"out": out, "err": err, "printed": self.printed.getvalue()}
        for path in self.home.rglob("*"):
            if path.is_file():
                produced[str(path)] = path.read_text(errors="replace")
        for table, text in everything_stored(self.url):
            if not table.startswith("public.") and table not in KEPT:
                produced[f"{table} {len(produced)}"] = text
        assert {"dagster.runs", "dagster.event_logs"} <= {name.split()[0] for name in produced}
        assert any(name.endswith("evidence.html") for name in produced)
        return {name: told(text) for name, text in produced.items() if told(text)}


KEPT = {
    f"migration.{name}" for name in ("quarantine_values", "conversions", "conflicts", "overrides")
}
"""Tables of the ledger that keep what the source has."""


def _plan_of(plan: dict[str, Any]) -> TablePlan:
    return TypeAdapter(TablePlan).validate_python(plan)


@pytest.fixture
def world(
    vault: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """Jobs over the vault."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "vault.py").write_text(f"from {__name__} import GUARDED\n")
    source = {"MIGRATIONS_FOLDER": str(folder), "VAULT_DATABASE_URL": f"sqlite:///{vault.path}"}
    use(monkeypatch, usable(vault, target_url, tmp_path) | source)
    yield World(vault, target_url, tmp_path / "home")


@pytest.mark.dagster
def test_no_fault_of_a_value_tells_the_value(
    world: World, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run("plan")
    assert world.run("migrate")["conservation"]
    aside = [key for (key,) in query(world.url, "SELECT source_key FROM migration.quarantine")]
    assert sorted(aside) == sorted(BAD)
    assert len(query(world.url, "SELECT 1 FROM migration.conversions")) == 3

    tracking.switch_on(world.source.path, [VAULT])
    world.run("migrate")
    # A token that two rows have, one that somebody mended, one that was changed on both sides.
    add(world.source, "twice", token="c4n4ry sound")
    query(
        world.url,
        "UPDATE vault SET token = 'c4n4ry there', changed_at = '2099-01-01' WHERE id = 'lossy'",
    )
    world.source.run("UPDATE vault SET token = 'c4n4ry here' WHERE id = 'lossy'")
    with Target.connect(world.url, shown="the target") as target, target.transaction():
        override = {"table": "vault", "row_id": _handle(world, "blob"), "column": "token"}
        overrides.import_overrides(
            target, [override | {"storage": "text", "value": "c4n4ry mended"}]
        )
    found = world.run("sync")
    assert (found["overrides"], found["conflicts"], found["conservation"]) == (False, False, True)
    assert ("twice",) in query(world.url, "SELECT source_key FROM migration.quarantine")
    world.run("redrive")

    # What verify finds, and a move whose proof fails.
    query(world.url, "UPDATE vault SET token = token || '!', doc = '{}' WHERE id = 'doubled'")
    query(world.url, "DELETE FROM migration.conversions WHERE column_name = 'score'")
    assert not world.run("verify")["digests"]
    query(
        world.url,
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN new.token := new.token || '?'; RETURN new; END$$;"
        " CREATE TRIGGER spoil BEFORE INSERT OR UPDATE ON vault"
        " FOR EACH ROW EXECUTE FUNCTION spoil()",
    )
    assert not world.run("migrate")["digests"]
    query(world.url, "DROP TRIGGER spoil ON vault")
    monkeypatch.setenv("POLICY_FORBIDDEN_NULLS", '{"vault.token": "c4n4ry\\u0000"}')
    assert world.run("migrate") == {}
    assert "(secret) cannot replace NULL in vault.token" in world.printed.getvalue()
    monkeypatch.setenv("POLICY_FORBIDDEN_NULLS", '{"vault.token": "c4n4ry given"}')
    monkeypatch.setenv("POLICY_CONFLICTS", "fail")
    world.run("plan")
    world.run("migrate")
    assert world.printed.getvalue().count(secret.SHOWN) > 20
    assert world.leaks(capfd) == {}


@pytest.mark.dagster
def test_a_row_that_a_key_forbids_is_told_without_its_values(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.run("migrate")
    query(world.url, "ALTER TABLE vault DROP CONSTRAINT vault_token_key")
    query(world.url, "INSERT INTO vault (id, token) SELECT id || '2', token FROM vault")
    world.run("migrate")
    assert "violate its keys" in world.printed.getvalue()
    assert world.leaks(capfd) == {}


def _handle(world: World, key: str) -> str:
    ((row_id,),) = query(
        world.url, "SELECT row_id FROM migration.quarantine WHERE source_key = %s", (key,)
    )
    return str(row_id)


def test_an_error_of_the_server_has_no_row_in_its_chain(target_url: str) -> None:
    query(target_url, "CREATE TABLE t (token text UNIQUE)")
    insert = "INSERT INTO t VALUES ('c4n4ry'), ('c4n4ry')"
    with Target.connect(target_url, shown="the target") as target:
        with pytest.raises(PipelineError, match="duplicate key") as failed, target.transaction():
            target.run(insert)
        assert told("".join(traceback.format_exception(failed.value))) == set()


def test_an_export_hides_secrets_and_lets_other_columns_be_mended(
    vault: SourceFile, target_url: str, tmp_path: Path
) -> None:
    move(vault, target_url, tables=[VAULT])
    with Target.connect(target_url, shown="the target") as target:
        for name in ("all.csv", "all.json"):
            quarantine_files.write(tmp_path / name, overrides.export(target, [VAULT]))
            assert told((tmp_path / name).read_text()) == set()
        with (tmp_path / "all.csv").open() as file:
            records = list(csv.DictReader(file))
        hidden = secret.columns(VAULT)
        assert {r["storage"] for r in records if r["column"] in hidden} == {"secret"}
        with target.transaction():
            assert overrides.import_overrides(target, records, [VAULT]) == 0
        (note,) = (r for r in records if (r["key"], r["column"]) == ("note", "note"))
        assert note["value"] == "much too long for it"
        (token,) = (r for r in records if (r["key"], r["column"]) == ("null", "token"))
        note["value"] = "short"
        token |= {"storage": "text", "value": "c4n4ry for null"}
        with target.transaction():
            assert overrides.import_overrides(target, records, [VAULT]) == 2
        wrong = {**token, "storage": "integer", "value": "c4n4ry"}
        for declared in ([VAULT], []):
            with pytest.raises(
                OverrideError, match=r"its \(secret\) is not a valid integer"
            ) as failed:
                overrides.import_overrides(target, [wrong], declared)
            assert told("".join(traceback.format_exception(failed.value))) == set()
    moved = move_all(vault.path, target_url, tables=[VAULT])["vault"]
    assert moved.quarantined_rows == len(BAD) - 2
    assert {(f.was, f.now) for f in found_by(moved, Overridden) if f.column == "token"} == {
        (secret.SHOWN, secret.SHOWN)
    }
    tokens = dict(query(target_url, "SELECT id, token FROM vault WHERE id IN ('note', 'null')"))
    assert tokens == {"note": "c4n4ry note", "null": "c4n4ry for null"}


def test_the_ledger_keeps_what_nobody_is_shown(vault: SourceFile, target_url: str) -> None:
    moves = move(vault, target_url, tables=[VAULT])
    assert {f.examples[0][1:] for f in found_by(moves["vault"], Lossy)} == {("(secret)",) * 2}
    originals = {old for (old,) in query(target_url, "SELECT original FROM migration.conversions")}
    assert originals == {
        "1987-06-05 04:03:02.1234567",
        "7.3141592",
        double_encoded({"a": "c4n4ry"}),
    }
    query(
        target_url,
        "UPDATE vault SET token = 'c4n4ry!', changed_at = '2099-01-01' WHERE id = 'sound'",
    )
    conflicts = found_by(move(vault, target_url, tables=[VAULT])["vault"], Conflict)
    assert "source (secret), target (secret)" in describe(
        next(found for found in conflicts if found.column == "token")
    )
    kept = "SELECT source_value, target_value FROM migration.conflicts WHERE column_name = 'token'"
    assert query(target_url, kept) == [("c4n4ry sound", "c4n4ry!")]
    again = move(vault, target_url, tables=[VAULT])["vault"]
    assert query(target_url, kept) == [("c4n4ry sound", "c4n4ry!")]
    assert found_by(again, ValueDiffers) == []


def test_an_hour_that_a_zone_does_not_have_is_told_without_the_moment(
    tmp_path: Path, target_url: str
) -> None:
    source = SourceFile.make(tmp_path / "vault.db", DDL)
    add(source, "gone", at="1987-03-29 02:30:00")
    found = move(source, target_url, tables=[VAULT], policies=Policies(naive_zone="Europe/Berlin"))
    (reason,) = found_by(found["vault"], Quarantined)
    assert reason.reason == "cannot be converted: a secret value is wrong"


def test_no_digest_of_a_secret_is_told(vault: SourceFile, target_url: str) -> None:
    (digests,) = (
        c for c in move(vault, target_url, tables=[VAULT])["vault"].checks if c.name == "digests"
    )
    assert set(digests.figures["digests"]) == {"id", "note", "changed_at"}
    assert digests.figures["values_compared"] == 3 * len(VAULT.columns)
    kept = query(target_url, "SELECT digests FROM migration.evidence")
    assert [set(each) for (each,) in kept] == [{"id", "note", "changed_at"}]


def test_what_postgresql_says_ends_before_it_quotes_a_value() -> None:
    mapping = match(VAULT, [SourceColumn(c.name, "") for c in VAULT.columns], Policies())
    table = mapping.table
    whole = 'duplicate key value violates unique constraint "vault_token_key"'
    assert secret.redact_message(table, whole) == whole
    quoting = 'invalid input syntax for type uuid: "c4n4ry"c4n4ry"'
    assert secret.redact_message(table, quoting) == "invalid input syntax for type uuid: (secret)"
    plain = sa.Table("plain", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    assert secret.redact_message(plain, quoting) == quoting


def test_what_a_trigger_says_of_a_row_is_hidden(vault: SourceFile, target_url: str) -> None:
    move(vault, target_url, tables=[VAULT])
    query(
        target_url,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE 'not %', new.token; END$$;"
        " CREATE TRIGGER no BEFORE INSERT ON vault FOR EACH ROW EXECUTE FUNCTION no()",
    )
    add(vault, "refused", token="c4n4ry refused")
    move(vault, target_url, tables=[VAULT])
    found = query(
        target_url,
        "SELECT reasons->0->>'message' FROM migration.quarantine WHERE source_key = 'refused'",
    )
    said = "trigger no of vault (function no()) refuses it: (secret) (SQLSTATE P0001)"
    assert found == [(said,)]


def test_a_secret_prints_as_nothing_and_can_be_kept() -> None:
    value = secret.Secret("c4n4ry")
    assert {str(value), repr(value), f"{value}", str([value])} == {"(secret)", "[(secret)]"}
    assert (secret.revealed(value), secret.revealed("x")) == ("c4n4ry", "x")
    assert checks.summary(_failed(value)) == "t 1, c: source (secret), target (secret)"


def _failed(value: object) -> Any:
    return CheckResult("digests", False, True, (ValueDiffers("t", 1, "c", value, value),))
