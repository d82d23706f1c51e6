"""A URL is read as it was meant or refused; no piece of a password is shown or asked of DNS."""

import asyncio
import functools
import os
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote, unquote, urlsplit

import httpx
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn
from sqlalchemy.engine import make_url

from pipeline.anki.store.connect import AnkiConnect
from pipeline.anki.store.open import configured_anki
from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.realtime.transports.session import connect
from pipeline.config import settings
from pipeline.config.records import dagster_url
from pipeline.config.settings import libpq, shown
from pipeline.core import urls
from pipeline.core.errors import PipelineError
from pipeline.migrations.content import CONTENT
from pipeline.orchestration.alerts.receivers import receivers

HOST = "db.host.example"


LETTERS = "@:/?#[]%&=+;,'\"\\ $!*()<>^`{|}~" * 2 + "0479QXZJxkéü\u0e02\u0e49"
"""Whatever means something to a parser, and letters that no message has side by side."""


PASSWORDS = st.text(LETTERS, min_size=3, max_size=16)


Read = tuple[str, str, str]
"""User, password and host."""


def of_target(loaded: settings.Settings, said: list[str]) -> Read:
    """As each of those reads it who are given the target."""
    target = loaded.configured_target
    assert target is not None
    said += [shown(target), repr(target)]
    again, dsn = make_url(dagster_url(target)), parse_dsn(libpq(target))
    read = str(target.username), str(target.password), str(target.host)
    assert (again.username, again.password, again.host) == read
    assert (dsn["user"], dsn["password"], dsn["host"]) == read
    return read


def of_mail(loaded: settings.Settings, said: list[str]) -> Read:
    """As it logs in."""
    (mail,) = receivers(loaded.alerts)
    said += [repr(mail), mail.shown]
    parts = urlsplit(mail.url)  # type: ignore[attr-defined]
    return unquote(parts.username or ""), unquote(parts.password or ""), parts.hostname or ""


def of_webhook(loaded: settings.Settings, said: list[str]) -> Read:
    """As the client reads it."""
    (hook,) = receivers(loaded.alerts)
    said += [repr(hook), hook.shown]
    url = httpx.URL(hook.url)  # type: ignore[attr-defined]
    return url.username, url.password, url.host


def of_anki(loaded: settings.Settings, said: list[str]) -> Read:
    """As the client reads it."""
    anki = configured_anki(loaded)
    assert isinstance(anki, AnkiConnect)
    said += [anki.shown, repr(anki)]
    url = httpx.URL(anki._url)
    return url.username, url.password, url.host


def of_turso(loaded: settings.Settings, said: list[str]) -> Read:
    """A password has no place there."""
    origin = loaded.origin(CONTENT)
    said += [repr(origin), origin.shown, str(loaded.source_path(CONTENT))]
    raise AssertionError("It was accepted")


MAILS = {"ALERT_FROM": "a@example.org", "ALERT_TO": "b@example.org"}


CASES: dict[
    str, tuple[str, str, Callable[[settings.Settings, list[str]], Read], dict[str, str]]
] = {
    "postgresql": ("DATABASE_URL", "postgresql://{}@{}:5432/postgres", of_target, {}),
    "psycopg2": ("DATABASE_URL", "postgresql+psycopg2://{}@{}", of_target, {}),
    "options": ("DATABASE_URL", "postgres://{}@{}/db?sslmode=require", of_target, {}),
    "smtp": ("ALERT_SMTP_URL", "smtp://{}@{}:587", of_mail, MAILS),
    "webhook": ("ALERT_WEBHOOK_URL", "https://{}@{}/hooks?a=b", of_webhook, {}),
    "anki": ("ANKI_CONNECT_URL", "http://{}@{}:8765", of_anki, {}),
    "turso": ("SQLITE_DATABASE_URL", "libsql://{}@{}", of_turso, {}),
    "turso by http": ("SQLITE_DATABASE_URL", "http://{}@{}:8080", of_turso, {}),
    "file": ("SQLITE_DATABASE_URL", "sqlite://{}@{}/data.db", of_turso, {}),
}


def attempt(case: str, login: str) -> tuple[Read | None, str]:
    """Who was read, None if it was refused, and whatever was said of it."""
    name, form, reader, others = CASES[case]
    said: list[str] = []
    with patch.dict(os.environ, {name: form.format(login, HOST), **others}):
        try:
            loaded = settings.load()
            for each in (loaded, loaded.anki, loaded.alerts):
                said += [repr(each), str(each), each.model_dump_json()]
            return reader(loaded, said), _without_addresses(said)
        except PipelineError as error:
            said += told(error)
            return None, _without_addresses(said)


def _without_addresses(said: list[str]) -> str:
    """What was said, without where objects lie in memory, which may look like a piece by chance."""
    return re.sub(r" at 0x[0-9a-f]+", "", "\n".join(said))


def told(error: BaseException | None) -> Iterator[str]:
    """What an exception says, and each that it came from, without lines of code."""
    while error is not None:
        yield from traceback.format_exception_only(error)
        yield repr(error)
        error = error.__cause__ or error.__context__


def pieces(password: str, said: str, case: str) -> set[str]:
    """What is said of a password, but is not said of every other one."""
    always = _always(case)
    cut = {form[at : at + 3] for form in (password, quote(password)) for at in range(len(form) - 2)}
    return {piece for piece in cut if piece in said and piece not in always}


@functools.cache
def _always(case: str) -> str:
    return attempt(case, "postgres:@@@@@@")[1] + attempt(case, "postgres:aaaaaa")[1]


@pytest.mark.parametrize("case", CASES)
@given(password=PASSWORDS)
@example("pa@ss?word")
@example("XQ@ZJ/4?79")
@example("0479/QX@ZJ")
@example("XQZ@0479")
def test_a_password_is_read_as_it_was_meant_or_refused(case: str, password: str) -> None:
    # Two digits behind a % are an escape, whatever was meant.
    assume(not re.search(r"%[0-9A-Fa-f]{2}", password))
    read, said = attempt(case, f"postgres:{password}")
    assert read in (None, ("postgres", password, HOST))
    assert pieces(password, said, case) == set()
    escaped, said = attempt(case, f"postgres:{quote(password, safe='')}")
    assert escaped == (None if CASES[case][2] is of_turso else ("postgres", password, HOST))
    assert pieces(password, said, case) == set()


@pytest.mark.parametrize(
    "password", ["XQ@ZJ?79", "XQ/ZJ@79", "XQ ZJ", "XQZ%4", "XQ%ffZJ", "XQ%00Z"]
)
def test_programs_that_give_a_url_of_their_own_are_told_nothing_of_it(
    password: str, tmp_path: Path
) -> None:
    url = f"postgresql://postgres:{password}@{HOST}:5432/postgres"
    tries: list[Callable[[], object]] = [
        lambda: HybridDatabaseManager(tmp_path / "cards.db", url),
        lambda: asyncio.run(connect(url, seconds=1)),
        lambda: urls.postgres(url, name="DATABASE_URL"),
    ]
    for attempted in tries:
        with pytest.raises(PipelineError, match="%3F") as failed:
            attempted()
        said = "\n".join(told(failed.value))
        assert not re.search("XQ|ZJ|79", said)


CERTAIN = {
    "postgresql://db/x": ("", "", "db"),
    "postgresql:///x": ("", "", ""),
    "postgresql://me@db": ("me", "", "db"),
    "postgresql://me:@/x?host=/run/postgresql": ("me", "", "/run/postgresql"),
    "postgresql://me:a:b#c[d@db:5433/x": ("me", "a:b#c[d", "db"),
    "postgresql://me:pw@[::1]:5432/x": ("me", "pw", "::1"),
    "postgresql://me:pw@one,two/x": ("me", "pw", "one,two"),
    "postgresql://me:pw@one,two:5432/x": ("me", "pw", "one,two"),
    "postgresql://me:pw@db_1.local/a%20b": ("me", "pw", "db_1.local"),
    "postgresql://db/x?user=me&password=p%40w&application_name=a+b": ("me", "p@w", "db"),
    "postgresql+asyncpg://me%40x:pw@db/x?sslmode=require&options=-csearch_path%3Da": (
        "me@x",
        "pw",
        "db",
    ),
}


@pytest.mark.parametrize(("url", "read"), CERTAIN.items())
def test_what_has_one_reading_is_accepted(url: str, read: Read) -> None:
    dsn = parse_dsn(libpq(urls.postgres(url, name="DATABASE_URL")))
    assert (dsn.get("user", ""), dsn.get("password", ""), dsn.get("host", "")) == read


UNCERTAIN = {
    "another database": ("mysql://me:XQZJ@db/x", "is not a PostgreSQL URL"),
    "a connection string": ("host=db password=XQZJ", "is not a PostgreSQL URL"),
    "no host behind it": ("postgresql://me:XQZJ", "is malformed or ambiguous"),
    "an @ in the user": ("postgresql://m@e:XQZJ@db/x", "is malformed or ambiguous"),
    "an @ in an option": ("postgresql://db/x?user=me&password=XQ@ZJ", "is malformed or ambiguous"),
    "a host of odd letters": ("postgresql://me:pw@XQ;ZJ/x", "is malformed or ambiguous"),
    "two passwords": (
        "postgresql://me:XQZJ@db/x?password=a+b",
        "an unknown or ambiguous option after the ?",
    ),
    "two hosts": (
        "postgresql://me:XQZJ@db/x?host=elsewhere",
        "an unknown or ambiguous option after the ?",
    ),
    "two databases": (
        "postgresql://me:XQZJ@db/x?dbname=y",
        "an unknown or ambiguous option after the ?",
    ),
    "a + in an option": (
        "postgresql://db/x?password=XQ+ZJ",
        "an unknown or ambiguous option after the ?",
    ),
    "an unknown option": (
        "postgresql://db/x?XQZJ=require",
        "an unknown or ambiguous option after the ?",
    ),
    "an option without value": (
        "postgresql://db/x?password=XQ&ZJ",
        "an unknown or ambiguous option after the ?",
    ),
}


@pytest.mark.parametrize(("url", "why"), UNCERTAIN.values(), ids=UNCERTAIN)
def test_what_has_more_than_one_reading_is_refused(url: str, why: str) -> None:
    with pytest.raises(PipelineError, match=re.escape(why)) as failed:
        urls.postgres(url, name="DATABASE_URL")
    assert not re.search("XQ|ZJ", "\n".join(told(failed.value)))


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        ("https://org.webhook.example/hooks/1@2/IncomingWebhook/3", True),
        ("https://me:pw@host:8443/x?a=b#c", True),
        ("http://[::1]:8765", True),
        ("https://me:12/34@host/x", False),
        ("https://me:p@ss/wo@host/x", False),
        ("https://host:99999", False),
        ("https://host:0", False),
        ("https:///x", False),
        ("https://ho st", False),
        ("ftp://host", False),
        ("https://me:%ff@host", False),
    ],
)
def test_a_server_is_read_in_one_way_or_not_at_all(url: str, accepted: bool) -> None:
    assert (urls.server(url, ("http", "https")) is not None) == accepted


def test_the_address_of_the_ui_holds_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_UI_URL", "https://me:XQZJ@ui.example")
    with pytest.raises(PipelineError, match="without a user or password") as failed:
        settings.load()
    assert "XQZJ" not in "\n".join(told(failed.value))
