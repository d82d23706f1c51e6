"""The three processes that run for good, started with the commands of the units in deploy/systemd.

A run is launched as the UI launches it, through the webserver; the daemon takes it from the queue,
the code server runs it in a real target.
"""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import psutil
import pytest
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._daemon.monitoring.run_monitoring import monitor_started_run
from dagster._grpc.client import DagsterGrpcClient
from sqlalchemy.engine import URL

from bench.proxy import relay
from pipeline.config import settings
from pipeline.config.settings import CODE_SOCKET, libpq
from pipeline.core.errors import SettingsError
from pipeline.orchestration.common.retries import RETRIES
from pipeline.orchestration.instance import processes
from pipeline.orchestration.instance.launcher import Launcher
from pipeline.orchestration.serving import health, services
from pipeline.orchestration.serving.components import Component
from pipeline_tests.support.commands import environment, usable
from pipeline_tests.support.deployment import PARTS, started_by
from pipeline_tests.support.files import loose
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

SECONDS = 60
TOKEN = "a-token-of-nobody-in-particular-0"
"""By which scripts are let in."""
ASIDE = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
"""Starts a command as a script does that puts it aside; it must end on SIGTERM all the same."""
DISCONNECT = """
CREATE FUNCTION disconnect() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;
CREATE TRIGGER disconnect BEFORE INSERT OR UPDATE ON rankings
FOR EACH STATEMENT EXECUTE FUNCTION disconnect();
"""
"""Whoever writes to this table loses the connection at that moment."""
LAUNCH = """
mutation($job: String!) { launchRun(executionParams: { runConfigData: {}, selector: {
  repositoryLocationName: "pipeline", repositoryName: "__repository__", jobName: $job } })
{ __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""
STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


@dataclass(frozen=True)
class Served:
    """Three processes, and what they work on."""

    source: SourceFile
    variables: dict[str, str]
    numbers: dict[str, int]

    @property
    def url(self) -> str:
        """The target."""
        return self.variables["DATABASE_URL"]

    @property
    def records(self) -> str:
        """The database of Dagster's records."""
        return self.variables["DAGSTER_DATABASE_URL"]

    def ask(self, question: str, **variables: str) -> dict[str, Any]:
        """Ask the webserver by GraphQL."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.variables['UI_PORT']}/graphql",
            json.dumps({"query": question, "variables": variables}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=SECONDS) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data

    def launch(self, job: str) -> str:
        """Launch a job as the UI does; returns the run."""
        launched = self.ask(LAUNCH, job=job)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run: str = launched["run"]["runId"]
        return run

    def ended(self, run: str) -> str:
        """Wait for a run's end; returns how it ended."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            status: str = self.ask(STATUS, run=run)["runOrError"]["status"]
            if status in ("SUCCESS", "FAILURE", "CANCELED"):
                return status
            time.sleep(0.2)
        raise AssertionError(f"run {run} did not end; it is {status}")

    def steps(self, run: str, event: str) -> list[str]:
        """The steps of which such an event was recorded, in order."""
        found = query(
            self.records,
            "SELECT step_key FROM dagster.event_logs WHERE run_id = %s AND"
            " dagster_event_type = %s ORDER BY id",
            (run, event),
        )
        return [step for (step,) in found]


@pytest.fixture(scope="module")
def served(server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The three processes on a database of their own; all are ended."""
    # Short, because a Unix socket's path has room for about a hundred letters.
    folder = Path(tempfile.mkdtemp(prefix="srv"))
    logs = tmp_path_factory.mktemp("served")
    source = SourceFile.make(folder / "source.db")
    source.add_family(contents=1)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    with (
        new_database(server, "served") as target,
        new_database(server, "served_records") as kept,
        relay(kept) as proxy,
    ):
        variables = usable(source, libpq(target), folder) | {
            "DAGSTER_DATABASE_URL": libpq(proxy.url),
            "UI_PORT": str(port),
            "UI_TOKEN": TOKEN,
        }
        started: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for part in PARTS:
                with (logs / f"{part}.log").open("w") as log:
                    started[part] = subprocess.Popen(
                        [*ASIDE, Path(sys.executable).with_name("pipeline"), *started_by(part)],
                        env=environment(**variables),
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        cwd=folder,
                        umask=0,
                    )
            made = Served(source, variables, {part: each.pid for part, each in started.items()})
            _await(made, started, logs)
            yield made
        finally:
            killed = [part for part, each in started.items() if not _ended(each)]
        assert killed == [], "they did not end when they were told to"
    shutil.rmtree(folder, ignore_errors=True)


def _await(made: Served, started: dict[str, subprocess.Popen[bytes]], logs: Path) -> None:
    until = time.monotonic() + SECONDS
    loaded = False
    while not loaded:
        ended = [part for part, each in started.items() if each.poll() is not None]
        assert not ended, f"{ended} ended; see {logs}"
        assert time.monotonic() < until, f"the code is not loaded; see {logs}"
        time.sleep(0.2)
        with suppress(OSError):
            entries = "query { workspaceOrError { ... on Workspace { locationEntries {"
            entries += " loadStatus locationOrLoadError { __typename } } } } }"
            found = made.ask(entries)["workspaceOrError"]["locationEntries"]
            loaded = [each["locationOrLoadError"] for each in found] == [
                {"__typename": "RepositoryLocation"}
            ]


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """End a process and all that it started; whether telling it was enough."""
    with suppress(psutil.NoSuchProcess):
        whole = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        left = psutil.wait_procs(whole, 30)[1]
        for each in left:
            each.kill()
        process.wait()
        return not left
    return True


@pytest.fixture
def instance(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance as the daemon has it."""
    use(monkeypatch, served.variables)
    monkeypatch.setenv("DAGSTER_HOME", str(services.HOME))
    monkeypatch.setenv(CODE_SOCKET, str(settings.load().code_socket))
    with dg.DagsterInstance.get() as opened:
        yield opened


@pytest.fixture(scope="module")
def migrated(served: Served) -> str:
    """The run of a migration that was launched in the UI."""
    run = served.launch("migrate")
    assert served.ended(run) == "SUCCESS"
    return run


def test_a_migration_launched_in_the_ui_moves_the_tables(served: Served, migrated: str) -> None:
    assert query(served.url, "SELECT count(*) FROM rankings") == [(4,)]


def test_health_finds_all_well_while_the_three_run(
    served: Served, instance: dg.DagsterInstance, migrated: str
) -> None:
    found = health.readings(settings.load(), [])
    assert [(reading.component, reading.ok) for reading in found] == [
        (component, True) for component in Component
    ], found


def test_only_the_owner_can_reach_the_code_server_and_what_runs_left(served: Served) -> None:
    """Who can reach it can start runs; writing is what connecting to a socket needs."""
    home = Path(served.variables["PIPELINE_HOME"])
    assert (home / "code.sock").is_socket()
    assert loose(home) == set()
    code = psutil.Process(served.numbers["code"])
    assert [each.laddr for each in code.net_connections("inet") if each.status == "LISTEN"] == []


def test_the_webserver_takes_orders_of_pages_of_its_own_and_of_scripts_with_the_token_alone(
    served: Served,
) -> None:
    address = f"http://127.0.0.1:{served.variables['UI_PORT']}"
    order = {"query": LAUNCH, "variables": {"job": "plan"}}
    ((before,),) = query(served.records, "SELECT count(*) FROM dagster.runs")
    with httpx.Client(base_url=address, trust_env=False) as client:
        statuses = [
            client.get("/graphql", params={"query": LAUNCH, "variables": '{"job": "plan"}'}),
            client.post("/graphql", json=order),
            client.post("/graphql", json=order, headers={"Origin": "http://127.0.0.1:1"}),
            client.post("/graphql", json=order, headers={"Authorization": f"Bearer {TOKEN}x"}),
            client.get("/server_info", headers={"Host": "rebind.test"}),
            client.get("/server_info"),
        ]
        assert [each.status_code for each in statuses] == [405, 403, 403, 403, 403, 200]
        assert "server" not in statuses[-1].headers
    assert query(served.records, "SELECT count(*) FROM dagster.runs") == [(before,)]


def test_the_webserver_listens_on_the_loopback_address_alone(served: Served) -> None:
    web = psutil.Process(served.numbers["webserver"])
    listening = [each.laddr for each in web.net_connections("inet") if each.status == "LISTEN"]
    assert [(each.ip, each.port) for each in listening] == [
        ("127.0.0.1", int(served.variables["UI_PORT"]))
    ]


def test_a_second_code_server_of_the_same_home_is_refused(
    served: Served, instance: dg.DagsterInstance
) -> None:
    with pytest.raises(SettingsError, match="already listening on"):
        services.serve(services.Service.CODE, settings.load())


def test_no_password_stands_in_the_arguments_of_a_process(served: Served) -> None:
    for number in served.numbers.values():
        assert "postgresql" not in " ".join(psutil.Process(number).cmdline())


def test_a_lost_connection_is_tried_again_by_the_step_and_not_by_the_run_as_well(
    served: Served, migrated: str
) -> None:
    query(served.url, DISCONNECT)
    served.source.run("UPDATE rankings SET assessed_by = 'another' WHERE id = 1")
    ((before,),) = query(served.records, "SELECT count(*) FROM dagster.runs")
    run = served.launch("migrate")
    while "rankings" not in served.steps(run, "STEP_UP_FOR_RETRY"):
        time.sleep(0.1)
    assert run in DagsterGrpcClient(socket=str(_socket(served))).get_current_runs()
    assert served.ended(run) == "FAILURE"
    assert served.steps(run, "STEP_UP_FOR_RETRY") == ["rankings"] * RETRIES
    assert served.steps(run, "STEP_FAILURE") == ["rankings"]
    # What tries runs again is a part of the daemon, which gives signs where it is on.
    beats = {
        name
        for (name,) in query(served.records, "SELECT daemon_type FROM dagster.daemon_heartbeats")
    }
    assert "QUEUED_RUN_COORDINATOR" in beats
    assert "EVENT_LOG_CONSUMER" not in beats
    assert query(served.records, "SELECT count(*) FROM dagster.runs") == [(before + 1,)]
    query(served.url, "DROP TRIGGER disconnect ON rankings")


def _socket(served: Served) -> Path:
    return Path(served.variables["PIPELINE_HOME"]) / "code.sock"


def _started(instance: dg.DagsterInstance, number: int, tags: dict[str, str]) -> dg.DagsterRun:
    run = dg.DagsterRun(
        job_name="sync",
        run_id=f"00000000-0000-4000-8000-{number:012}",
        status=dg.DagsterRunStatus.STARTED,
        tags=tags,
    )
    instance.add_run(run)
    return run


def test_a_run_that_the_code_server_lost_is_reported_so_that_the_queue_goes_on(
    served: Served, instance: dg.DagsterInstance
) -> None:
    tags = {GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": str(_socket(served))})}
    run = _started(instance, 1, tags)
    record = instance.get_run_record_by_id(run.run_id)
    assert record is not None
    workspace: Any = None
    monitor_started_run(instance, workspace, record, dg.get_dagster_logger())
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status == dg.DagsterRunStatus.FAILURE


CASES = {
    "a code server that does not answer now": (
        {GRPC_INFO_TAG: '{"host": "localhost", "socket": "/nowhere/code.sock"}'},
        WorkerStatus.RUNNING,
    ),
    "a command that runs": ({processes.TAG: processes.mine()}, WorkerStatus.RUNNING),
    "a command that was killed": (
        {processes.TAG: f"{socket.gethostname()} 4194400 1"},
        WorkerStatus.NOT_FOUND,
    ),
    "a command whose number was reused": (
        {processes.TAG: f"{processes.mine()}1"},
        WorkerStatus.NOT_FOUND,
    ),
    "a command of another machine": ({processes.TAG: "elsewhere 1 1"}, WorkerStatus.RUNNING),
    "nobody knows": ({}, WorkerStatus.RUNNING),
}


@pytest.mark.parametrize("case", CASES)
def test_the_launcher_knows_which_runs_are_gone(
    case: str, served: Served, instance: dg.DagsterInstance
) -> None:
    tags, status = CASES[case]
    run = _started(instance, 10 + list(CASES).index(case), tags)
    launcher = instance.run_launcher
    assert isinstance(launcher, Launcher)
    assert launcher.check_run_worker_health(run).status == status
    instance.delete_run(run.run_id)
