"""What every session with PostgreSQL relies on, and how a session states it.

A server, a database, a role, a URL and the environment can each set what a session starts with. A
session of this project takes none of that for granted. The connection request carries what every
version knows and every user may set; one statement, in one round trip, then puts right whatever
still differs. It refuses a standby, a database that is not in UTF8, and a setting that only a
superuser may put right.

What is not listed here changes neither values nor locks: see the list in the tests.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote, urlencode

import psycopg2

from pipeline.core.errors import (
    SESSION_ENCODING,
    SESSION_SETTING,
    SESSION_STANDBY,
    TargetError,
)
from pipeline.core.quoting import literal

MOVING = "pipeline.moving"
"""The setting that is on in a transaction of a move; what others write is captured."""

LEAVE_ALONE = (
    f"Let the trigger do nothing where current_setting('{MOVING}', true) is 'on', or disable it,"
    " then run again"
)
"""What to do about a trigger that spoils a move."""

CANARY = "pipeline.canary"
"""The setting that makes the feed publish what a move writes."""

SILENCE: Mapping[str, int] = MappingProxyType(
    {
        "connect_timeout": 30,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 6,
        "tcp_user_timeout": 120_000,
    }
)
"""After about two minutes without a sign of life a connection is lost; the default is two hours."""


@dataclass(frozen=True)
class Setting:
    """A setting that a session relies on.

    Attributes:
        name: as PostgreSQL shows it.
        value: what it must be, as ``current_setting`` shows it.
        why: what goes wrong where it is something else.
        also: values that serve as well; a session leaves them alone.
        early: the connection request can carry it, because every supported version knows it and
            every user may set it.
    """

    name: str
    value: str
    why: str
    also: tuple[str, ...] = ()
    early: bool = True


def _all(why: str, *, early: bool = True, **values: str) -> tuple[Setting, ...]:
    return tuple(Setting(name, value, why, early=early) for name, value in values.items())


_LIMITS = (
    *_all("a long statement is cancelled", statement_timeout="0"),
    *_all("a run waits for a lock without end", lock_timeout="1min"),
    *_all(
        "a session that waits for the other database is ended",
        idle_in_transaction_session_timeout="0",
        idle_session_timeout="0",
    ),
    # Known since PostgreSQL 17.
    *_all("the transaction of a large table is ended", early=False, transaction_timeout="0"),
)
LIMITS = frozenset(setting.name for setting in _LIMITS)
"""Limits of time, which an application may want to keep as its server has them."""

SETTINGS: tuple[Setting, ...] = (
    *_LIMITS,
    *_all("texts are stored and read as other texts", client_encoding="UTF8"),
    *_all(
        "a value is written or read in another form",
        DateStyle="ISO, MDY",
        IntervalStyle="postgres",
        bytea_output="hex",
        xmlbinary="base64",
        xmloption="content",
        lc_monetary="C",
        lc_numeric="C",
        lc_time="C",
    ),
    *_all(
        "a moment without a zone means another moment",
        TimeZone="UTC",
        timezone_abbreviations="Default",
    ),
    *_all("digits of numbers are lost", extra_float_digits="1"),
    *_all(
        "a statement means something else",
        standard_conforming_strings="on",
        backslash_quote="safe_encoding",
        array_nulls="on",
        transform_null_equals="off",
    ),
    # Named last, a temporary table of the same name does not come before the moved one.
    *_all("another table of the same name is meant", search_path="public, pg_temp"),
    *_all("tables belong to another user", role="none"),
    *_all("policies hide rows instead of raising an error", row_security="off"),
    *_all("definitions are written in another form", quote_all_identifiers="off"),
    *_all("faulty functions are accepted", check_function_bodies="on"),
    *_all("a table lacks what others have", default_table_access_method="heap"),
    *_all(
        "rows that others committed while a lock was waited for are not seen",
        default_transaction_isolation="read committed",
    ),
    *_all("nothing can be written", default_transaction_read_only="off"),
    *_all("a transaction waits without end", default_transaction_deferrable="off"),
    *_all("an index leaves rows out at random", gin_fuzzy_search_limit="0"),
    *_all(
        "messages nobody needs travel with every statement",
        client_min_messages="warning",
        escape_string_warning="on",
    ),
    *_all("one refused row ends the session", exit_on_error="off"),
    Setting(
        "synchronous_commit",
        "on",
        "what was proven is lost when the server fails",
        also=("local", "remote_write", "remote_apply"),
        early=False,
    ),
    *_all(
        "a query over large tables runs without end",
        enable_bitmapscan="on",
        enable_hashagg="on",
        enable_hashjoin="on",
        enable_indexonlyscan="on",
        enable_indexscan="on",
        enable_material="on",
        enable_memoize="on",
        enable_mergejoin="on",
        enable_nestloop="on",
        enable_seqscan="on",
        enable_sort="on",
        plan_cache_mode="auto",
        vacuum_cost_delay="0",
    ),
    # One setting under two names: before PostgreSQL 16, and since.
    *_all(
        "a plan for tests of the server is used",
        early=False,
        force_parallel_mode="off",
        debug_parallel_query="off",
    ),
    # Known since minor releases of August 2024.
    *_all("views cannot be read", early=False, restrict_nonsystem_relation_kind=""),
    *_all("triggers and foreign keys do nothing", early=False, session_replication_role="origin"),
    # Known since PostgreSQL 17.
    *_all("the server leaves out what it does for new tables", early=False, event_triggers="on"),
    *_all(
        "damaged pages are read as if they were sound",
        early=False,
        zero_damaged_pages="off",
        ignore_checksum_failure="off",
    ),
    Setting("plpgsql.variable_conflict", "error", "a function means another column", early=False),
    Setting("plpgsql.extra_errors", "none", "sound functions raise errors", early=False),
    Setting(MOVING, "off", "changes are taken for those of a move", also=("",), early=False),
    Setting(CANARY, "off", "rows of a move are published", also=("",), early=False),
)
"""What every session relies on, limits first, because they count already."""


def stating(without: Collection[str] = (), **values: str) -> tuple[Setting, ...]:
    """The settings of a kind of session: all but some, some with other values."""
    return tuple(
        replace(setting, value=values.get(setting.name, setting.value))
        for setting in SETTINGS
        if setting.name not in without
    )


MOVES = SETTINGS
"""A session that moves, proves or keeps rows; a row that a policy would hide is an error."""

APPLICATION = stating(row_security="on")
"""A session of the application or its subscribers, to which policies apply."""

DAGSTER = stating(search_path="dagster")
"""A session of Dagster's own storage, some of whose columns hold local time without a zone."""


def options(settings: Iterable[Setting]) -> str:
    """The settings that a connection request can carry, in the form of libpq's ``options``."""
    return " ".join(
        f"-c{setting.name}={setting.value}".replace("\\", "\\\\").replace(" ", "\\ ")
        for setting in settings
        if setting.early
    )


def statement(settings: Iterable[Setting]) -> str:
    """One statement that puts a session right or says why it cannot be.

    A setting that this version of PostgreSQL lacks is skipped.
    """
    stated = ",\n".join(
        f"    ({literal(each.name)}, ARRAY[{', '.join(map(literal, (each.value, *each.also)))}])"
        for each in settings
    )
    return f"""
DO $session$
DECLARE
  wrong record;
BEGIN
  IF pg_catalog.pg_is_in_recovery() THEN
    RAISE 'pg_is_in_recovery() is true' USING ERRCODE = '{SESSION_STANDBY}';
  END IF;
  IF pg_catalog.current_setting('server_encoding') <> 'UTF8' THEN
    RAISE 'server_encoding is %', pg_catalog.current_setting('server_encoding')
      USING ERRCODE = '{SESSION_ENCODING}';
  END IF;
  FOR wrong IN SELECT name, good[1] AS value, pg_catalog.current_setting(name, true) AS held FROM
    (VALUES
{stated}
    ) AS stated(name, good)
    WHERE NOT pg_catalog.current_setting(name, true) = ANY (good)
  LOOP
    BEGIN
      PERFORM pg_catalog.set_config(wrong.name, wrong.value, false);
    EXCEPTION WHEN insufficient_privilege THEN
      RAISE '% is %', wrong.name, wrong.held USING ERRCODE = '{SESSION_SETTING}';
    END;
  END LOOP;
END
$session$
"""


def address(
    url: str,
    settings: Iterable[Setting],
    *,
    application_name: str,
    silence: Mapping[str, int] = SILENCE,
) -> str:
    """A URL for libpq whose connection request states the settings.

    What the URL says otherwise stands: certificates, time limits of the connection, its own
    ``application_name``, and ``options`` that are not stated here, which some providers need.

    Args:
        url: a libpq URL, ``postgresql://...``.
        settings: what the session relies on.
        application_name: what the server's list of sessions calls it.
        silence: when a network that has gone silent is noticed.
    """
    base, _, query = url.partition("?")
    given = [tuple(part.partition("=")[::2]) for part in query.split("&") if part]
    names = {name for name, _ in given}
    own = " ".join(unquote(value) for name, value in given if name == "options")
    missing = {
        name: value
        for name, value in {"application_name": application_name, **silence}.items()
        if name not in names
    }
    stated = {"client_encoding": "UTF8", "options": f"{own} {options(settings)}".lstrip()}
    kept = "&".join(f"{name}={value}" for name, value in given if name not in stated)
    added = urlencode({**missing, **stated}, quote_via=quote)
    return f"{base}?{kept}{'&' if kept else ''}{added}"


def connect(
    url: str,
    *,
    shown: str,
    application_name: str = "pipeline",
    settings: Iterable[Setting] = MOVES,
    seconds: int = SILENCE["connect_timeout"],
    autocommit: bool = True,
) -> Any:
    """A connection of psycopg2 that states what it relies on.

    Args:
        url: a libpq URL, ``postgresql://...``.
        shown: what messages call this database; holds no password.
        application_name: what the server's list of sessions calls it.
        settings: what the session relies on.
        seconds: how long to wait for a server, unless the URL says it.
        autocommit: every statement is a transaction of its own.

    Raises:
        TargetError: no server answers, or a session with it cannot be put right.
    """
    silence = {**SILENCE, "connect_timeout": seconds}
    whole = address(url, settings, application_name=application_name, silence=silence)
    try:
        connection = psycopg2.connect(whole)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement(settings))
            # Asks nothing, unless a pooler has kept the connection request to itself.
            connection.set_client_encoding("UTF8")
            connection.autocommit = autocommit
        except BaseException:
            connection.close()
            raise
    except (psycopg2.Error, UnicodeError) as error:
        # Not "from error": the driver's own text may repeat the URL.
        raise TargetError.from_driver(error, where=shown, url=url) from None
    return connection
