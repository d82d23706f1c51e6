"""The settings that every session with PostgreSQL relies on, and how a session sets them.

A server, a database, a role, a URL and the environment can each change the defaults of a session. A
session of this project relies on none of them. The connection request carries the settings that all
versions support and all users may change. One statement, in one round trip, then corrects all
remaining differences. It refuses a standby, a database whose encoding is not UTF8, and a setting
that only a superuser may correct.

Settings not listed here affect neither values nor locks: see the list in the tests.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote, urlencode

import psycopg2

from pipeline.core.errors import TargetError
from pipeline.core.progress import waiting
from pipeline.core.quoting import literal
from pipeline.core.server_errors import (
    SESSION_ENCODING,
    SESSION_POOLER,
    SESSION_SETTING,
    SESSION_STANDBY,
)
from pipeline.postgres.driver.poolers import DIRECT, require_own_session

MOVING = "pipeline.moving"
"""The setting that is on during a transaction of a move; all other writes are captured."""

TRIGGER_REMEDY = (
    f"Make the trigger do nothing where current_setting('{MOVING}', true) is 'on', or disable it,"
    " then run again"
)
"""The remedy for a trigger that interferes with a move."""

CANARY = "pipeline.canary"
"""The setting that makes the feed publish the writes of a move."""

SILENCE: Mapping[str, int] = MappingProxyType(
    {
        "connect_timeout": 30,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 6,
        "tcp_user_timeout": 120_000,
    }
)
"""A silent connection is considered lost after about two minutes; the default is two hours."""


@dataclass(frozen=True)
class Setting:
    """A setting that a session relies on.

    Attributes:
        value: the required value, as ``current_setting`` returns it.
        why: what goes wrong with any other value.
        also: other accepted values; a session does not change them.
        early: the connection request can carry it, because all supported versions know it and all
            users may set it.
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
    *_all("a run waits for a lock indefinitely", lock_timeout="1min"),
    *_all(
        "a session that waits for the other database is terminated",
        idle_in_transaction_session_timeout="0",
        idle_session_timeout="0",
    ),
    # PostgreSQL 17 and later.
    *_all("the transaction of a large table is terminated", early=False, transaction_timeout="0"),
)
LIMITS = frozenset(setting.name for setting in _LIMITS)
"""Timeouts, which an application may want to keep as configured on its server."""

SETTINGS: tuple[Setting, ...] = (
    *_LIMITS,
    *_all("texts are stored and read with the wrong encoding", client_encoding="UTF8"),
    *_all(
        "a value is written or read in a different format",
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
        "a timestamp without a time zone means another point in time",
        TimeZone="UTC",
        timezone_abbreviations="Default",
    ),
    *_all("digits of numbers are lost", extra_float_digits="1"),
    *_all(
        "a statement has another meaning",
        standard_conforming_strings="on",
        backslash_quote="safe_encoding",
        array_nulls="on",
        transform_null_equals="off",
    ),
    # With pg_temp last, a temporary table of the same name does not hide the moved one.
    *_all("another table of the same name is used", search_path="public, pg_temp"),
    *_all("tables belong to another user", role="none"),
    *_all("policies hide rows instead of raising an error", row_security="off"),
    *_all("definitions are written in a different format", quote_all_identifiers="off"),
    *_all("faulty functions are accepted", check_function_bodies="on"),
    *_all("a table lacks features of heap tables", default_table_access_method="heap"),
    *_all(
        "rows committed by others while waiting for a lock are not seen",
        default_transaction_isolation="read committed",
    ),
    *_all("nothing can be written", default_transaction_read_only="off"),
    *_all("a transaction waits indefinitely", default_transaction_deferrable="off"),
    *_all("an index omits rows at random", gin_fuzzy_search_limit="0"),
    *_all(
        "needless messages are sent with every statement",
        client_min_messages="warning",
        escape_string_warning="on",
    ),
    *_all("one refused row ends the session", exit_on_error="off"),
    Setting(
        "synchronous_commit",
        "on",
        "proven data is lost when the server fails",
        also=("local", "remote_write", "remote_apply"),
        early=False,
    ),
    *_all(
        "a query over large tables runs indefinitely",
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
    # One setting with two names: before PostgreSQL 16, and later.
    *_all(
        "a plan meant for testing the server is used",
        early=False,
        force_parallel_mode="off",
        debug_parallel_query="off",
    ),
    # Minor releases of August 2024 and later.
    *_all("views cannot be read", early=False, restrict_nonsystem_relation_kind=""),
    *_all("triggers and foreign keys do nothing", early=False, session_replication_role="origin"),
    # PostgreSQL 17 and later.
    *_all("event triggers do not run for new tables", early=False, event_triggers="on"),
    *_all(
        "damaged pages are read without an error",
        early=False,
        zero_damaged_pages="off",
        ignore_checksum_failure="off",
    ),
    Setting("plpgsql.variable_conflict", "error", "a function uses another column", early=False),
    Setting("plpgsql.extra_errors", "none", "valid functions raise errors", early=False),
    Setting(MOVING, "off", "changes are mistaken for those of a move", also=("",), early=False),
    Setting(CANARY, "off", "rows of a move are published", also=("",), early=False),
)
"""The settings that every session relies on; limits come first because they already apply."""


def stating(without: Collection[str] = (), **values: str) -> tuple[Setting, ...]:
    """All settings without some, and some with other values."""
    return tuple(
        replace(setting, value=values.get(setting.name, setting.value))
        for setting in SETTINGS
        if setting.name not in without
    )


MOVES = SETTINGS
"""For a session that moves, proves or backs up rows. Hidden rows raise an error."""

APPLICATION = stating(row_security="on")
"""For a session of the application or its subscribers, to which policies apply."""

DAGSTER = stating(search_path="dagster")
"""For a session of Dagster's storage, which has columns with local time without a time zone."""


def options(settings: Iterable[Setting]) -> str:
    """The early settings, in the format of libpq's ``options``."""
    stated = [f"-c{each.name}={each.value}" for each in settings if each.early]
    return " ".join(
        each.replace("\\", "\\\\").replace(" ", "\\ ") for each in (*stated, f"-c{DIRECT}=on")
    )


def statement(settings: Iterable[Setting], *, direct: bool = False) -> str:
    """One statement that sets all settings of a session, or raises an error if it cannot.

    Settings unknown to this version of PostgreSQL are skipped.

    Args:
        direct: raise an error unless the server has received the connection request itself.
    """
    pooled = (
        f"pg_catalog.current_setting('{DIRECT}', true) IS DISTINCT FROM 'on'" if direct else "false"
    )
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
  IF {pooled} THEN
    RAISE 'the session belongs to a pooler' USING ERRCODE = '{SESSION_POOLER}';
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
    """Add settings to the connection request of a libpq URL.

    Other parameters of the URL stay: certificates, connection timeouts, its own
    ``application_name``, and other ``options``, which some providers require.

    Args:
        application_name: the name of the session in ``pg_stat_activity``.
        silence: timeouts and keepalives that detect a dead network connection.
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
    """Open a psycopg2 connection with these settings.

    Args:
        shown: the name of this database in messages; contains no password.
        application_name: the name of the session in ``pg_stat_activity``.
        seconds: how long to wait for a server, unless the URL sets it.
        autocommit: every statement is a transaction of its own.

    Raises:
        TargetError: no server answers, or a setting cannot be changed.
    """
    silence = {**SILENCE, "connect_timeout": seconds}
    whole = address(url, settings, application_name=application_name, silence=silence)
    try:
        with waiting(f"connecting to {shown}"):
            connection = psycopg2.connect(whole)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                try:
                    cursor.execute(statement(settings, direct=True))
                except psycopg2.Error as error:
                    if error.pgcode != SESSION_POOLER:
                        raise
                    require_own_session(partial(_number, cursor), url, shown=shown)
                    cursor.execute(statement(settings))
            # Sends nothing, unless a pooler has dropped the settings of the connection request.
            connection.set_client_encoding("UTF8")
            connection.autocommit = autocommit
        except BaseException:
            connection.close()
            raise
    except (psycopg2.Error, UnicodeError) as error:
        # Not "from error": the driver's message may contain the URL.
        raise TargetError.from_driver(error, where=shown, url=url) from None
    return connection


def _number(cursor: Any, sql: str) -> int:
    cursor.execute(sql)
    return int(cursor.fetchone()[0])
