"""A PostgreSQL of the benchmark's own, in its default configuration.

It runs while the context manager is open and listens on a Unix socket only. Its data directory
stays in `bench/data/pg`, so that the next run starts it in under a second.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg2

from bench.workloads import DATA
from pipeline.config.settings import libpq
from pipeline.postgres.embedded.server import ensure_server, leave

_DATABASE = "bench"


@contextmanager
def bench_server() -> Iterator[Callable[[], str]]:
    """Run the server and give a function that makes an empty database and returns its URL.

    Each call drops the database of the call before, then writes a checkpoint, so that no way pays
    for the writes of another.
    """
    DATA.mkdir(exist_ok=True)
    server = ensure_server(DATA / "pg")

    def fresh() -> str:
        _run(
            libpq(server),
            f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)",
            f"CREATE DATABASE {_DATABASE}",
            "CHECKPOINT",
        )
        return libpq(server.set(database=_DATABASE))

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
