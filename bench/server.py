"""The benchmark's own PostgreSQL server, in its default configuration.

The server runs while the context manager is open and listens on a Unix socket only. Its data
directory `bench/data/pg` remains, so the next run starts it in under a second.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import psycopg2

from bench.workloads import DATA
from pipeline.config.settings import libpq
from pipeline.postgres.embedded.server import ensure_server, leave

_DATABASE = "bench"


_SERVER = DATA / "pg"


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
    server = ensure_server(_SERVER)

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
        leave(_SERVER)


def server_seconds() -> float | None:
    """The CPU time that all processes of the server have used; None without ``/proc``."""
    if not Path("/proc/self/stat").exists():
        return None
    server = int((_SERVER / "postmaster.pid").read_text().split()[0])
    # Ended sessions count as children of the server.
    ticks = sum(_ticks(server)[1:])
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            parent, *own = _ticks(int(each.name))
            ticks += sum(own) if parent == server else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def _ticks(process: int) -> list[int]:
    """The parent of a process, its CPU time and that of its ended children; see proc(5)."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [0] * 5
    return [int(fields[1]), *map(int, fields[11:15])]


def _run(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
