"""Check the SQLite source: readability, integrity, schema and disk space."""

import shutil
import sqlite3
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from pipeline.core.errors import SourceError
from pipeline.core.messages import PLAN, SOURCE_SETTING, Text, message
from pipeline.core.quoting import size
from pipeline.doctor.diagnostics import Diagnostic, State
from pipeline.sqlite import opening
from pipeline.sqlite.origin import File, Origin
from pipeline.sqlite.snapshot import unreadable, validate

OLDEST = (3, 35, 0)
"""The oldest SQLite version with all functions that contracts use."""

_BUSY_SECONDS = 5.0
_OFFENDERS = 5


def examine(
    path: Path, *, snapshots: Path, tables: Sequence[sa.Table], whence: Origin | None = None
) -> Iterator[Diagnostic]:
    """Check the source file without writing to it.

    Args:
        path: the file.
        snapshots: the folder for private copies of runs.
        tables: the tables of the migration.
        whence: where the file was fetched from; None for the application's own file.
    """
    fetched = None if isinstance(whence, File) else whence
    shown = str(path) if fetched is None else f"{fetched.shown}, fetched into {path}"
    yield _library()
    try:
        validate(path)
        with closing(opening.connect(path, "ro", timeout=_BUSY_SECONDS)) as source:
            yield _diagnostic("readable", "ok", f"{shown}, {size(path.stat().st_size)}")
            integrity = _integrity(source)
            yield integrity
            if fetched is None:
                yield _journal(source)
            yield _tables(source, [table.name for table in tables])
            if integrity.state == "ok":
                # In a damaged file, pages that refer to each other in a circle never end.
                yield _foreign_keys(source, {table.name for table in tables})
    except SourceError as error:
        yield _diagnostic("readable", "error", error.problem, error.advice)
        return
    except opening.UNREADABLE as error:
        found = unreadable(path, error)
        yield _diagnostic("readable", "error", found.problem, found.advice)
        return
    yield _disk_space(path, snapshots)


def _library() -> Diagnostic:
    detail = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info >= OLDEST:
        return _diagnostic("library", "ok", detail)
    oldest = ".".join(map(str, OLDEST))
    remedy = f"Use a Python build with SQLite {oldest} or newer"
    return _diagnostic("library", "error", detail, remedy)


def _integrity(source: sqlite3.Connection) -> Diagnostic:
    found = [str(row[0]) for row in source.execute(f"PRAGMA integrity_check({_OFFENDERS})")]
    if found == ["ok"]:
        return _diagnostic("integrity", "ok", "no damaged pages")
    detail = "; ".join(line for text in found for line in text.splitlines()[:2])
    remedy = "Restore it from a backup, or recover it with sqlite3 FILE .recover"
    return _diagnostic("integrity", "error", detail, remedy)


def _journal(source: sqlite3.Connection) -> Diagnostic:
    (mode,) = source.execute("PRAGMA journal_mode").fetchone()
    if mode == "wal":
        return _diagnostic("journal", "ok", "write-ahead log; moves do not block the application")
    remedy = "Run PRAGMA journal_mode = WAL, so that the application does not have to wait"
    detail = f"journal mode {mode}; the application waits while the file is copied or synced"
    return _diagnostic("journal", "warning", detail, remedy)


def _tables(source: sqlite3.Connection, names: Sequence[str]) -> Diagnostic:
    kinds = dict(source.execute("SELECT name, type FROM sqlite_schema"))
    missing = [name for name in names if kinds.get(name) != "table"]
    if not missing:
        return _diagnostic("tables", "ok", f"{', '.join(names)}")
    remedy = message("Check ", SOURCE_SETTING, "; it must name the application's database")
    return _diagnostic("tables", "error", f"no table {', '.join(missing)}", remedy)


def _foreign_keys(source: sqlite3.Connection, names: Container[str]) -> Diagnostic:
    found: dict[str, int] = {}
    for table, _, parent, _ in source.execute("PRAGMA foreign_key_check"):
        if table not in names:
            continue
        found[f"{table} to {parent}"] = found.get(f"{table} to {parent}", 0) + 1
    if not found:
        return _diagnostic("foreign keys", "ok", "every row has its parent")
    detail = "parents missing: " + ", ".join(
        f"{rows:,} {'row' if rows == 1 else 'rows'} ({which})" for which, rows in found.items()
    )
    remedy = message("These rows go to quarantine; ", PLAN, " lists them")
    return _diagnostic("foreign keys", "warning", detail, remedy)


def _disk_space(path: Path, snapshots: Path) -> Diagnostic:
    existing = next(folder for folder in (snapshots, *snapshots.parents) if folder.exists())
    needed, free = round(path.stat().st_size * 1.1), shutil.disk_usage(existing).free
    detail = f"a copy needs {size(needed)}; {existing} has {size(free)} free"
    if free >= needed:
        return _diagnostic("disk space", "ok", detail)
    remedy = "Free disk space, or set PIPELINE_HOME to a folder on another disk"
    return _diagnostic("disk space", "error", detail, remedy)


def _diagnostic(name: str, state: State, detail: str, remedy: Text = "") -> Diagnostic:
    return Diagnostic("source", name, state, detail, remedy)
