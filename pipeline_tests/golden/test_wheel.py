"""The program installed from a wheel and run from an empty folder, without the project's folder.

The wheel is unpacked as pip unpacks it; what it depends on is that of the tests.
"""

import compileall
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.settings import PROJECT
from pipeline_tests.support.commands import environment
from pipeline_tests.support.servers import kill_server, server_of

SECONDS = 90
COMMANDS = """
import gc, json, os, sys, time
gc.disable()
import pipeline.cli.main, pipeline.cli.commands.job_runs, pipeline.orchestration.jobs
from pipeline.__main__ import main
for command in json.loads(sys.argv[1]):
    print(command, flush=True)
    child = os.fork()
    if child == 0:
        sys.argv = ["pipeline", *command.split()]
        main()
        sys.exit()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("exit code", code, flush=True)
"""
"""Runs commands one after the other, each in a process that has loaded the program."""
SHOWN = """
import json, os, sys
from pathlib import Path
import pipeline
from dagster._core.instance.config import dagster_instance_config
from dagster._core.workspace.load import location_origins_from_yaml_paths
from pipeline.config import settings
from pipeline.core.private import FILES
from pipeline.orchestration.instance import storage
from pipeline.orchestration.serving.services import HOME
os.environ["PIPELINE_CODE_SOCKET"] = "/s"
shown = [str(Path(pipeline.__file__).parent)]
for home in ("", "there", sys.argv[1]):
    os.environ.pop("PIPELINE_HOME", None)
    if home:
        os.environ["PIPELINE_HOME"] = home
    loaded = settings.load()
    shown += [str(loaded.pipeline_home), str(loaded.origin(loaded.enabled[0]).path)]
for folder in (FILES, HOME):
    found, _ = dagster_instance_config(str(storage._writable(folder, loaded)))
    places = location_origins_from_yaml_paths([str(folder / "workspace.yaml")])
    shown += ["run_launcher" in found, *(each.location_name for each in places)]
print(json.dumps(shown))
"""
LAUNCH = """mutation { launchRun(executionParams: { mode: "default", runConfigData: {}, selector: {
  repositoryLocationName: "pipeline", repositoryName: "__repository__", jobName: "plan" } })
  { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATE = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
  schedules { name } sensors { name } jobs { name } } } ... on PythonError { message } }
  runsOrError { ... on Runs { results { runId jobName status } } } }"""


@dataclass(frozen=True)
class Installed:
    """An environment with the program, and an empty folder."""

    python: Path
    site: Path
    folder: Path

    def run(self, *arguments: str, **settings: object) -> "subprocess.CompletedProcess[str]":
        """Run Python in the folder."""
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def environment(self, **settings: object) -> dict[str, str]:
        """An environment without settings of whoever runs the tests."""
        found = environment(MIGRATIONS="content", PYTHONDONTWRITEBYTECODE="1", **settings)
        return {name: value for name, value in found.items() if name != "DAGSTER_DATABASE_URL"}

    def files(self) -> dict[str, int]:
        """What is installed, with times of change."""
        return {str(each): each.stat().st_mtime_ns for each in self.site.rglob("*")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as pip builds it."""
    before = {path.name for path in PROJECT.iterdir()}
    folder = tmp_path_factory.mktemp("wheel")
    script = "import packaged, sys; packaged.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "deploy"), "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        capture_output=True,
    )
    assert {path.name for path in PROJECT.iterdir()} == before
    (found,) = folder.glob("pipeline-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Installed]:
    """The program, in a folder that cannot be written."""
    # Short, because a Unix socket's path has room for about a hundred letters.
    root = Path(tempfile.mkdtemp(prefix="whl"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "env"], check=True)
    (site,) = (root / "env" / "lib").glob("python3*/site-packages")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    compileall.compile_dir(site / "pipeline", quiet=1)
    (root / "empty").mkdir()
    for path in (site, *site.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    made = Installed(root / "env" / "bin" / "python", site, root / "empty")
    try:
        yield made
    finally:
        data = made.folder / ".pipeline" / "postgres"
        if data.exists() and server_of(data) is not None:
            kill_server(data)
        for path in (site, *site.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(root)


def test_a_wheel_has_every_file_that_the_program_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    package = PROJECT / "pipeline"
    parts = {path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {str(path.relative_to(PROJECT)) for path in parts} <= names
    beside = {".env.example", "dagster.yaml", "workspace.yaml"}
    beside |= {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "deploy").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {f"pipeline/project_files/{name}" for name in beside} <= names
    assert not any(name.startswith("pipeline_tests") for name in names)


def test_commands_keep_their_files_in_the_current_folder(installed: Installed) -> None:
    before = installed.files()
    commands = ["doctor", "plan", "migrate", "sync", "verify", "backup"]
    ran = installed.run("-c", COMMANDS, json.dumps(commands), DATABASE_URL="")
    assert re.findall(r"exit code (-?\d+)", ran.stdout) == ["0"] * len(commands), (
        ran.stdout + ran.stderr
    )
    assert f"evidence {installed.folder}/.pipeline/reports/" in ran.stdout
    assert [path.name for path in installed.folder.iterdir()] == [".pipeline"]
    assert (installed.folder / ".pipeline" / "sample.db").exists()
    assert installed.files() == before


def test_the_home_is_the_setting_or_in_the_current_folder(
    installed: Installed, tmp_path: Path
) -> None:
    source = str(installed.folder / "words.db")
    (installed.folder / ".env").write_text("SQLITE_DATABASE_URL=sqlite:///words.db\n")
    ran = installed.run("-c", SHOWN, str(tmp_path / "home"))
    (installed.folder / ".env").unlink()
    assert json.loads(ran.stdout or "null") == [
        str(installed.site / "pipeline"),
        *(str(installed.folder / ".pipeline"), source),
        *(str(installed.folder / "there"), source),
        *(str(tmp_path / "home"), source),
        *(False, "pipeline"),
        *(True, "pipeline"),
    ], ran.stderr


@pytest.mark.slow
def test_the_ui_runs_jobs_from_the_current_folder(installed: Installed) -> None:
    before = installed.files()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    with (installed.folder.parent / "log").open("w+") as log:
        process = subprocess.Popen(
            [installed.python, "-m", "pipeline", "dev", "--port", str(port)],
            cwd=installed.folder,
            env=installed.environment(DATABASE_URL=""),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            (shown,) = waited(lambda: loaded(port), log)
            assert {"sync_schedule", "verify_schedule"} <= {e["name"] for e in shown["schedules"]}
            started = asked(port, LAUNCH)["launchRun"]
            assert started["__typename"] == "LaunchRunSuccess", started
            run_id = started["run"]["runId"]
            assert waited(lambda: ended(port, run_id), log) == "SUCCESS"
        finally:
            process.terminate()
            process.wait(SECONDS)
    assert [path.name for path in installed.folder.iterdir()] == [".pipeline"]
    assert installed.files() == before


def waited(condition: Any, log: Any) -> Any:
    """The first answer that is not None."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError):
            if (found := condition()) is not None:
                return found
        time.sleep(0.2)
    log.seek(0)
    raise AssertionError(log.read())


def loaded(port: int) -> Any:
    return asked(port, STATE)["repositoriesOrError"].get("nodes") or None


def ended(port: int, run_id: str) -> str | None:
    runs = asked(port, STATE)["runsOrError"]["results"]
    (status,) = (each["status"] for each in runs if each["runId"] == run_id)
    return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None


def asked(port: int, query: str) -> Any:
    """The data of the UI's answer, asked without a proxy."""
    address = f"http://127.0.0.1:{port}"
    headers = {"Content-Type": "application/json", "Origin": address}
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=20) as response:
        return json.load(response)["data"]
