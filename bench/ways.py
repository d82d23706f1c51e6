"""Other ways to move the four tables, for comparison with this engine.

Each takes a source and the URL of an empty database, and returns wall-clock seconds and the peak
memory of the working process. `python -m bench.ways WAY SOURCE URL` runs one in its own process, so
that its peak memory is measured alone, and prints one line of JSON.
"""

import importlib.util
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg2
from psycopg2.extensions import parse_dsn

from bench.encoded import encoded_file
from bench.memory import children_peak_mib, peak_mib
from bench.target import TABLES
from bench.workloads import DATA

_COPY_BYTES = 64 << 10
_PIPELINE = str(Path(sys.executable).with_name("pipeline"))
_PGLOADER_TUNED = "WITH prefetch rows = 25, batch size = 20 MB"


@dataclass(frozen=True)
class Measured:
    """What the working process used.

    Attributes:
        seconds: of the wall clock.
        cpu_seconds: of the process, without the server.
        peak_mib: resident memory.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float


class Unavailable(Exception):
    """A tool, or a part of it, is not installed."""


class Failed(Exception):
    """A program ended with an error; the message is its last line of output."""


def limit(source: Path, url: str) -> Measured:
    """Load pre-encoded binary COPY files into bare tables, then add keys; commit per table."""

    def work() -> None:
        with closing(psycopg2.connect(url)) as connection:
            for table in TABLES:
                with (
                    connection,
                    connection.cursor() as cursor,
                    encoded_file(source, table).open("rb") as file,
                ):
                    cursor.execute(table.create)
                    copy = f"COPY {table.name} FROM STDIN (FORMAT binary)"
                    cursor.copy_expert(copy, file, _COPY_BYTES)
                    for statement in table.keys:
                        cursor.execute(statement)

    return _in_process(work)


def orm(source: Path, url: str) -> Measured:
    """Move through an ORM, see `bench.orm`."""
    from bench.orm import move

    return _in_process(lambda: move(source, url))


def duckdb(source: Path, url: str) -> Measured:
    """Insert from DuckDB's SQLite scanner into its PostgreSQL scanner: bare tables, then keys.

    Raises:
        Unavailable: DuckDB or one of the two extensions is neither installed nor downloadable.
    """
    try:
        import duckdb as library
    except ImportError as error:
        raise Unavailable("duckdb is not installed") from error
    connection = library.connect(config={"extension_directory": str(DATA / "duckdb")})
    for name in ("sqlite_scanner", "postgres_scanner"):
        try:
            connection.execute(_load_extension(name, library.__version__))
        except library.Error as error:
            raise Unavailable(f"{name} is not installed and cannot be downloaded") from error

    def work() -> None:
        _statements(url, [table.create for table in TABLES])
        connection.execute(f"ATTACH '{source}' AS source (TYPE sqlite, READ_ONLY)")
        connection.execute(f"ATTACH '{url}' AS target (TYPE postgres)")
        for table in TABLES:
            columns = ", ".join(table.columns)
            connection.execute(
                f"INSERT INTO target.public.{table.name} ({columns}) "
                f"SELECT {columns} FROM source.{table.name}"
            )
        _statements(url, [statement for table in TABLES for statement in table.keys])

    return _in_process(work)


def copy(source: Path, url: str) -> Measured:
    """Run `pipeline copy`, like pgloader without declarations, from process start to exit.

    It proves what it copies, and makes the foreign keys and CHECKs that the source declares.
    """
    chosen = chosen_tables(source)
    with closing(sqlite3.connect(source)) as connection:
        others = [name for name in _table_names(connection) if chosen and name not in chosen]
    excluded = [word for name in others for word in ("--exclude", name)]
    return _program([_PIPELINE, "copy", f"sqlite:///{source}", url, *excluded], {})


def chosen_tables(source: Path) -> list[str]:
    """The tables of a source that are moved; none means all."""
    return [] if source.name.startswith("schema-") else [table.name for table in TABLES]


def all_tables(source: Path) -> list[str]:
    """The tables of a source that are moved."""
    with closing(sqlite3.connect(source)) as connection:
        return chosen_tables(source) or _table_names(connection)


def _table_names(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
    return [name for (name,) in found]


def pgloader(source: Path, url: str) -> Measured:
    """Run pgloader with its defaults on the same tables, from process start to exit.

    It creates the tables itself, with wider types, primary and foreign keys, and no other indexes.
    """
    return _pgloader(source, url, options="")


def pgloader_tuned(source: Path, url: str) -> Measured:
    """Run pgloader with batches small enough for large BLOBs, from process start to exit."""
    return _pgloader(source, url, options=_PGLOADER_TUNED)


def command(name: str) -> Callable[[Path, str], Measured]:
    """A command of the pipeline, run like a user does, from process start to exit."""

    def run(source: Path, url: str) -> Measured:
        urls = {"SQLITE_DATABASE_URL": f"sqlite:///{source}", "DATABASE_URL": url}
        return _program([_PIPELINE, name], urls)

    return run


WAYS: dict[str, Callable[[Path, str], Measured]] = {
    "limit": limit,
    **{name: command(name) for name in ("migrate", "sync", "verify")},
    "copy": copy,
    "pgloader": pgloader,
    "pgloader-tuned": pgloader_tuned,
    "duckdb": duckdb,
    "orm": orm,
}


def _in_process(work: Callable[[], None]) -> Measured:
    started, cpu = time.perf_counter(), time.process_time()
    work()
    seconds = time.perf_counter() - started
    return Measured(seconds, time.process_time() - cpu, peak_mib())


def _program(command: list[str], variables: dict[str, str]) -> Measured:
    """Time a program from start to exit.

    It gets no terminal: out of memory, pgloader would open a debugger there and wait.
    """
    started = time.perf_counter()
    done = subprocess.run(
        command,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise Failed(_failure(done.stderr) or _failure(done.stdout) or "no output")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Measured(seconds, used.ru_utime + used.ru_stime, children_peak_mib())


def _failure(output: str) -> str:
    """The line that explains a failure: one about exhausted memory, else the last line."""
    exhausted = (line for line in output.splitlines() if line.startswith("Heap exhausted"))
    return next(exhausted, last_line(output))


def last_line(output: str) -> str:
    """The last line that is not blank, or an empty string."""
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")


def _pgloader(source: Path, url: str, *, options: str) -> Measured:
    program = shutil.which("pgloader")
    if program is None:
        raise Unavailable("pgloader is not installed")
    names = ", ".join(f"'{name}'" for name in chosen_tables(source))
    only = f" INCLUDING ONLY TABLE NAMES LIKE {names}" if names else ""
    with tempfile.TemporaryDirectory() as folder:
        command = Path(folder) / "bench.load"
        command.write_text(
            f"LOAD DATABASE FROM sqlite://{source} INTO {_pgloader_url(url)} {options}{only};"
        )
        return _program([program, "--root-dir", folder, str(command)], {})


def _pgloader_url(url: str) -> str:
    """Rewrite a URL for pgloader, which has its own notation for a socket's directory."""
    parts = parse_dsn(url)
    host = parts["host"]
    place = f"unix:{host}" if host.startswith("/") else host
    return f"postgresql://{parts['user']}@{place}:{parts.get('port', '5432')}/{parts['dbname']}"


def _load_extension(name: str, version: str) -> str:
    """The SQL that loads a DuckDB extension from its Python package, or downloads it."""
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    if package is not None and package.origin is not None:
        extensions = Path(package.origin).parent / "extensions"
        return f"LOAD '{extensions / f'v{version}' / f'{name}.duckdb_extension'}'"
    return f"INSTALL {name}; LOAD {name}"


def _statements(url: str, statements: list[str]) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def main(way: str, source: str, url: str) -> int:
    """Run one way and print its measurement, or why it is not available, as JSON."""
    try:
        print(json.dumps(asdict(WAYS[way](Path(source), url))))
    except Unavailable as reason:
        print(json.dumps({"unavailable": str(reason)}))
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
