"""The job of backups and the commands that restore them, as a user meets them."""

import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipeline.backup import newest
from pipeline.cli.main import build, main
from pipeline.config import settings
from pipeline.core.errors import PipelineError
from pipeline.postgres.target import Target
from pipeline_tests.support.backups import back_up, everything
from pipeline_tests.support.commands import invoke, usable
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query


@pytest.fixture
def home(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Settings of this process that name a moved source and its target."""
    source.add_family(contents=2)
    move_all(source.path, target_url)
    for name, value in usable(source, target_url, tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "home"


def run_job() -> dg.ExecuteInProcessResult:
    """Run the job in this process."""
    from pipeline.orchestration.definitions import defs

    job = defs.resolve_job_def("backup")
    return job.execute_in_process(instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)


def results(ran: dg.ExecuteInProcessResult) -> dict[str, Any]:
    return {e.asset_key.to_user_string(): e for e in ran.get_asset_check_evaluations()}


def test_the_job_shows_what_it_kept_and_that_it_is_restorable(
    home: Path, source: SourceFile
) -> None:
    ran = run_job()
    assert ran.success
    manifest = newest(home, "content")
    assert manifest is not None
    checks = results(ran)
    assert {name: check.passed for name, check in checks.items()} == {
        "source_backup": True,
        "target_backup": True,
    }
    shown = {
        each.asset_key.to_user_string(): {k: v.value for k, v in each.metadata.items()}
        for each in ran.asset_materializations_for_node("make_backup")
    }
    assert shown["source_backup"]["sha256"] == manifest.source_sha256
    assert shown["source_backup"]["rows"] == 18
    assert "| rankings | 8 |" in shown["source_backup"]["tables"]
    assert shown["target_backup"]["rows"] == sum(t.rows for t in manifest.target_tables)
    assert "| migration.watermarks | 4 |" in shown["target_backup"]["tables"]
    assert shown["target_backup"]["bytes"] > 0


def test_a_backup_that_cannot_be_restored_fails_its_check_and_its_run(
    home: Path, target_url: str
) -> None:
    good = back_up()
    query(
        target_url,
        "CREATE FUNCTION fits() RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true';"
        "ALTER TABLE rankings ADD CONSTRAINT fits CHECK (fits());"
        "CREATE OR REPLACE FUNCTION fits() RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT false'",
    )
    ran = run_job()
    assert not ran.success
    failed = results(ran)["target_backup"]
    assert not failed.passed
    assert failed.blocking
    assert failed.severity == dg.AssetCheckSeverity.ERROR
    assert '"fits"' in str(failed.description)
    assert results(ran)["source_backup"].passed
    now = newest(home, "content")
    assert now is not None
    assert now.restore_verified is None
    assert "yes" in invoke("backup", "list")
    assert f"at {good.at:%Y-%m-%d %H:%M:%S} UTC" in invoke("restore", "source", "--yes")


def test_restore_brings_both_databases_back_and_says_so(
    home: Path, source: SourceFile, target_url: str
) -> None:
    back_up()
    before, rows = everything(target_url), source.run("SELECT * FROM rankings")
    source.run("DELETE FROM rankings")
    query(target_url, "DROP TABLE rankings; TRUNCATE migration.watermarks")
    said = invoke("restore", "source", "--yes")
    assert "the previous file is kept as" in said
    assert said.endswith("18 rows, every value compared\n")
    assert source.run("SELECT * FROM rankings") == rows
    assert (
        invoke("restore", "target", "--yes")
        .strip()
        .endswith("every value compared before the commit\nthe migration is shadow")
    )
    assert everything(target_url) == before
    assert "kept as" not in invoke("restore", "source", "--yes")


def test_a_source_can_be_restored_elsewhere(home: Path, source: SourceFile, tmp_path: Path) -> None:
    back_up()
    elsewhere = tmp_path / "other folder" / "copy #1.db"
    invoke("restore", "source", "--to", str(elsewhere), "--yes")
    copy = SourceFile(elsewhere)
    assert copy.run("SELECT * FROM rankings") == source.run("SELECT * FROM rankings")


def test_a_backup_of_another_database_is_refused_unless_it_is_meant(
    home: Path, source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up()
    other = SourceFile.make(tmp_path / "other.db")
    monkeypatch.setenv("SQLITE_DATABASE_URL", f"sqlite:///{other.path}")
    monkeypatch.setenv("DATABASE_URL", target_url.replace("/test_", "/other_test_", 1))
    with pytest.raises(
        PipelineError, match=r"of another source: .*source\.db instead of .*other\.db"
    ):
        invoke("restore", "source", "--yes")
    with pytest.raises(PipelineError, match=r"of another target: .* instead of .* other_test_"):
        invoke("restore", "target", "--yes")
    assert other.run("SELECT * FROM rankings") == []
    invoke("restore", "source", "--yes", "--other")
    assert other.run("SELECT * FROM rankings") == source.run("SELECT * FROM rankings")


def test_a_target_that_is_held_by_a_run_is_not_restored(
    home: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up()
    monkeypatch.setenv("LOCK_SECONDS", "0")
    with (
        Target.connect(target_url, shown="it") as target,
        target.lock(),
        pytest.raises(PipelineError, match="is in use by another run"),
    ):
        invoke("restore", "target", "--yes")
    query(target_url, "DELETE FROM rankings")
    invoke("restore", "target", "--yes")
    assert query(target_url, "SELECT count(*) FROM rankings") == [(8,)]


def test_nothing_is_overwritten_without_a_yes(
    home: Path,
    source: SourceFile,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    back_up()
    source.run("DELETE FROM rankings")
    monkeypatch.setattr(sys, "argv", ["pipeline", "restore", "source"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert (
        capsys.readouterr().err
        == "This command asks for confirmation, but standard input is not a terminal."
        " Add --yes to confirm.\n"
    )
    with pytest.raises(PipelineError, match="Add --yes"):
        invoke("restore", "target")
    assert source.run("SELECT count(*) FROM rankings") == [(0,)]


def test_without_a_backup_the_commands_say_so(home: Path) -> None:
    assert invoke("backup", "list") == "no backup exists yet; run pipeline backup\n"
    for what in ("source", "target"):
        with pytest.raises(
            PipelineError, match=r"no backup of content with a verified restore in .*Run pipeline b"
        ):
            invoke("restore", what, "--yes")
        with pytest.raises(PipelineError, match="contains no backup"):
            invoke("restore", what, "--from", "none", "--yes")


def test_the_command_takes_a_backup_and_lists_it(
    home: Path,
    source: SourceFile,
    target_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, usable(source, target_url, tmp_path))
    build(["content"])(["backup"], standalone_mode=False)
    said = capfd.readouterr().out
    manifest = newest(home, "content")
    assert manifest is not None
    assert "2 checks passed" in said
    assert manifest.name in said
    assert json.loads((home / "backups" / manifest.name / "manifest.json").read_text())[
        "restore_verified"
    ]
    assert settings.load().keep_backups == 7
