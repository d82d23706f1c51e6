"""What lies in deploy/: every file is read by what will read it, or held against what it must say.

Docker is not needed: of the image and of compose.yaml the essentials are looked at.
"""

import re
import shutil
import subprocess
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.run_coordinator import QueuedRunCoordinator
from sqlalchemy.engine import URL

from pipeline.config.records import dagster_url
from pipeline.config.settings import DAGSTER_URL, libpq
from pipeline.orchestration.instance.launcher import Launcher
from pipeline.orchestration.serving.services import HOME
from pipeline_tests.support.deployment import INSTALLED, PARTS, UNITS
from pipeline_tests.support.runs import use


@pytest.fixture
def instance(database: URL, monkeypatch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    """Dagster's instance, as deploy/dagster.yaml makes it."""
    use(monkeypatch, {"DATABASE_URL": libpq(database)})
    monkeypatch.setenv("DAGSTER_HOME", str(HOME))
    return dg.DagsterInstance.get()


def test_dagster_takes_every_line_of_its_configuration_and_does_what_it_says(
    instance: dg.DagsterInstance,
) -> None:
    with instance:
        assert isinstance(instance.run_launcher, Launcher)
        assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert (queue.max_concurrent_runs, queue.max_user_code_failure_retries) == (1, 5)
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_start_timeout_seconds == 180
        assert instance.run_monitoring_max_runtime_seconds == 86_400
        assert instance.run_monitoring_max_resume_run_attempts == 0
        assert not instance.run_retries_enabled
        assert not instance.telemetry_enabled


def test_systemd_itself_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze is installed")
    for each in UNITS.iterdir():
        (tmp_path / each.name).write_text(each.read_text().replace(INSTALLED, "/bin/true"))
    template = tmp_path / "pipeline@.service"
    for part in PARTS:
        shutil.copy(template, tmp_path / f"pipeline@{part}.service")
    assert _verified(program, tmp_path) == ""
    wrong = template.read_text().replace("KillMode=mixed", "KillMode=gently")
    (tmp_path / "pipeline@code.service").write_text(wrong)
    assert "gently" in _verified(program, tmp_path)


def _verified(program: str, folder: Path) -> str:
    units = [str(each) for each in folder.iterdir() if "@." not in each.name]
    done = subprocess.run(
        [program, "verify", "--man=no", *units],
        env={"SYSTEMD_UNIT_PATH": f"{folder}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    return "\n".join(line for line in done.stderr.splitlines() if str(folder) in line)


def test_no_file_of_these_holds_a_secret(database: URL) -> None:
    assert re.search(r"://[^/\s]*:[^/\s]*@", dagster_url(database.set(username="u", password="p")))
    for path in [each for each in HOME.rglob("*") if each.is_file()]:
        text = path.read_text()
        assert not re.search(r"://[^/\s]*:[^/\s]*@|(?i:password|token)\s*[:=]\s*\S", text), path
    assert f"env: {DAGSTER_URL}" in (HOME / "dagster.yaml").read_text()
