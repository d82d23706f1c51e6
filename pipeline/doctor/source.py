"""Examine the SQLite source: readable, whole, and with room beside it."""

import shutil
import sqlite3
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from pipeline.core.errors import SourceError
from pipeline.core.messages import PLAN, SOURCE_SETTING, Text, message
from pipeline.doctor.diagnostics import Diagnostic, State
from pipeline.sqlite import opening
from pipeline.sqlite.origin import File, Origin
from pipeline.sqlite.snapshot import unreadable, validate

OLDEST = (3, 35, 0)
"""The first SQLite with all functions that contracts use."""

_BUSY_SECONDS = 5.0
_OFFENDERS = 5


def examine(
    path: Path, *, snapshots: Path, tables: Sequence[sa.Table], whence: Origin | None = None
) -> Iterator[Diagnostic]:
    """Look at the source file, without writing to it.

    Args:
        path: the file.
        snapshots: where runs keep their private copies.
        tables: those that move.
        whence: where the file was fetched from; None where it is the application's own.
    """
    fetched = None if isinstance(whence, File) else whence
    shown = str(path) if fetched is None else f"{fetched.shown}, fetched into {path}"
    yield _library()
    try:
        validate(path)
        with closing(opening.connect(path, "ro", timeout=_BUSY_SECONDS)) as source:
            yield _diagnostic("readable", "ok", f"{shown}, {path.stat().st_size / 2**20:,.1f} MiB")
            whole = _integrity(source)
            yield whole
            if fetched is None:
                yield _journal(source)
            yield _tables(source, [table.name for table in tables])
            if whole.state == "ok":
                # Pages that point at each other in circles would have no last row.
                yield _foreign_keys(source, {table.name for table in tables})
    except SourceError as error:
        yield _diagnostic("readable", "error", error.problem, error.advice)
        return
    except opening.UNREADABLE as error:
        found = unreadable(path, error)
        yield _diagnostic("readable", "error", found.problem, found.advice)
        return
    yield _room(path, snapshots)


def _library() -> Diagnostic:
    known = sqlite3.sqlite_version_info >= OLDEST
    detail = f"SQLite {sqlite3.sqlite_version}"
    oldest = ".".join(map(str, OLDEST))
    if known:
        return _diagnostic("library", "ok", detail)
    return _diagnostic(
        "library", "error", detail, f"Use a Python whose SQLite is {oldest} or newer"
    )


def _integrity(source: sqlite3.Connection) -> Diagnostic:
    found = [str(row[0]) for row in source.execute(f"PRAGMA integrity_check({_OFFENDERS})")]
    if found == ["ok"]:
        return _diagnostic("integrity", "ok", "every page is sound")
    detail = "; ".join(line for text in found for line in text.splitlines()[:2])
    remedy = "Restore it from a backup, or recover it with sqlite3 FILE .recover"
    return _diagnostic("integrity", "error", detail, remedy)


def _journal(source: sqlite3.Connection) -> Diagnostic:
    (mode,) = source.execute("PRAGMA journal_mode").fetchone()
    if mode == "wal":
        return _diagnostic("journal", "ok", "write-ahead log; nobody waits for a move or sync")
    remedy = "PRAGMA journal_mode = WAL spares the application the wait"
    detail = f"journal mode {mode}; the application waits while the file is copied or synced"
    return _diagnostic("journal", "warning", detail, remedy)


def _tables(source: sqlite3.Connection, names: Sequence[str]) -> Diagnostic:
    kinds = dict(source.execute("SELECT name, type FROM sqlite_schema"))
    lacking = [name for name in names if kinds.get(name) != "table"]
    if not lacking:
        return _diagnostic("tables", "ok", f"{', '.join(names)}")
    remedy = message("Check ", SOURCE_SETTING, "; it must name the application's own file")
    return _diagnostic("tables", "error", f"no table {', '.join(lacking)}", remedy)


def _foreign_keys(source: sqlite3.Connection, names: Container[str]) -> Diagnostic:
    found: dict[str, int] = {}
    for table, _, parent, _ in source.execute("PRAGMA foreign_key_check"):
        if table not in names:
            continue
        found[f"{table} to {parent}"] = found.get(f"{table} to {parent}", 0) + 1
    if not found:
        return _diagnostic("foreign keys", "ok", "every row has its parent")
    detail = ", ".join(f"{rows:,} rows of {which} have none" for which, rows in found.items())
    remedy = message("They go to quarantine; ", PLAN, " shows which")
    return _diagnostic("foreign keys", "warning", detail, remedy)


def _room(path: Path, snapshots: Path) -> Diagnostic:
    there = next(folder for folder in (snapshots, *snapshots.parents) if folder.exists())
    needed, free = path.stat().st_size * 1.1, shutil.disk_usage(there).free
    detail = f"a copy needs {needed / 2**20:,.0f} MiB, {there} has {free / 2**20:,.0f} MiB free"
    if free >= needed:
        return _diagnostic("room", "ok", detail)
    return _diagnostic("room", "error", detail, "Free some space, or set PIPELINE_HOME elsewhere")


def _diagnostic(name: str, state: State, detail: str, remedy: Text = "") -> Diagnostic:
    return Diagnostic("source", name, state, detail, remedy)
