"""Check the database of Dagster's records: runs, events and schedules."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import psycopg2

from pipeline.config.records import SETTING, TABLES_EXIST, Records
from pipeline.core.errors import TargetError
from pipeline.core.messages import Text
from pipeline.core.server_errors import CONNECTIONS_OF_DAGSTER
from pipeline.doctor.diagnostics import Diagnostic, State, of_limit
from pipeline.doctor.encryption import examine_encryption
from pipeline.postgres import connections

_PLACES = {
    "setting": "{shown}, as DAGSTER_DATABASE_URL says",
    "target": "in the target, schema dagster",
    "embedded": "in the embedded server of PIPELINE_HOME",
}


def examine(found: Records, *, in_target: bool) -> Iterator[Diagnostic]:
    """Check the database of the records.

    Args:
        found: the database.
        in_target: it is the target, whose connection is checked elsewhere.
    """
    place = _PLACES[found.place].format(shown=found.shown)
    if found.advice is not None:
        detail, remedy = found.advice
        yield _diagnostic("records", "warning", detail, remedy)
        return
    if in_target:
        yield _diagnostic("records", "ok", place)
        return
    try:
        with closing(found.connect()) as connection, connection.cursor() as cursor:
            yield _diagnostic("records", "ok", place)
            # In a private network of containers it may do without.
            yield examine_encryption(
                cursor, found.url, place="dagster", setting=SETTING, unencrypted="warning"
            )
            yield from _inspect(cursor)
    except TargetError as refused:
        yield _diagnostic("records", "error", refused.problem, refused.advice)
    except psycopg2.Error as error:
        # Not the driver's own text, which may repeat the URL.
        failure = found.unreachable(error)
        yield _diagnostic("records", "error", failure.problem, failure.advice)


def _inspect(cursor: Any) -> Iterator[Diagnostic]:
    limit = connections.tightest(partial(_rows, cursor), needed=CONNECTIONS_OF_DAGSTER)
    yield of_limit("dagster", limit)
    ((user, usable),) = _rows(
        cursor,
        "SELECT current_user::text, has_database_privilege(current_database(), 'CREATE')"
        f" OR {TABLES_EXIST}",
    )
    if not usable:
        detail = f"{user} lacks CREATE on the database (for the schema dagster)"
        yield _diagnostic("rights", "error", detail, f"Grant it to {user}")


def _rows(cursor: Any, query: str) -> Any:
    cursor.execute(query)
    return cursor.fetchall()


def _diagnostic(name: str, state: State, detail: str, remedy: Text = "") -> Diagnostic:
    return Diagnostic("dagster", name, state, detail, remedy)
