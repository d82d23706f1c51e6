"""Where Dagster keeps its records: with and without the setting, near to and far from the target.

A server is far where it is reached as 0.0.0.0, which leads to this machine and is no loopback
address.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url

from bench.proxy import Proxy, relay
from pipeline.config import records, settings
from pipeline.config.records import Records
from pipeline.config.settings import libpq
from pipeline.core.errors import SettingsError
from pipeline.doctor.diagnostics import Diagnostic
from pipeline.doctor.examination import examine
from pipeline.migrations.content import CONTENT
from pipeline.orchestration.instance import storage
from pipeline.postgres.embedded.server import leave
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

NEAR = [
    "postgresql:///db",
    "postgresql://u@/db?host=/run/postgresql",
    "postgresql://localhost/db",
    "postgresql://127.0.0.1:5433/db",
    "postgresql://[::1]/db",
    "postgresql://127.9.9.9/db",
    "postgresql://db.example.org/db?hostaddr=127.0.0.1",
    "postgresql://localhost,127.0.0.1/db",
]
FAR = [
    "postgresql://db.example.org/db",
    "postgresql://10.0.0.1/db",
    "postgresql://[2001:db8::1]/db",
    "postgresql://localhost/db?hostaddr=10.0.0.1",
    "postgresql://localhost,db.example.org/db",
]


@pytest.mark.parametrize("url", [*NEAR, *FAR])
def test_a_server_on_this_machine_is_known_by_its_url(url: str) -> None:
    assert records.is_local(make_url(url)) == (url in NEAR)


@pytest.mark.parametrize("url", [*NEAR, *FAR])
def test_a_target_on_this_machine_has_the_records(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    target = make_url(url)
    here = Records(target, "target") if url in NEAR else None
    assert records.from_settings(settings.load(), target) == here
    monkeypatch.setenv("DAGSTER_DATABASE_URL", "postgresql://u:p@h/dagster")
    elsewhere = Records(make_url("postgresql://u:p@h/dagster"), "setting")
    assert records.from_settings(settings.load(), target) == elsewhere


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://u@aws.pooler.supabase.com:6543/p", "names a transaction pooler"),
        ("mysql://u@h/d", "is not a PostgreSQL URL"),
        ("postgresql://u:p@ss@h/d", "is malformed or ambiguous"),
    ],
)
def test_a_database_that_cannot_keep_records_is_refused_by_the_name_of_its_setting(
    url: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_DATABASE_URL", url)
    with pytest.raises(SettingsError, match=f"^DAGSTER_DATABASE_URL {why}") as refused:
        records.from_settings(settings.load(), make_url("postgresql:///db"))
    assert "p@ss" not in str(refused.value)


@pytest.fixture
def far(database: URL, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A relay to a target that is far away, with no word of where the records are."""
    monkeypatch.delenv("DAGSTER_DATABASE_URL", raising=False)
    with relay(database) as proxy:
        yield proxy


def variables(proxy: Proxy, source: SourceFile, folder: Path) -> dict[str, str]:
    return usable(source, libpq(proxy.url.set(host="0.0.0.0")), folder)


def examined(options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[Diagnostic]:
    """What doctor says of the records."""
    for name, value in options.items():
        monkeypatch.setenv(name, value)
    return [each for each in examine(settings.load(), CONTENT) if each.place == "dagster"]


def test_a_far_target_alone_is_enough_and_gets_no_table_of_dagster(
    far: Proxy, source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add_family(contents=1)
    options = variables(far, source, tmp_path)
    assert pipeline("migrate", **options).code == 0
    assert query(target_url, "SELECT to_regnamespace('dagster')") == [(None,)]
    far.taken()
    synced = pipeline("sync", **options)
    assert (synced.code, synced.err) == (0, "")
    counts = far.taken()
    # The session that prepares all, and that of the run.
    preparing, asked = counts.statements[:2]
    assert ("DO $session$" in preparing, "pg_stat_activity" in asked) == (True, True)
    assert [text for text in counts.statements if "dagster." in text] == [asked]
    assert not any("event_logs" in text and "INSERT" in text for text in counts.statements)
    found = examined(options, monkeypatch)
    assert [(each.name, each.state) for each in found] == [
        ("records", "ok"),
        ("encryption", "ok"),
        ("connections", "ok"),
    ]
    assert found[0].detail == "in the embedded server of PIPELINE_HOME"
    assert found[2].detail.endswith("a run needs 3")
    for name in (settings.DAGSTER_URL, settings.DAGSTER_FILES, "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")
    kept = storage.ready(settings.load()).records
    assert (kept, kept.place) == (records.in_use(settings.load()), "embedded")
    leave(settings.load().server_data)
    # What is recorded is found by the next process.
    refused = pipeline("health", "records", "daemon", **options)
    assert (refused.code, re.findall(r"(\w+) +(ok|failing)", refused.out)) == (
        1,
        [("records", "ok"), ("daemon", "failing")],
    )
    assert "no heartbeat of" in refused.out


@pytest.mark.dagster
def test_a_far_target_with_tables_of_dagster_keeps_them_and_a_command_says_how_to_move_them(
    far: Proxy, source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add_family(contents=1)
    options = variables(far, source, tmp_path)
    moved = pipeline("migrate", **options)
    assert moved.code == 0
    (said,) = moved.err.splitlines()
    assert said.startswith("Dagster's records are in the target, PostgreSQL ")
    assert "Set DAGSTER_DATABASE_URL to a database near this machine, or run DROP SCHEMA" in said
    assert query(target_url, "SELECT status FROM dagster.runs") == [("SUCCESS",)]
    (found,) = examined(options, monkeypatch)
    assert (found.state, f"{found.detail}. {found.remedy}.") == ("warning", said)
    query(target_url, "DROP SCHEMA dagster CASCADE")
    again = pipeline("sync", **options)
    assert (again.code, again.err) == (0, "")
    assert query(target_url, "SELECT to_regnamespace('dagster')") == [(None,)]


def test_a_command_asks_a_target_in_one_session_of_two_statements(
    server: URL, far: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_database(server, "asked") as kept:
        for name, value in (
            ("DATABASE_URL", libpq(far.url)),
            ("DAGSTER_DATABASE_URL", libpq(kept)),
            ("PIPELINE_HOME", str(tmp_path / "home")),
            (settings.DAGSTER_URL, ""),
            (settings.DAGSTER_FILES, ""),
            ("DAGSTER_HOME", str(settings.PROJECT)),
        ):
            monkeypatch.setenv(name, value)
        for _ in range(2):
            ready = storage.ready(settings.load())
            assert ready.records == Records(kept, "setting")
            counts = far.taken()
            # Two of them open the connection and one closes it; one asks for encryption.
            assert (counts.connections, len(counts.statements)) == (1, 2)
            assert counts.round_trips <= 6
        there = "SELECT to_regclass('dagster.runs') IS NOT NULL"
        assert query(libpq(kept), there) == [(True,)]
        (found,) = [each for each in examine(settings.load(), CONTENT) if each.name == "records"]
        assert found.detail == f"{settings.shown(kept)}, as DAGSTER_DATABASE_URL says"


def test_records_that_do_not_answer_are_named_with_their_setting_and_without_a_password(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = usable(source, target_url, tmp_path)
    options["DAGSTER_DATABASE_URL"] = "postgresql://dagster:s3cr3t-pa55@127.0.0.1:1/kept"
    for command in ("sync", "health"):
        ran = pipeline(command, **options)
        said = ran.out + ran.err
        assert ran.code == {"sync": 2, "health": 1}[command]
        assert "PostgreSQL kept at 127.0.0.1:1: the server does not respond" in said
        assert "Check the host and port in DAGSTER_DATABASE_URL" in said
        assert not any(piece in said for piece in ("s3cr3t", "pa55"))
    (found,) = examined(options, monkeypatch)
    assert (found.state, "127.0.0.1:1" in found.detail) == ("error", True)
    assert str(found.remedy).startswith("Check the host and port in DAGSTER_DATABASE_URL")
    query(target_url, "SELECT 1 / (to_regnamespace('dagster') IS NULL)::int")
