"""Check the SQLite source: readability, integrity, schema and disk space."""

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from pipeline.core.errors import SourceError
from pipeline.core.messages import PLAN, SOURCE_SETTING, Text, message
from pipeline.core.quoting import exactly, quoted, size
from pipeline.doctor.diagnostics import Diagnostic, State
from pipeline.mapping.matching import folded
from pipeline.sqlite import opening
from pipeline.sqlite.catalog import collations, integrity, plain_tables
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.origin import File, Origin
from pipeline.sqlite.snapshot import validate

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
            collations.stand_in(source)
            pages = _integrity(source)
            yield pages
            if fetched is None:
                yield _journal(source)
            yield _tables(source, [table.name for table in tables])
            if encoding := plain_tables.utf16(source):
                yield _encoding(encoding)
            yield from _collations(source, tables)
            if pages.state != "error":
                # In a damaged file, pages that refer to each other in a circle never end.
                yield _foreign_keys(source, tables)
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
    checked, skipped = integrity.check(source, most=_OFFENDERS)
    if checked:
        detail = "; ".join(line for text in checked for line in text.splitlines()[:2])
        remedy = "Restore it from a backup, or recover it with sqlite3 FILE .recover"
        return _diagnostic("integrity", "error", detail, remedy)
    if skipped:
        detail = (
            f"no damaged pages found; indexes and CHECKs of {', '.join(skipped)} were not checked,"
            " because they use collations or functions that only the application has"
        )
        return _diagnostic("integrity", "ok", detail)
    return _diagnostic("integrity", "ok", "no damaged pages")


def _encoding(encoding: str) -> Diagnostic:
    detail = f"texts are stored in {encoding.upper()}; each run makes a private copy in UTF-8"
    return _diagnostic("encoding", "ok", detail)


def _collations(source: sqlite3.Connection, tables: Sequence[sa.Table]) -> Iterator[Diagnostic]:
    """Collations of keys and references, and those that only the application has."""
    keys, unknown = [], []
    for table in tables:
        found = collations.of_columns(source, table.name)
        unknown += [
            f"{table.name} ({name})"
            for name in sorted(collations.named_by(source, table.name) - collations.BUILT_IN)
        ]
        named = [*table.primary_key.columns, *(key.parent for key in table.foreign_keys)]
        keys += [
            f"{table.name}.{column.name} ({found[folded(column.name)]})"
            for column in named
            if found.get(folded(column.name)) in collations.BUILT_IN
        ]
    if keys:
        remedy = message("Use the same spelling in both; ", PLAN, " lists the rows concerned")
        detail = "PostgreSQL compares exactly what the source compares by a collation: "
        yield _diagnostic("collations of keys", "warning", detail + ", ".join(keys), remedy)
    if unknown:
        detail = "collations that only the application has: " + ", ".join(unknown)
        advice = (
            "Moves and syncs work. A rollback cannot write these tables if an index uses the"
            " collation: drop that index before the cut-over, and let the application create it"
            " again"
        )
        yield _diagnostic("collations", "warning", detail, advice)


def _journal(source: sqlite3.Connection) -> Diagnostic:
    (mode,) = source.execute("PRAGMA journal_mode").fetchone()
    if mode == "wal":
        return _diagnostic("journal", "ok", "write-ahead log; moves do not block the application")
    remedy = "Run PRAGMA journal_mode = WAL, so that the application does not have to wait"
    detail = f"journal mode {mode}; the application waits while the file is copied or synced"
    return _diagnostic("journal", "warning", detail, remedy)


def _tables(source: sqlite3.Connection, names: Sequence[str]) -> Diagnostic:
    listed = source.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    existing = {folded(name) for (name,) in listed}
    missing = [name for name in names if folded(name) not in existing]
    if not missing:
        return _diagnostic("tables", "ok", f"{', '.join(names)}")
    remedy = message("Check ", SOURCE_SETTING, "; it must name the application's database")
    return _diagnostic("tables", "error", f"no table {', '.join(missing)}", remedy)


def _foreign_keys(source: sqlite3.Connection, tables: Sequence[sa.Table]) -> Diagnostic:
    """Count the rows whose parent is missing, exactly as the target will compare."""
    existing = {folded(name) for (name,) in source.execute("SELECT name FROM sqlite_master")}
    found: dict[str, int] = {}
    for key in (key for table in tables for key in table.foreign_keys):
        child, parent, columns = key.parent.table.name, key.column.table.name, _columns(source, key)
        if {folded(child), folded(parent)} <= existing and columns:
            column, parent_key = columns
            (rows,) = source.execute(
                f"SELECT count(*) FROM {quoted(child)} NOT INDEXED WHERE {quoted(column)} NOT NULL"
                f" AND {exactly(column)} NOT IN (SELECT {quoted(parent_key)} FROM {quoted(parent)}"
                f" NOT INDEXED WHERE {quoted(parent_key)} NOT NULL)"
            ).fetchone()
            if rows:
                found[f"{child} to {parent}"] = found.get(f"{child} to {parent}", 0) + rows
    if not found:
        return _diagnostic("foreign keys", "ok", "every row has its parent")
    detail = "parents missing: " + ", ".join(
        f"{rows:,} {'row' if rows == 1 else 'rows'} ({which})" for which, rows in found.items()
    )
    remedy = message("These rows go to quarantine; ", PLAN, " lists them")
    return _diagnostic("foreign keys", "warning", detail, remedy)


def _columns(source: sqlite3.Connection, key: sa.ForeignKey) -> tuple[str, str] | None:
    """The names of the referring column and the parent's key; None if the source lacks one."""
    pair = (key.parent, key.column)
    for column in pair:
        info = source.execute(f"PRAGMA table_xinfo({quoted(column.table.name)})").fetchall()
        if folded(column.name) not in {folded(row[1]) for row in info}:
            return None
    return key.parent.name, key.column.name


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
