"""Check the PostgreSQL target: connectivity, encryption, privileges and limits."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timezone
from functools import partial
from typing import Any

import psycopg2
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq, pooled, shown
from pipeline.core.errors import ShapeError, TargetError
from pipeline.core.messages import Text
from pipeline.core.quoting import quoted
from pipeline.core.server_errors import CONNECTIONS_OF_A_RUN, SESSION_REFUSALS
from pipeline.declared import ledger
from pipeline.doctor.diagnostics import Diagnostic, State, of_limit
from pipeline.doctor.disk_space import disk_space
from pipeline.doctor.encryption import examine_encryption
from pipeline.move.ledger import unmanaged_rows
from pipeline.postgres import connections, relations, session

OLDEST = 14
"""The oldest supported PostgreSQL version."""

SKEW_SECONDS = 60.0
"""The largest accepted clock difference; sync compares timestamps of both databases."""

_CONNECT_SECONDS = 10
_EXPIRES_SOON_DAYS = 14
_TEMPORARY_KIB = 1024**2
"""1 GiB is enough to sort the keys of about ten million rows."""
_LOCKS_PER_RUN = 400
"""A run locks each table that it creates or reads, with its indexes, keys and sequences."""


def examine(
    url: URL,
    *,
    tables: Sequence[sa.Table],
    bytes_needed: int,
    adopt: bool = False,
    connections_needed: int = CONNECTIONS_OF_A_RUN,
) -> Iterator[Diagnostic]:
    """Check the target in one transaction, which is rolled back.

    Args:
        url: the target; its password does not appear in the results.
        tables: the tables of the migration.
        bytes_needed: the size of the source.
        adopt: accept rows that no move has written.
        connections_needed: connections that a run opens here.
    """
    yield from _address(url)
    started = time.time()
    try:
        with closing(
            session.connect(
                libpq(url), shown=shown(url), seconds=_CONNECT_SECONDS, autocommit=False
            )
        ) as connection:
            yield _diagnostic(
                "reachable", "ok", f"{shown(url)}, connected in {time.time() - started:.2f} s"
            )
            detail = "encoding, isolation level, time zone and other settings apply as required"
            yield _diagnostic("session", "ok", detail)
            with connection.cursor() as cursor:
                limit = connections.tightest(partial(_rows, cursor), needed=connections_needed)
                yield from _inspect(cursor, url, tables, bytes_needed, adopt, limit)
            connection.rollback()
    except TargetError as refused:
        name = "session" if refused.sqlstate in SESSION_REFUSALS else "reachable"
        yield _diagnostic(name, "error", refused.problem, refused.advice)
    except psycopg2.Error as error:
        # Not the driver's own text, which may repeat the URL.
        found = TargetError.from_driver(error, where=shown(url), url=libpq(url))
        yield _diagnostic("reachable", "error", found.problem, found.advice)


def _address(url: URL) -> Iterator[Diagnostic]:
    """Check the address in the URL, without connecting."""
    if not url.host:
        return
    if pooled(url):
        yield _diagnostic(
            "connection",
            "error",
            "a transaction pooler (port 6543), which does not support the lock and the transaction"
            " of a move",
            "Use the direct connection or the session pooler (port 5432)",
        )
    elif "pooler.supabase.com" in url.host:
        yield _diagnostic("connection", "ok", "Supabase's session pooler")
    elif url.host.endswith(".supabase.co"):
        yield _diagnostic("connection", "ok", "Supabase's direct connection")
    families = _families(url.host, url.port or 5432)
    if families == {socket.AF_INET6} and not _has_ipv6():
        yield _diagnostic(
            "address",
            "error",
            f"{url.host} has only an IPv6 address, and this machine has no IPv6 connection",
            "Use the session pooler's address, or add an IPv4 address to the Supabase project",
        )


def _families(host: str, port: int) -> set[int]:
    try:
        return {int(found[0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _has_ipv6() -> bool:
    """Whether this machine has a route to the IPv6 internet; no packet is sent."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:db8::1", 9))
    except OSError:
        return False
    return True


def _inspect(
    cursor: Any,
    url: URL,
    tables: Sequence[sa.Table],
    bytes_needed: int,
    adopt: bool,
    limit: connections.Limit,
) -> Iterator[Diagnostic]:
    yield _version(cursor)
    yield examine_encryption(cursor, url, place="target", setting="DATABASE_URL")
    yield _password(cursor)
    yield of_limit("target", limit)
    schema = _schema(cursor)
    if schema:
        yield schema
        return  # The other checks need this schema.
    yield from _rights(cursor, tables)
    yield _temporary(cursor)
    yield _locks(cursor)
    yield _clock(cursor)
    yield _extension(cursor)
    yield _contents(cursor, tables, adopt=adopt)
    yield disk_space(partial(_rows, cursor), url, tables, bytes_needed)


def _version(cursor: Any) -> Diagnostic:
    number, text = _row(
        cursor,
        "SELECT current_setting('server_version_num')::int, current_setting('server_version')",
    )
    if number >= OLDEST * 10_000:
        return _diagnostic("version", "ok", f"PostgreSQL {text}")
    return _diagnostic("version", "error", f"PostgreSQL {text}", f"Upgrade to {OLDEST} or newer")


def _password(cursor: Any) -> Diagnostic:
    """When the password expires; after that, the server only reports that it is wrong."""
    user, until, days = _row(
        cursor,
        "SELECT session_user::text, to_char(until, 'YYYY-MM-DD'),"
        " extract(epoch FROM until - now()) / 86400 FROM (SELECT max(rolvaliduntil) AS until"
        " FROM pg_roles WHERE rolname = session_user AND isfinite(rolvaliduntil)) AS mine",
    )
    if until is None:
        return _diagnostic("password", "ok", f"the password of {user} does not expire")
    detail = f"the password of {user} expires on {until}"
    if days > _EXPIRES_SOON_DAYS:
        return _diagnostic("password", "ok", detail)
    remedy = f"Run ALTER ROLE {quoted(user)} VALID UNTIL a later date, or set a new password"
    return _diagnostic("password", "warning", detail, remedy)


def _schema(cursor: Any) -> Diagnostic | None:
    """The error if schema public does not exist or cannot be used, else None."""
    user, exists, usable = _row(
        cursor,
        "SELECT current_user, to_regnamespace('public') IS NOT NULL,"
        " has_schema_privilege(to_regnamespace('public')::oid, 'USAGE')",
    )
    if exists and usable:
        return None
    if exists:
        remedy = f"Grant USAGE and CREATE on schema public to {user}"
        return _diagnostic("rights", "error", f"{user} lacks USAGE on schema public", remedy)
    remedy = f"Run CREATE SCHEMA public, and grant USAGE and CREATE on it to {user}"
    return _diagnostic("rights", "error", "there is no schema public", remedy)


def _rights(cursor: Any, tables: Sequence[sa.Table]) -> Iterator[Diagnostic]:
    user, create, temporary, public = _row(
        cursor,
        "SELECT current_user, has_database_privilege(current_database(), 'CREATE'),"
        " has_database_privilege(current_database(), 'TEMPORARY'),"
        " has_schema_privilege('public', 'CREATE')",
    )
    cursor.execute(
        "SELECT relname FROM pg_class WHERE oid IN (SELECT to_regclass('public.' || quote_ident(n))"
        " FROM unnest(%s) AS n) AND NOT pg_has_role(relowner, 'USAGE') ORDER BY relname",
        ([table.name for table in tables],),
    )
    owned_by_others = [name for (name,) in cursor.fetchall()]
    lacking = [
        right
        for right, granted in (
            ("CREATE on the database (for the schemas migration and dagster)", create),
            ("TEMPORARY on the database (for staging)", temporary),
            ("CREATE on schema public (for the tables)", public),
            *((f"ownership of {name}", False) for name in owned_by_others),
        )
        if not granted
    ]
    if lacking:
        yield _diagnostic(
            "rights", "error", f"{user} lacks {', '.join(lacking)}", f"Grant them to {user}"
        )
    else:
        yield _diagnostic("rights", "ok", f"{user} may create schemas, tables and temporary tables")


def _temporary(cursor: Any) -> Diagnostic:
    """The limit for temporary files of sorts; -1 means no limit."""
    kib, detail = _row(
        cursor,
        "SELECT setting::bigint, CASE setting WHEN '-1' THEN 'no limit' ELSE"
        " pg_size_pretty(setting::bigint * 1024) END FROM pg_settings"
        " WHERE name = 'temp_file_limit'",
    )
    if kib < 0 or kib >= _TEMPORARY_KIB:
        return _diagnostic("temporary files", "ok", detail)
    remedy = (
        "Raise temp_file_limit for this user; keys and indexes of large tables need it for sorting"
    )
    return _diagnostic("temporary files", "warning", f"at most {detail} for this user", remedy)


def _locks(cursor: Any) -> Diagnostic:
    total, used = _row(
        cursor,
        "SELECT current_setting('max_locks_per_transaction')::bigint"
        " * (current_setting('max_connections')::bigint"
        " + current_setting('max_prepared_transactions')::bigint),"
        " (SELECT count(*) FROM pg_locks WHERE NOT fastpath)",
    )
    detail = f"{used:,} of the server's {total:,} locks are in use; a run needs {_LOCKS_PER_RUN}"
    if total - used >= _LOCKS_PER_RUN:
        return _diagnostic("locks", "ok", detail)
    remedy = "Raise max_locks_per_transaction and restart the server"
    return _diagnostic("locks", "warning", detail, remedy)


def _clock(cursor: Any) -> Diagnostic:
    (server_time,) = _row(cursor, "SELECT clock_timestamp()")
    skew = abs((server_time - datetime.now(timezone.utc)).total_seconds())  # noqa: UP017
    if skew <= SKEW_SECONDS:
        return _diagnostic("clock", "ok", f"{skew:.1f} s apart from the clock of this machine")
    remedy = "Synchronize the clocks of both machines (NTP)"
    return _diagnostic(
        "clock", "warning", f"{skew:,.0f} s apart from the clock of this machine", remedy
    )


def _extension(cursor: Any) -> Diagnostic:
    installed, available = _row(
        cursor,
        "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm'),"
        " EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm')",
    )
    if installed or available:
        state = "installed" if installed else "available"
        return _diagnostic("extensions", "ok", f"pg_trgm is {state}")
    remedy = "Install PostgreSQL's contrib modules; without pg_trgm, search reads every row"
    return _diagnostic("extensions", "warning", "pg_trgm is not available", remedy)


def _contents(cursor: Any, tables: Sequence[sa.Table], *, adopt: bool) -> Diagnostic:
    """Check for relations that cannot be written, rows that no move wrote, and other tables."""
    try:
        for table in tables:
            facts = relations.inspect(partial(_rows, cursor), relations.PUBLIC, table.name)
            if facts is not None:
                computed = {column.name for column in table.columns if column.computed}
                columns = set(table.columns.keys()) - computed
                relations.require_writable(table.name, facts, columns=columns, computed=computed)
    except ShapeError as error:
        return _diagnostic("contents", "error", error.problem, error.advice)
    unmanaged = unmanaged_rows.unmanaged(partial(_rows, cursor), [table.name for table in tables])
    if unmanaged and not adopt:
        detail = "; ".join(
            unmanaged_rows.sentence(table, rows) for table, rows in unmanaged.items()
        )
        return _diagnostic("contents", "error", detail, unmanaged_rows.REMEDY)
    cursor.execute(
        "SELECT relname::text FROM pg_class AS c WHERE relnamespace = 'public'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relname = ANY(%s) AND NOT EXISTS (SELECT FROM pg_depend"
        " WHERE objid = c.oid AND deptype = 'e') ORDER BY relname",
        ([table.name for table in tables],),
    )
    names = [name for (name,) in cursor.fetchall()]
    (moved_before,) = _row(cursor, f"SELECT to_regclass('{ledger.evidence.fullname}') IS NOT NULL")
    if names and not moved_before:
        listed = f"{', '.join(names[:5])}{' and more' if len(names) > 5 else ''}"
        detail = f"other tables ({listed}), but no ledger of a move"
        return _diagnostic("contents", "warning", detail, "Check that this is the right database")
    detail = "target of earlier moves" if moved_before else "no other tables"
    return _diagnostic("contents", "ok", detail)


def _rows(cursor: Any, query: str) -> Any:
    cursor.execute(query)
    return cursor.fetchall()


def _row(cursor: Any, query: str) -> Any:
    cursor.execute(query)
    return cursor.fetchone()


def _diagnostic(name: str, state: State, detail: str, remedy: Text = "") -> Diagnostic:
    return Diagnostic("target", name, state, detail, remedy)
