"""Scratch databases with the tables of group spaces, dropped after the measurement.

No other database of the server is touched. The next run removes the databases of a killed run.
"""

import contextlib
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import psycopg2.extensions
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq, shown
from pipeline.core.errors import TargetError
from pipeline.core.quoting import quoted
from pipeline.mapping.matching import SourceColumn, match
from pipeline.migrations.spaces import metadata
from pipeline.postgres import schema, session, table_functions
from pipeline.postgres.target import Target
from pipeline.realtime import feed_objects

PREFIX = "pipeline_bench_"
MEMBERS_PER_SPACE = 10
"""The number of subscribers in one space."""

# Indexes for the polling query; the application itself does not have them.
_FOR_POLLING = """
CREATE INDEX ON messages (space_id, id); CREATE INDEX ON notes (space_id, id);
CREATE INDEX ON space_members (space_id, id); CREATE INDEX ON progress (lesson_id, id)"""


def spaces(subscribers: int) -> int:
    """The number of spaces for a number of subscribers."""
    return -(-subscribers // MEMBERS_PER_SPACE)


def space_of(person: int) -> int:
    """The space of a subscriber; both are counted from 1."""
    return (person - 1) // MEMBERS_PER_SPACE + 1


@contextmanager
def scratch(server: URL) -> Iterator[URL]:
    """An empty database on the server of a target, dropped at the end of the block.

    Raises:
        TargetError: it cannot be created.
    """
    name, url = f"{PREFIX}{secrets.token_hex(6)}", libpq(server)
    with closing(
        session.connect(url, shown=shown(server), application_name="pipeline bench")
    ) as connection:
        _remove_leftovers(connection)
        try:
            connection.cursor().execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0")
        except psycopg2.Error as error:
            cause = TargetError.from_driver(error, where=shown(server), url=url)
            raise TargetError(
                f"No scratch database can be created for the measurement ({cause.problem})",
                remedy="Grant the user CREATEDB, or unset DATABASE_URL to measure on the embedded"
                " server",
            ) from None
        try:
            # Sessions of the writing process are recognized by their application name.
            yield server.difference_update_query(["application_name"]).set(database=name)
        finally:
            _drop(connection, name, server)


def _drop(connection: psycopg2.extensions.connection, name: str, server: URL) -> None:
    try:
        connection.cursor().execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")
    except psycopg2.Error as error:
        cause = TargetError.from_driver(error, where=shown(server), url=libpq(server))
        raise TargetError(
            f"The scratch database {name} could not be dropped ({cause.problem})",
            remedy="Nothing: the next measurement drops it",
        ) from None


def _remove_leftovers(connection: psycopg2.extensions.connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT datname FROM pg_database AS d WHERE starts_with(datname, %s)"
            " AND pg_get_userbyid(datdba) = current_user"
            " AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.datid = d.oid)",
            (PREFIX,),
        )
        for (name,) in cursor.fetchall():
            # Without FORCE, because another run may have just created it.
            with contextlib.suppress(psycopg2.Error):
                cursor.execute(f"DROP DATABASE IF EXISTS {quoted(name)}")


def create_spaces(database: URL, *, subscribers: int, feed: bool) -> None:
    """Create the tables and users of the spaces.

    Args:
        database: the scratch database.
        subscribers: the number of users.
        feed: install the feed and its triggers; otherwise the indexes for polling.
    """
    tables = metadata.sorted_tables
    with (
        Target.connect(libpq(database), shown="the scratch database") as target,
        target.transaction(),
    ):
        for table in tables:
            # Only the trigger function that sets update times; no signed-in user needs policies.
            target.run(
                *table_functions.functions_ddl(table_functions.table_functions(table, ()), ())
            )
            target.run(*schema.whole(match(table, [SourceColumn(c.name, "") for c in table.c])))
        target.run(*_users(subscribers))
        if feed:
            feed_objects.apply(target, tables)
        else:
            target.run(_FOR_POLLING)
    with Target.connect(libpq(database), shown="the scratch database") as target:
        # So that autovacuum does not start during a measurement.
        target.run("VACUUM ANALYZE")


def _users(subscribers: int) -> Iterator[str]:
    yield (
        "INSERT INTO users (id, auth_provider_id, email)"
        f" SELECT n, 'person ' || n, n || '@bench' FROM generate_series(1, {subscribers}) AS n"
    )
    yield (
        "INSERT INTO spaces (id, owner_id, name, slug, enable_realtime) SELECT n,"
        f" (n - 1) * {MEMBERS_PER_SPACE} + 1, 'space ' || n, 'space-' || n, true"
        f" FROM generate_series(1, {spaces(subscribers)}) AS n"
    )
    yield (
        "INSERT INTO space_members (id, space_id, user_id)"
        f" SELECT n, (n - 1) / {MEMBERS_PER_SPACE} + 1, n"
        f" FROM generate_series(1, {subscribers}) AS n"
    )
    yield ("INSERT INTO lessons (id, space_id, title) SELECT id, id, 'lesson ' || id FROM spaces")
