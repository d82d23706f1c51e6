"""A subset by the command and by a run's configuration: what is told of it, what is refused."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from pipeline.cli import main
from pipeline.config import settings
from pipeline.orchestration import runs
from pipeline.orchestration.common import report
from pipeline.orchestration.common.run_options import run_config
from pipeline_tests.support.commands import usable
from pipeline_tests.support.runs import shown, use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.subsets import ids
from pipeline_tests.support.targets import query

TABLES = ("learning_content", "content_fragments", "fragment_assets", "rankings")


@pytest.fixture
def instance(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster's own instance in the target; settings name the test's source and target."""
    use(monkeypatch, usable(source, target_url, tmp_path))
    with runs.instance() as opened:
        yield opened


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Run a command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code


def said(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """What the checks that failed say, by table and check."""
    return {
        f"{check.asset_key.to_user_string()} {check.check_name}": str(check.description)
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    }


def test_the_command_tells_what_it_left_out_verify_says_so_and_a_sync_completes_it(
    instance: dg.DagsterInstance,
    source: SourceFile,
    target_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source.add_family(contents=3)
    assert command(monkeypatch, "migrate", "--only-content", "1, 3", "--verbose") == 0
    printed = capfd.readouterr().out
    assert "source rows 12, moved 8, quarantined 0, excluded 4" in printed
    row = next(line.split() for line in printed.splitlines() if "rankings" in line)
    assert row[:9] == ["rankings", "subset", "12", "8", "8", "0", "0", "0", "4"]
    assert ids(target_url)["learning_content"] == {1, 3}
    (path,) = settings.load().reports.glob("*/evidence.json")
    evidence = json.loads(path.read_text())
    assert evidence["proven"]
    assert [table["moved"]["excluded"] for table in evidence["tables"]] == [1, 2, 2, 4]
    verified = runs.run("verify", opened=instance)
    found = said(verified)
    checks = ("conservation", "keys", "witness")
    assert found.keys() == {f"{table} {check}" for table in TABLES for check in checks}
    assert all("only a subset has been moved; run pipeline" in text for text in found.values())
    synced = runs.run("sync", opened=instance)
    assert synced.success
    assert shown(synced, "rankings")["strategy"] == "merged"
    assert ids(target_url)["learning_content"] == {1, 2, 3}


def test_a_run_can_be_configured_to_move_a_subset(
    instance: dg.DagsterInstance, source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=3)
    result = runs.run("migrate", opened=instance, config=run_config(limit=1))
    assert result.success
    told = shown(result, "rankings")
    assert [
        told[name] for name in ("strategy", "source_rows", "moved", "excluded", "quarantined")
    ] == [*("subset", 12, 4, 8, 0)]
    assert told["dagster/row_count"] == 4
    assert query(target_url, "SELECT count(*) FROM migration.evidence") == [(0,)]


REFUSED = [
    (run_config(only_content=[1, 9]), "has no row 9"),
    (run_config(only_content=[1], limit=1), "both ids and a limit"),
    (run_config(limit=1, only_changes=True), "A subset cannot be combined with a sync"),
]


def test_a_subset_that_cannot_be_meant_fails_and_says_why(
    instance: dg.DagsterInstance, source: SourceFile
) -> None:
    source.add_family(contents=2)
    for config, why in REFUSED:
        result = runs.run("migrate", opened=instance, config=config)
        assert not result.success
        assert why in " ".join(report.failures_of(result))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--limit", "1", "--only-content", "1"], "both ids and a limit"),
        (["--limit", "0"], "cannot be 0"),
        (["--limit", "few"], "--limit"),
        (["--only-content", "1,x"], "--only-content cannot be '1,x'"),
        (["--only-content", ""], "--only-content cannot be ''"),
        (["--only-content", "-1"], "--only-content cannot be '-1'"),
    ],
)
def test_rubbish_is_refused_before_anything_is_tried(
    arguments: list[str],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert command(monkeypatch, "migrate", *arguments) == 2
    assert why in capfd.readouterr().err
