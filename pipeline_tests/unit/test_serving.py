"""The three processes that run for good, started with the commands of the units in deploy/systemd.

A run is launched as the UI launches it, through the webserver; the daemon takes it from the queue,
the code server runs it in a real target.
"""

from pathlib import Path

import pytest

from pipeline.config import settings
from pipeline.core.errors import SettingsError
from pipeline.orchestration.serving import services
from pipeline_tests.support.commands import usable
from pipeline_tests.support.sources import SourceFile


def served(source: SourceFile, folder: Path) -> dict[str, str]:
    """Settings of a service whose databases do not answer."""
    return usable(source, "postgresql://127.0.0.1:1/db", folder) | {
        "DAGSTER_DATABASE_URL": "postgresql://127.0.0.1:1/dagster"
    }


@pytest.mark.parametrize("url", ["postgresql:///dagster?host=/run/postgresql", "postgresql:///d"])
def test_what_runs_for_good_keeps_its_records_where_other_machines_reach_them(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in served(SourceFile(tmp_path / "source.db"), tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_DATABASE_URL", url)
    for part in services.Service:
        with pytest.raises(SettingsError) as refused:
            services.serve(part, settings.load())
        assert str(refused.value) == (
            "DAGSTER_DATABASE_URL names a Unix socket, which services in other containers or on"
            " other machines cannot reach. Write it with a host and a port,"
            " postgresql://USER:PASSWORD@HOST:5432/DATABASE."
        )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "ui.example.org"])
def test_the_ui_is_not_opened_to_other_machines_without_a_login(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SourceFile(tmp_path / "source.db")
    for name, value in served(source, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UI_HOST", host)
    with pytest.raises(SettingsError, match=f"UI_HOST is {host}.* UI_PASSWORD"):
        services.serve(services.Service.WEBSERVER, settings.load())
    for name, value in (
        ("UI_PASSWORD", "a password of some length"),
        ("UI_USER_HEADER", "X-User"),
        ("UI_WITHOUT_LOGIN", "true"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            services.require_login(settings.load())


@pytest.mark.parametrize("lacking", ["DATABASE_URL", "SQLITE_DATABASE_URL", "DAGSTER_DATABASE_URL"])
def test_what_runs_for_good_needs_databases_of_its_own(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SourceFile(tmp_path / "source.db")
    for name, value in served(source, tmp_path).items():
        monkeypatch.setenv(name, "" if name == lacking else value)
    with pytest.raises(SettingsError, match=f"{lacking} is not set"):
        services.serve(services.Service.WEBSERVER, settings.load())


def test_a_home_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    loaded = settings.load(pipeline_home=tmp_path / ("x" * 100))
    with pytest.raises(SettingsError, match="PIPELINE_HOME is too long"):
        _ = loaded.code_socket
