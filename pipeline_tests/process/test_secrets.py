"""A password is shown nowhere: not in output, errors, Dagster's records, the ledger or files."""

import itertools
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import psycopg2
import pytest
from pydantic import SecretStr
from sqlalchemy.engine import URL, make_url

from pipeline.config import settings
from pipeline.config.environment import Server
from pipeline.config.settings import libpq, shown
from pipeline.core.errors import PipelineError, without_password
from pipeline.migrations import registry
from pipeline.orchestration.instance import storage
from pipeline.postgres.target import Target
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import everything_stored, new_database, query

SECRET = "s3cr3t-pa55"
AWKWARD = f"@:/%40 ?#&'\"\\ {SECRET} ü@:"
"""A password with every character that means something in a URL or in a connection string."""

HIDDEN = (SECRET, quote(SECRET, safe=""), "s3cr3t", "pa55")
_numbers = itertools.count()


@dataclass(frozen=True)
class Login:
    """A user whom the server asks for a password."""

    user: str
    password: str

    def url(self, database: URL) -> str:
        """The database, as a person writes its URL for this user."""
        base = database.set(username=self.user, password="HERE")
        return libpq(base).replace("HERE", quote(self.password, safe=""))


@pytest.fixture
def login(server: URL, database: URL) -> Iterator[Login]:
    """A user with an awkward password, who may create schemas but nothing in public yet."""
    login = Login(f"app_{next(_numbers)}", AWKWARD)
    admin = libpq(database)
    query(admin, f"CREATE ROLE {login.user} LOGIN PASSWORD %s", (login.password,))
    query(admin, f"GRANT CREATE ON DATABASE {database.database} TO {login.user}")
    ((rules,),) = query(admin, "SHOW hba_file")
    before = Path(rules).read_text()
    Path(rules).write_text(f"local all {login.user} scram-sha-256\n{before}")
    query(admin, "SELECT pg_reload_conf()")
    yield login
    Path(rules).write_text(before)
    query(admin, f"DROP OWNED BY {login.user} CASCADE")
    query(admin, f"DROP ROLE {login.user}")


@pytest.fixture
def own_records(server: URL, login: Login) -> Iterator[URL]:
    """A database for Dagster's records that belongs to this user."""
    with new_database(server, "own_records") as made:
        query(libpq(made), f"ALTER DATABASE own_records OWNER TO {login.user}")
        yield made


def leaks(text: str) -> set[str]:
    """The pieces of the password that a text holds."""
    return {piece for piece in HIDDEN if piece in text}


def test_a_whole_run_with_an_awkward_password_works_and_leaves_no_trace_of_it(
    source: SourceFile, database: URL, own_records: URL, login: Login, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    source.add("learning_content", {"id": 7, "tags": "no json"})
    options = usable(source, login.url(database), tmp_path)
    options["DAGSTER_DATABASE_URL"] = login.url(own_records)
    query(libpq(database), f"REVOKE CREATE ON SCHEMA public FROM PUBLIC, {login.user}")
    refused = pipeline("migrate", **options)
    query(libpq(database), f"GRANT CREATE ON SCHEMA public TO {login.user}")
    moved = pipeline("migrate", **options)
    assert (refused.code, moved.code) == (1, 0), refused.err + moved.err
    assert "the user lacks a privilege" in refused.err
    assert leaks(refused.out + refused.err + moved.out + moved.err) == set()
    stored = [*everything_stored(libpq(database)), *everything_stored(libpq(own_records))]
    assert {"dagster.runs", "dagster.event_logs", "dagster.snapshots", "migration.quarantine"} <= {
        table for table, _ in stored
    }
    assert {table for table, text in stored if leaks(text)} == set()
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if leaks(path.read_text(errors="replace"))] == []


def test_a_target_that_does_not_answer_is_named_without_its_password(
    source: SourceFile, tmp_path: Path
) -> None:
    url = f"postgresql://user:{SECRET}@127.0.0.1:1/db"
    ran = pipeline("migrate", **usable(source, url, tmp_path))
    assert ran.code == 2
    assert "127.0.0.1" in ran.err
    assert leaks(ran.out + ran.err) == set()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if leaks(path.read_text(errors="replace"))] == []


FAILING = {
    "closed port": f"postgresql://user:{SECRET}@127.0.0.1:1/db",
    "no such host": f"postgresql://user:{SECRET}@nowhere.invalid/db",
    "no such socket": f"postgresql://user:{SECRET}@/db?host=/nowhere",
    "unknown option": f"postgresql://user:{SECRET}@127.0.0.1:1/db?sslmod=require",
    "wrong option": f"postgresql://user:{SECRET}@127.0.0.1:1/db?sslmode=perhaps",
    "several hosts": f"postgresql://user:{SECRET}@/db?host=127.0.0.1:1&host=nowhere.invalid",
    "password as an option": f"postgresql://127.0.0.1:1/db?user=user&password={SECRET}",
    "a space in it": "postgresql://user:s3cr3t%20pa55@127.0.0.1:1/db",
    "a NUL in it": "postgresql://user:s3cr3t%00pa55@127.0.0.1:1/db",
    "unescaped slash": "postgresql://user:s3cr3t/pa55@127.0.0.1:1/db",
    "unescaped at sign": "postgresql://user:s3cr3t@pa55@127.0.0.1:1/db",
}


@pytest.mark.parametrize("url", FAILING.values(), ids=FAILING.keys())
def test_no_error_of_either_driver_shows_a_password(
    url: str, source: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in usable(source, url, tmp_path).items():
        monkeypatch.setenv(name, value)
    # storage.prepare sets these for the process; monkeypatch takes them back.
    for name in ("DAGSTER_HOME", settings.DAGSTER_URL, settings.DAGSTER_FILES):
        monkeypatch.setenv(name, "")

    def with_adbc() -> None:
        target = settings.load().configured_target
        assert target is not None
        with Target.connect(libpq(target), shown=shown(target)):
            pass

    def with_psycopg2() -> None:
        loaded = settings.load()
        assert loaded.configured_target is not None
        storage.prepare(Server(loaded.configured_target), loaded)

    for connect in (with_adbc, with_psycopg2):
        with pytest.raises(PipelineError) as failed:
            connect()
        # Dagster keeps the whole chain of causes, so nothing in it may tell.
        assert leaks("".join(traceback.format_exception(failed.value))) == set()


def test_a_refused_password_is_not_repeated(database: URL, login: Login) -> None:
    url = Login(login.user, f"not {login.password}").url(database)
    with (
        pytest.raises(PipelineError, match="rejected the user or password") as failed,
        Target.connect(url, shown=shown(make_url(url))),
    ):
        pass
    assert leaks("".join(traceback.format_exception(failed.value))) == set()
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(url)


@pytest.mark.parametrize("said", ["s3cr3t%20pa55", "s3cr3t pa55", "pa55"])
def test_a_password_is_hidden_both_as_it_is_written_and_as_it_is_sent(said: str) -> None:
    for url in (
        "postgresql://user:s3cr3t%20pa55@127.0.0.1/db",
        "postgresql://127.0.0.1/db?user=user&password=s3cr3t%20pa55",
    ):
        assert leaks(without_password(f"nobody has {said} here", url)) == set()


SETTINGS = {
    "DATABASE_URL": f"postgresql://user:{SECRET}@127.0.0.1/db",
    "DAGSTER_DATABASE_URL": f"postgresql://user:{SECRET}@127.0.0.1/dagster",
    "TURSO_AUTH_TOKEN": SECRET,
    "ALERT_WEBHOOK_URL": f"https://127.0.0.1/{SECRET}",
    "ALERT_SMTP_URL": f"smtp://user:{SECRET}@127.0.0.1:25",
    "ANKI_CONNECT_URL": f"http://user:{SECRET}@127.0.0.1:8765",
    "ANKI_CONNECT_KEY": SECRET,
    "UI_TOKEN": f"{SECRET}-{'x' * 32}",
    "UI_PASSWORD": f"{SECRET}-and-more",
}
"""Every setting that holds a secret."""


@pytest.mark.parametrize("name", SETTINGS)
def test_the_secret_of_a_setting_is_taken_out_of_a_text(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, SETTINGS[name])
    told = settings.load().without_secrets(f"it refused {SETTINGS[name]} at last")
    assert leaks(told) == set()
    assert told.startswith("it refused ")


def test_no_setting_that_holds_a_secret_is_left_out_of_these_tests() -> None:
    held = {
        f"{group.model_config.get('env_prefix', '')}{name}".upper()
        for group in (
            settings.Settings,
            settings._source_settings(registry.find()),
            *settings._GROUPS,
        )
        for name, field in group.model_fields.items()
        if SecretStr in get_args(field.annotation)
    }
    # What a source's URL could hold as a secret is refused: its token is a setting of its own.
    assert held - set(SETTINGS) == {"SQLITE_DATABASE_URL", "SPACES_DATABASE_URL"}


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_settings_show_no_password(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{kind}://user:{SECRET}@127.0.0.1/db")
    loaded = settings.load()
    try:
        found = Server(loaded.configured_target or make_url("x://"))
        texts = [repr(found), str(found.target), found.target_shown]
    except PipelineError as error:
        texts = ["".join(traceback.format_exception(error))]
    texts += [repr(loaded), str(loaded), loaded.model_dump_json()]
    assert [text for text in texts if leaks(text)] == []


def test_no_command_shows_a_password_or_leaves_one_behind(
    source: SourceFile,
    database: URL,
    own_records: URL,
    login: Login,
    tmp_path: Path,
) -> None:
    source.add_family(contents=1)
    query(libpq(database), f"GRANT CREATE ON SCHEMA public TO {login.user}")
    options = usable(source, login.url(database), tmp_path)
    options["DAGSTER_DATABASE_URL"] = login.url(own_records)
    ran = [
        pipeline(*command, **options)
        for command in (
            ("track", "on"),
            ("track", "status"),
            ("sync",),
            ("sync", "--full"),
            ("sync",),
            ("track", "off"),
        )
    ]
    assert [each.code for each in ran] == [0] * len(ran), [each.err for each in ran]
    assert leaks("".join(each.out + each.err for each in ran)) == set()
    stored = [*everything_stored(libpq(database)), *everything_stored(libpq(own_records))]
    assert {"dagster.runs", "dagster.event_logs", "migration.watermarks"} <= {t for t, _ in stored}
    assert {table for table, text in stored if leaks(text)} == set()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if leaks(path.read_text(errors="replace"))] == []
