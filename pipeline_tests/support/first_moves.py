"""First moves that are made once in a process: what has moved before is copied, file and target.

Hundreds of tests begin with the same small source, moved into an empty target. The move says the
same each time, and takes ten times as long as a copy of what it made.
"""

import hashlib
import itertools
import shutil
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg2
from sqlalchemy.engine import URL, make_url

from pipeline.config.settings import libpq
from pipeline.migrations.content import metadata
from pipeline.move.run.transaction import MoveResult
from pipeline.sqlite import tracking
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile

_TABLES = metadata.sorted_tables
_KEPT = 12
"""So many moves are kept at a time; tests that begin alike follow each other."""

_numbers = itertools.count()
_OF_A_USER = 16384
"""The first number of an object that PostgreSQL itself has not made."""
_UNTOUCHED = " AND ".join(
    f"NOT EXISTS (SELECT FROM {catalog} WHERE oid >= {_OF_A_USER})"
    for catalog in (
        *("pg_class", "pg_proc", "pg_namespace", "pg_type", "pg_event_trigger", "pg_publication"),
        *("pg_default_acl", "pg_extension", "pg_cast", "pg_operator", "pg_collation"),
    )
)
"""The database holds nothing that its template does not, is not set up and nobody else uses it."""
_ALONE = (
    "SELECT datacl IS NULL"
    " AND NOT EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = d.oid)"
    " AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = d.datname"
    " AND pid <> pg_backend_pid() AND backend_type = 'client backend')"
    " AND pg_get_userbyid(datdba) = current_user AND d.datconnlimit = -1"
    f" AND {_UNTOUCHED} FROM pg_database d WHERE datname = current_database()"
)


@dataclass(frozen=True)
class _Kept:
    """A source as it was after its first move, the database that it moved to, and what was said."""

    file: Path
    template: str
    moves: dict[str, MoveResult]


_kept: dict[tuple[str, bool, str], _Kept] = {}


def first_move(source: SourceFile, url: str, *, tracked: bool) -> dict[str, MoveResult]:
    """Move a source as a whole into its target, or copy both from an equal move.

    A move is copied only where the source is equal byte by byte and was written just now, and where
    the target is as CREATE DATABASE leaves it.
    """
    known = _key(source.path, url, tracked)
    kept = _kept.get(known) if known is not None else None
    if kept is not None:
        if tracked:
            shutil.copyfile(kept.file, source.path)
        _replace(make_url(url), kept.template)
        return dict(kept.moves)
    if tracked:
        tracking.switch_on(source.path, _TABLES)
    moves = move_all(source.path, url)
    if known is not None:
        _kept[known] = _keep(source.path, make_url(url), moves)
        if len(_kept) > _KEPT:
            _forget(make_url(url), _kept.pop(next(iter(_kept))))
    return moves


def _key(path: Path, url: str, tracked: bool) -> tuple[str, bool, str] | None:
    """What decides over a first move; None where it must not be copied."""
    beside = [path.with_name(f"{path.name}-{kind}") for kind in ("wal", "shm", "journal")]
    if any(each.exists() for each in beside) or time.time() - path.stat().st_mtime > 60:
        return None
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_ALONE)
        if cursor.fetchall() != [(True,)]:
            return None
    server = str(make_url(url).query.get("host"))
    return hashlib.sha256(path.read_bytes()).hexdigest(), tracked, server


def _keep(path: Path, target: URL, moves: dict[str, MoveResult]) -> _Kept:
    number = next(_numbers)
    file = Path(tempfile.mkdtemp(prefix="first_move")) / "source.db"
    shutil.copyfile(path, file)
    template = f"first_move_{number}"
    _run(target, f"CREATE DATABASE {template} TEMPLATE {target.database} STRATEGY FILE_COPY")
    return _Kept(file, template, dict(moves))


def _replace(target: URL, template: str) -> None:
    _run(
        target,
        f"DROP DATABASE {target.database} WITH (FORCE)",
        f"CREATE DATABASE {target.database} TEMPLATE {template} STRATEGY FILE_COPY",
    )


def _forget(target: URL, kept: _Kept) -> None:
    shutil.rmtree(kept.file.parent)
    _run(target, f"DROP DATABASE {kept.template}")


def _run(target: URL, *statements: str) -> None:
    with closing(psycopg2.connect(libpq(target.set(database="postgres")))) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)
