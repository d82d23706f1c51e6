"""Where it is measured: a scratch database with the tables of group spaces, dropped at the end.

Nothing of the user's is touched but the server that it is on. What a killed run left behind, the
next one removes.
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
from pipeline.mapping.table_mapping import SourceColumn, match
from pipeline.migrations.spaces import metadata
from pipeline.postgres import objects, schema, session
from pipeline.postgres.target import Target
from pipeline.realtime import objects as feed

PREFIX = "pipeline_bench_"
OF_A_SPACE = 10
"""So many of those who subscribe are members of one space."""

# What polling asks by; the application itself has no such indexes.
_FOR_POLLING = """
CREATE INDEX ON messages (space_id, id); CREATE INDEX ON notes (space_id, id);
CREATE INDEX ON space_members (space_id, id); CREATE INDEX ON progress (lesson_id, id)"""


def spaces(subscribers: int) -> int:
    """In how many spaces so many subscribers are."""
    return -(-subscribers // OF_A_SPACE)


def space_of(person: int) -> int:
    """The space of a subscriber; both are counted from 1."""
    return (person - 1) // OF_A_SPACE + 1


@contextmanager
def scratch(server: URL) -> Iterator[URL]:
    """An empty database on the server of a target, dropped at the end of the block.

    Raises:
        TargetError: it cannot be made.
    """
    name, url = f"{PREFIX}{secrets.token_hex(6)}", libpq(server)
    with closing(
        session.connect(url, shown=shown(server), application_name="pipeline bench")
    ) as connection:
        _remove_left(connection)
        try:
            connection.cursor().execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0")
        except psycopg2.Error as error:
            made = TargetError.from_driver(error, where=shown(server), url=url)
            raise TargetError(
                f"No scratch database can be made to measure in ({made.problem})",
                remedy="Grant the user CREATEDB, or unset DATABASE_URL to measure on the embedded"
                " server",
            ) from None
        try:
            # The load is known by the name of its sessions.
            yield server.difference_update_query(["application_name"]).set(database=name)
        finally:
            _drop(connection, name, server)


def _drop(connection: psycopg2.extensions.connection, name: str, server: URL) -> None:
    try:
        connection.cursor().execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")
    except psycopg2.Error as error:
        made = TargetError.from_driver(error, where=shown(server), url=libpq(server))
        raise TargetError(
            f"The scratch database {name} could not be dropped ({made.problem})",
            remedy="The next measurement removes it",
        ) from None


def _remove_left(connection: psycopg2.extensions.connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT datname FROM pg_database AS d WHERE starts_with(datname, %s)"
            " AND pg_get_userbyid(datdba) = current_user"
            " AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.datid = d.oid)",
            (PREFIX,),
        )
        for (name,) in cursor.fetchall():
            # Without FORCE: another run may have just made it.
            with contextlib.suppress(psycopg2.Error):
                cursor.execute(f"DROP DATABASE IF EXISTS {quoted(name)}")


def furnish(database: URL, *, subscribers: int, told: bool) -> None:
    """Make the tables and the people of the spaces.

    Args:
        database: the scratch database.
        subscribers: how many people there are.
        told: with the feed and its triggers; polling has no use for them.
    """
    tables = metadata.sorted_tables
    with (
        Target.connect(libpq(database), shown="the scratch database") as target,
        target.transaction(),
    ):
        for table in tables:
            # The one that stamps updates; those that policies ask are for who is signed in.
            target.run(*objects.functions_ddl(objects.functions_of(table, ()), ()))
            target.run(*schema.whole(match(table, [SourceColumn(c.name, "") for c in table.c])))
        target.run(*_people(subscribers))
        if told:
            feed.apply(target, tables)
        else:
            target.run(_FOR_POLLING)
    with Target.connect(libpq(database), shown="the scratch database") as target:
        # Nobody shall begin to vacuum in the midst of a measurement.
        target.run("VACUUM ANALYZE")


def _people(subscribers: int) -> Iterator[str]:
    yield (
        "INSERT INTO users (id, auth_provider_id, email)"
        f" SELECT n, 'person ' || n, n || '@bench' FROM generate_series(1, {subscribers}) AS n"
    )
    yield (
        "INSERT INTO spaces (id, owner_id, name, slug, enable_realtime) SELECT n,"
        f" (n - 1) * {OF_A_SPACE} + 1, 'space ' || n, 'space-' || n, true"
        f" FROM generate_series(1, {spaces(subscribers)}) AS n"
    )
    yield (
        f"INSERT INTO space_members (id, space_id, user_id) SELECT n, (n - 1) / {OF_A_SPACE} + 1, n"
        f" FROM generate_series(1, {subscribers}) AS n"
    )
    yield ("INSERT INTO lessons (id, space_id, title) SELECT id, id, 'lesson ' || id FROM spaces")
