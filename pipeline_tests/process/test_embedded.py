"""The PostgreSQL that runs when none is given, and the settings that say which one is used."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import psutil
import psycopg2
import pytest

from pipeline.config import environment, settings
from pipeline.config.settings import PROJECT
from pipeline.core.errors import SettingsError
from pipeline.migrations.content import CONTENT
from pipeline.orchestration.instance import storage
from pipeline.postgres.target import Target
from pipeline_tests.support import commands
from pipeline_tests.support.servers import kill_server, server_of
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query

HOLD = """
import sys
from pathlib import Path
from pipeline.postgres.embedded.server import ensure_server
print("ready", flush=True)
sys.stdin.readline()
url = ensure_server(Path(sys.argv[1]))
print(url.render_as_string(hide_password=False), flush=True)
sys.stdin.readline()
"""
SHOW = """
from pipeline.migrations.content import CONTENT
from pipeline.config.settings import load
found = load()
source = found.source_path(CONTENT)
print(source, found.configured_target, found.pipeline_home, found.lock_seconds, sep="\\n")
"""


class Holder:
    """A process that uses the server until it is told to end."""

    def __init__(self, data: Path) -> None:
        """Start it; it asks for the server when it is told to."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(data)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        """Wait until it could ask for the server."""
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def ask(self) -> None:
        """Tell it to ask for the server."""
        assert self.process.stdin
        self.process.stdin.write("ask\n")
        self.process.stdin.flush()

    def url(self) -> str:
        """Where it found the server, or why not."""
        assert self.process.stdout
        assert self.process.stderr
        return self.process.stdout.readline().strip() or self.process.stderr.read()

    def end(self) -> None:
        """Let it end as a program does, exit handlers and all."""
        self.process.communicate("end\n", timeout=60)
        assert self.process.returncode == 0

    def kill(self) -> None:
        """End it without any exit handler."""
        self.process.kill()
        self.process.wait()


Hold = Callable[[], Holder]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where this module's server has its data; short, as the path of a socket has to be."""
    made = Path(tempfile.mkdtemp(prefix=f"em{os.getpid()}"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def data(folder: Path) -> Iterator[Path]:
    """The data folder of a server that does not run, before the test and after it."""
    yield folder / "data"
    assert server_of(folder / "data") is None


@pytest.fixture
def hold(data: Path) -> Iterator[Hold]:
    """Starts processes that use the server; none outlives the test, and nor does the server."""
    started: list[Holder] = []

    def start() -> Holder:
        started.append(Holder(data))
        return started[-1]

    yield start
    for holder in started:
        holder.kill()
    if server_of(data) is not None:
        kill_server(data)


def using(hold: Hold) -> tuple[Holder, str]:
    """A process that has asked for the server, and where it found it."""
    holder = hold()
    holder.wait()
    holder.ask()
    return holder, holder.url()


def test_a_server_starts_on_demand_and_stops_with_its_last_user(data: Path, hold: Hold) -> None:
    first, url = using(hold)
    pid = server_of(data)
    assert query(url, "SELECT current_user, inet_server_addr()") == [("postgres", None)]
    second, same = using(hold)
    assert (same, server_of(data)) == (url, pid)
    first.end()
    assert query(url, "SELECT 1") == [(1,)], url
    second.end()
    assert server_of(data) is None
    with pytest.raises(psycopg2.OperationalError):
        query(url, "SELECT 1")


def test_what_was_written_is_there_when_the_server_starts_again(data: Path, hold: Hold) -> None:
    first, url = using(hold)
    query(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    first.end()
    second, url = using(hold)
    assert query(url, "SELECT answer FROM kept") == [(42,)]
    second.end()


def test_a_killed_user_does_not_keep_the_server_alive_for_ever(data: Path, hold: Hold) -> None:
    killed, url = using(hold)
    pid = server_of(data)
    killed.kill()
    assert query(url, "SELECT 1") == [(1,)], url
    comer, _ = using(hold)
    assert server_of(data) == pid
    comer.end()
    assert server_of(data) is None


def test_a_user_who_ends_after_another_was_killed_stops_the_server(data: Path, hold: Hold) -> None:
    (killed, _), (other, _) = using(hold), using(hold)
    killed.kill()
    other.end()
    assert server_of(data) is None


def test_a_server_that_was_killed_itself_starts_again(data: Path, hold: Hold) -> None:
    first, url = using(hold)
    query(url, "CREATE TABLE survives AS SELECT 1 AS one")
    kill_server(data)
    second, url = using(hold)
    assert query(url, "SELECT one FROM survives") == [(1,)]
    first.end()
    second.end()


def test_a_server_that_has_not_finished_starting_is_waited_for(data: Path, hold: Hold) -> None:
    first, url = using(hold)
    # It has to write this again when it starts, which takes it a while.
    query(url, "CREATE TABLE much AS SELECT repeat('x', 400) FROM generate_series(1, 200000)")
    kill_server(data)
    first.kill()
    starter, comer = hold(), hold()
    starter.wait()
    comer.wait()
    starter.ask()
    deadline = time.monotonic() + 20
    while server_of(data) is None and time.monotonic() < deadline:
        time.sleep(0.002)
    starter.kill()
    comer.ask()
    url = comer.url()
    assert url.startswith("postgresql://")
    assert query(url, "SELECT count(*) FROM much") == [(200000,)]
    comer.end()


def test_two_who_come_together_to_a_fresh_folder_share_one_server(folder: Path) -> None:
    data = folder / "fresh"
    holders = [Holder(data) for _ in range(2)]
    for holder in holders:
        holder.wait()
    for holder in holders:
        holder.ask()
    assert holders[0].url() == holders[1].url()
    assert server_of(data) is not None
    for holder in holders:
        holder.end()
    assert server_of(data) is None


@pytest.fixture
def bystander(data: Path, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts programs that have nothing to do with the server, as the user that it runs as."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, cwd: str | Path = "/") -> "subprocess.Popen[bytes]":
        made = Path(tempfile.mkdtemp()) / name
        shutil.copy("/bin/sleep", made)
        made.parent.chmod(0o755)
        owner = data.stat().st_uid
        started.append(subprocess.Popen([made, "60"], cwd=cwd, user=owner))
        shutil.rmtree(made.parent)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def note(data: Path, pid: int) -> None:
    """Leave what a killed server leaves, with the number of another process in it."""
    file = data / "postmaster.pid"
    lines = [pid, data, int(time.time()), 5432, data, "", "  1234567  0", "ready   "]
    file.write_text("\n".join(map(str, lines)) + "\n")
    os.chown(file, data.stat().st_uid, -1)
    file.chmod(0o600)


@pytest.mark.parametrize("name", ["sleep", "postgres"])
def test_a_number_that_another_program_has_now_is_no_server(
    name: str, data: Path, hold: Hold, bystander: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    first, _ = using(hold)
    first.end()
    other = bystander(name)
    note(data, other.pid)
    second, url = using(hold)
    assert query(url, "SELECT 1") == [(1,)], url
    assert server_of(data) != other.pid
    second.end()
    assert server_of(data) is None
    assert other.poll() is None


def test_a_number_beside_the_socket_is_no_server_either(
    data: Path, hold: Hold, bystander: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    first, _ = using(hold)
    lock = data / ".s.PGSQL.5432.lock"
    left = lock.read_text().splitlines()
    first.end()
    other = bystander("sleep")
    lock.write_text("\n".join([str(other.pid), *left[1:]]) + "\n")
    os.chown(lock, data.stat().st_uid, -1)
    second, url = using(hold)
    assert query(url, "SELECT 1") == [(1,)], url
    second.end()
    assert other.poll() is None


def test_whoever_ends_after_the_server_was_killed_touches_nobody_else(
    data: Path, hold: Hold, bystander: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    holder, _ = using(hold)
    kill_server(data)
    other = bystander("sleep")
    note(data, other.pid)
    holder.end()
    assert other.poll() is None
    (data / "postmaster.pid").unlink()


def test_what_may_be_the_server_but_does_not_answer_is_named_at_once(
    data: Path, hold: Hold, bystander: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    first, _ = using(hold)
    first.end()
    other = bystander("postgres", cwd=data)
    note(data, other.pid)
    comer = hold()
    comer.wait()
    started = time.monotonic()
    comer.ask()
    said = comer.url()
    # A second, and the end of a process on a busy machine.
    assert time.monotonic() - started < 5
    assert f"names process {other.pid}, which may be the embedded PostgreSQL" in said
    assert "but it does not answer. Inspect that process" in said
    assert other.poll() is None
    (data / "postmaster.pid").unlink()


def test_a_number_that_another_process_has_now_does_not_keep_the_server_running(
    data: Path, hold: Hold, bystander: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    killed, _ = using(hold)
    other = bystander("sleep")
    noted = data / ".handle_pids.json"
    noted.write_text(f"[{other.pid}]")
    killed.kill()
    comer, _ = using(hold)
    comer.end()
    assert server_of(data) is None


def test_an_interrupted_first_start_leaves_nothing_in_the_way(folder: Path) -> None:
    draft = folder / "again.new"
    draft.mkdir()
    (draft / "PG_VERSION").write_text("18")
    holder, url = using(lambda: Holder(folder / "again"))
    assert query(url, "SELECT 1") == [(1,)], url
    holder.end()
    assert not draft.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give the server another user")
def test_root_gives_the_server_a_user_of_its_own(data: Path, hold: Hold) -> None:
    holder, url = using(hold)
    pid = server_of(data)
    assert psutil.Process(pid).uids().effective != 0
    assert query(url, "SELECT 1") == [(1,)], url
    holder.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give the server another user")
def test_root_opens_the_folders_above_the_data_to_the_server_alone(folder: Path) -> None:
    home = folder / "closed" / "home"
    home.mkdir(parents=True, mode=0o700)
    home.parent.chmod(0o700)
    (home / "note").write_text("private")
    above = {each: each.stat().st_mode for each in folder.parents}
    holder, url = using(lambda: Holder(home / "postgres"))
    assert query(url, "SELECT 1") == [(1,)], url
    for closed in (folder, home.parent, home):
        assert closed.stat().st_mode & 0o067 == 0
    assert {each: each.stat().st_mode for each in folder.parents} == above
    for tried in (home / "note", home, folder, home / "postgres" / "PG_VERSION"):
        # 65534 is nobody.
        shown = subprocess.run(
            ["ls", "-l", tried],
            user=65534,
            group=65534,
            extra_groups=[],
            check=False,
            capture_output=True,
        )
        assert b"Permission denied" in shown.stderr
    # What was tightened meanwhile is opened again.
    home.chmod(0o700)
    holder.end()
    holder, url = using(lambda: Holder(home / "postgres"))
    assert query(url, "SELECT 1") == [(1,)], url
    holder.end()


def test_a_path_that_is_too_long_for_a_socket_works(folder: Path) -> None:
    data = folder / ("long" * 15) / ("longer" * 10) / "data"
    assert len(str(data / ".s.PGSQL.5432")) > 107
    holder, url = using(lambda: Holder(data))
    assert query(url, "SELECT 1") == [(1,)], url
    holder.end()
    assert server_of(data) is None


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder of its own, so that it can have an .env."""
    shutil.copytree(PROJECT / "pipeline", tmp_path / "project" / "pipeline")
    return tmp_path / "project"


def shown(project: Path, **variables: object) -> list[str]:
    """Source, target, home and lock seconds, as a project sees them with these variables."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=project,
        env=commands.environment(**variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_without_settings_a_sample_and_the_embedded_server_are_used(project: Path) -> None:
    home = project / ".pipeline"
    assert shown(project) == [str(home / "sample.db"), "None", str(home), "30.0"]


def test_settings_are_read_from_dot_env_and_the_environment_wins(project: Path) -> None:
    (project / ".env").write_text(
        "SQLITE_DATABASE_URL=sqlite:///words.db\n"
        "DATABASE_URL='postgresql://file:pa#55@host/one'  # with a comment\n"
        "LOCK_SECONDS=7\n"
        "SOMETHING_ELSE=is ignored\n"
    )
    assert shown(project, LOCK_SECONDS=9, PIPELINE_HOME="elsewhere") == [
        str(project / "words.db"),
        "postgresql://file:***@host/one",
        str(project / "elsewhere"),
        "9.0",
    ]
    won = shown(project, SQLITE_DATABASE_URL="sqlite:////else.db", DATABASE_URL="")
    assert won == ["/else.db", "None", str(project / ".pipeline"), "7.0"]


UNUSABLE = {
    "DATABASE_URL": ("mysql://user@host/db", "host/db", "postgresql://user@host:many/db"),
    "SQLITE_DATABASE_URL": ("postgresql://user@host/db", "a.db", "sqlite://", "sqlite:///:memory:"),
    "MAX_DELETE_SHARE": ("abc", "1.5", "-0.1", "nan", ""),
    "LOCK_SECONDS": ("soon", "-1"),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in UNUSABLE.items() for value in values]
)
def test_a_setting_that_cannot_be_used_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^{name} .*\. .*\.$"):
        environment.databases(settings.load(), CONTENT)


@pytest.mark.dagster("fresh")
@pytest.mark.parametrize("form", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_form_of_a_url_serves_both_drivers_and_dagster(
    form: str,
    source: SourceFile,
    target_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = target_url.replace("postgresql:", f"{form}:", 1)
    for name, value in commands.usable(source, url, tmp_path).items():
        monkeypatch.setenv(name, value)
    # What storage.prepare sets for the process, monkeypatch takes back.
    for name in (settings.DAGSTER_URL, settings.DAGSTER_FILES):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT))
    loaded = settings.load()
    found = environment.databases(loaded, CONTENT)
    storage.prepare(found, loaded)
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs() == []
    with Target.connect(found.target_url, shown=found.target_shown) as target:
        assert target.value("SELECT 1") == 1
    with closing(psycopg2.connect(found.target_url)) as connection:
        assert not connection.closed
    schemas = dict(
        query(
            target_url,
            "SELECT table_schema, count(*) FROM information_schema.tables"
            " WHERE table_schema NOT IN ('pg_catalog', 'information_schema') GROUP BY 1",
        )
    )
    assert set(schemas) == {"dagster"}
    assert schemas["dagster"] > 20
