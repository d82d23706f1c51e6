"""The self-test: plant faults one at a time and see whether the checks find them.

A sample is moved into a scratch database of the embedded server. Each fault is planted in a
transaction, all tables are verified, and the transaction is rolled back. Harmless differences are
planted in a copy of the source; no check may report them. Faults of the move itself are planted
during a move, see ``during_moves``.
"""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq, shown
from pipeline.core.errors import TargetError
from pipeline.core.findings import CheckResult
from pipeline.core.place import PUBLIC
from pipeline.migrations.content import metadata
from pipeline.migrations.content_sample import make_sample
from pipeline.move import engine
from pipeline.move.context.options import MoveOptions
from pipeline.move.proof.verification import Sample, verify_table
from pipeline.move.reading.prepare import prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.run.scope import Everything
from pipeline.move.run.views import SourceViews
from pipeline.postgres import session
from pipeline.postgres.target import Target
from pipeline.selftest import during_moves
from pipeline.selftest.faults import FAULTS, HARMLESS, Harmless
from pipeline.selftest.outcome import Outcome, outcome
from pipeline.sqlite.snapshot import Snapshot, take_snapshot

_EVERYTHING = Sample(bytes=2**62, seed=0, witness_all=True)


def attack(server: URL) -> Iterator[Outcome]:
    """Plant all faults, one at a time, and report which checks caught them.

    Args:
        server: a PostgreSQL server on which a database can be created and dropped.

    Raises:
        TargetError: the server does not answer, or does not permit a new database.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(_scratch_database(server))
        make_sample(folder / "sample.db")
        sample, tables = folder / "sample.db", metadata.sorted_tables
        _count_deleted(sample)
        target = stack.enter_context(Target.connect(libpq(url), shown=shown(url)))
        views = stack.enter_context(SourceViews(lambda: sample, folder / "runs", name="selftest"))
        for _ in engine.run(tables, views, target, PUBLIC, Everything(), MoveOptions("selftest")):
            pass
        source = views.copy(tables, target=target)
        baseline = _checks(source, target)
        failed = [check for check in baseline if check.blocking and not check.passed]
        if failed:
            yield outcome("no fault is planted", frozenset(), [], failed)
        for fault in FAULTS:
            found = _checks(source, target, planted=fault.sql)
            yield outcome(fault.name, fault.caught_by, baseline, found)
        for number, harmless in enumerate(HARMLESS):
            changed = folder / f"harmless {number}.db"
            make_sample(changed)
            _rewrite(changed, harmless)
            found = _checks(SourceView(_copy(changed, folder / f"copy {number}.db")), target)
            yield outcome(harmless.name, frozenset(), baseline, found)
        yield from during_moves.attack(sample, folder / "faults", url)


@contextmanager
def _scratch_database(server: URL) -> Iterator[URL]:
    name = "pipeline_selftest"
    try:
        with (
            closing(session.connect(libpq(server), shown=shown(server))) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            cursor.execute(f"CREATE DATABASE {name}")
            try:
                yield server.set(database=name)
            finally:
                cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    except psycopg2.Error as error:
        raise TargetError.from_driver(error, where=shown(server), url=libpq(server)) from None


def _count_deleted(path: Path) -> None:
    """Let the source have assigned one more id, as AUTOINCREMENT remembers it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT);"
            " INSERT INTO sqlite_sequence SELECT 'learning_content', max(id) + 1"
            " FROM learning_content"
        )


def _copy(path: Path, to: Path) -> Snapshot:
    return take_snapshot(path, to, tables=metadata.sorted_tables)


def _rewrite(path: Path, harmless: Harmless) -> None:
    def rewritten(value: Any) -> Any:
        return harmless.rewrite(value) if isinstance(value, str) else value

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.create_function("rewritten", 1, rewritten, deterministic=True)
        connection.execute(
            f"UPDATE {harmless.table} SET {harmless.column} = rewritten({harmless.column})"
            " WHERE id < 9000"
        )


def _checks(source: SourceView, target: Target, *, planted: str = "") -> list[CheckResult]:
    found: list[CheckResult] = []
    with target.read_only():
        if planted:
            target.run(planted)
        for table in metadata.sorted_tables:
            found += verify_table(
                prepare(table, source), source=source, target=target, sample=_EVERYTHING
            )
    return found
