"""The benchmark's own PostgreSQL server, in its default configuration.

The server runs while the context manager is open and listens on a Unix socket only. Its data
directory `bench/data/pg` remains, so the next run starts it in under a second.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Protocol

import psycopg2

from bench.workloads import DATA
from pipeline.config.settings import libpq
from pipeline.postgres.embedded.server import ensure_server, leave

_DATABASE = "bench"


class Fresh(Protocol):
    """Creates an empty database."""

    def __call__(self, database: str = _DATABASE) -> str:
        """Create the database anew and write a checkpoint; returns its URL."""
        ...


@contextmanager
def bench_server() -> Iterator[Fresh]:
    """Run the server; yields a function that creates an empty database and returns its URL.

    Each call drops the database of the previous call and writes a checkpoint, so that measurements
    do not affect each other.
    """
    DATA.mkdir(exist_ok=True)
    server = ensure_server(DATA / "pg")

    def fresh(database: str = _DATABASE) -> str:
        _run(
            libpq(server),
            f"DROP DATABASE IF EXISTS {database} WITH (FORCE)",
            f"CREATE DATABASE {database}",
            "CHECKPOINT",
        )
        return libpq(server.set(database=database))

    try:
        yield fresh
    finally:
        leave(DATA / "pg")


def _run(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
