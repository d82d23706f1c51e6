"""Tables of the target put back from files, in one transaction, and compared before it commits.

A table that is defined as it was gets its rows replaced, so whatever looks at it stays. One that is
gone, or was changed, is made again; keys and indexes are built after the rows. What is no part of
the backup is never dropped: where it depends on a table that has to go, the restore is refused. A
table that is made again is put into the publications that it was in. Of the ledger's tables only
the rows of the backup's migration are replaced.
"""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2 import errors

from pipeline.backup import definition, dump, store
from pipeline.backup.errors import BackupError, RestoreRefused
from pipeline.backup.manifest import TargetTable
from pipeline.backup.session import session
from pipeline.core.errors import first_line
from pipeline.core.quoting import quoted
from pipeline.declared import prefixes
from pipeline.postgres.session import MOVING

_CONSTRAINED = """
SELECT format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname)
  FROM pg_constraint WHERE conrelid = to_regclass(%(table)s)
  AND (contype = 'f' OR contype = 'c' AND NOT convalidated)
UNION ALL SELECT format('DROP TRIGGER %%I ON %%s', tgname, tgrelid::regclass)
  FROM pg_trigger WHERE tgrelid = to_regclass(%(table)s) AND NOT tgisinternal
  AND NOT starts_with(tgname, %(feed)s)
UNION ALL SELECT format('DROP POLICY %%I ON %%s', polname, polrelid::regclass)
  FROM pg_policy WHERE polrelid = to_regclass(%(table)s)
"""
"""The feed's triggers stay: a table that is emptied gives the feed a new epoch."""


@dataclass(frozen=True)
class Unpublished:
    """A table that a publication named, and names no more.

    Attributes:
        table: its name for people.
        publication: its name.
        why: what keeps the table from being put there again.
    """

    table: str
    publication: str
    why: str


def restore(
    url: str, *, shown: str, tables: Iterable[TargetTable], folder: Path
) -> list[Unpublished]:
    """Make the target's tables what they were; the caller holds the target's lock.

    Args:
        url: the target, as libpq reads it.
        shown: what messages call it.
        tables: what the backup says of them.
        folder: the backup's, with a file for each.

    Returns:
        Publications that a table could not be put into again.

    Raises:
        BackupError: a file is damaged, or what was restored is not equal; nothing was changed.
        RestoreRefused: something that is no part of the backup is in the way.
        TargetError: the server does not answer, or refuses; nothing was changed.
    """
    wanted = _whole(tables, folder)
    with session(url, shown=shown) as cursor:
        return _put_back(cursor, wanted, folder, {table.schema: table.schema for table in wanted})


def verify_restore(url: str, *, shown: str, tables: Iterable[TargetTable], folder: Path) -> None:
    """Restore into schemas that are made for it and never committed, and compare.

    Args:
        url: the target, as libpq reads it.
        shown: what messages call it.
        tables: what the backup says of them.
        folder: the backup's, with a file for each.

    Raises:
        BackupError: it is not restorable.
        TargetError: the server does not answer, or refuses.
    """
    wanted = _whole(tables, folder)
    places = {table.schema: f"rehearsal_{secrets.token_hex(4)}" for table in wanted}
    with session(url, shown=shown) as cursor:
        _put_back(cursor, wanted, folder, places)
        cursor.connection.rollback()


def _whole(tables: Iterable[TargetTable], folder: Path) -> list[TargetTable]:
    wanted = list(tables)
    for table in wanted:
        if table.there:
            store.require_whole(folder / table.file, table.sha256)
    return wanted


def _put_back(
    cursor: Any, tables: list[TargetTable], folder: Path, places: dict[str, str]
) -> list[Unpublished]:
    """Restore tables of some schemas into others, or into the same."""
    there = [table for table in tables if table.there]
    # What is put back is no news, and readers of the feed begin anew.
    cursor.execute(f"SET LOCAL {MOVING} = 'on'")
    for schema in dict.fromkeys(table.schema for table in there):
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(places[schema])}")
    listed = {table.shown: _published(cursor, table, places) for table in there}
    fresh = _make_way(cursor, tables, places)
    for table in there:
        _run(cursor, table, places, "functions")
    for table in there:
        if table in fresh:
            _run(cursor, table, places, "table")
        _fill(cursor, table, folder / table.file, places)
    for table in fresh:
        _run(cursor, table, places, "keys")
    for table in there:
        _run(cursor, table, places, "links")
        _run(cursor, table, places, "triggers")
    for table in fresh:
        definition.take_rights(cursor, _at(table, places))
    for table in there:
        _run(cursor, table, places, "rights", only="" if table in fresh else definition.POLICY)
    lost = [each for t in fresh for each in _publish(cursor, t, places, listed[t.shown])]
    # What triggers and keys defer to the commit comes before the comparison.
    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for table in there:
        _compare(cursor, table, places)
    return lost


def _published(cursor: Any, table: TargetTable, places: dict[str, str]) -> dict[str, str]:
    cursor.execute(_path(table, places))
    return definition.published(cursor, _at(table, places))


def _publish(
    cursor: Any, table: TargetTable, places: dict[str, str], listed: dict[str, str]
) -> Iterator[Unpublished]:
    """Put a table that was made again where the backup has it, or where it was before that."""
    cursor.execute(_path(table, places))
    for name, statement in (listed | table.publications).items():
        cursor.execute("SAVEPOINT published")
        try:
            cursor.execute(statement)
        except (errors.UndefinedObject, errors.InsufficientPrivilege) as error:
            cursor.execute("ROLLBACK TO SAVEPOINT published")
            yield Unpublished(table.shown, name, first_line(str(error)))
            continue
        now = _published(cursor, table, places)
        if definition.plain([now.get(name, "")]) != definition.plain([statement]):
            raise _differs(table, f"is not in publication {name} as it was")


def _make_way(cursor: Any, tables: list[TargetTable], places: dict[str, str]) -> list[TargetTable]:
    """Empty the tables that can stay, drop the others; returns those that are to be made."""
    present = [t for t in tables if dump.exists(cursor, places[t.schema], t.name)]
    if present:
        listed = ", ".join(f"ONLY {_at(table, places)}" for table in present)
        cursor.execute(f"LOCK TABLE {listed} IN ACCESS EXCLUSIVE MODE")
    for table in present:
        # Until now somebody could make a child of it, whose rows are not in the backup.
        dump.exists(cursor, places[table.schema], table.name)
    staying = [table for table in present if _stays(cursor, table, places)]
    for table in present:
        definition.take_functions(cursor, _at(table, places))
        cursor.execute(_CONSTRAINED, {"table": _at(table, places), "feed": prefixes.FEED})
        for (statement,) in cursor.fetchall():
            cursor.execute(statement)
    going = [table for table in present if table not in staying]
    whole = [table for table in staying if not table.only]
    for verb, only, some in (("TRUNCATE", "ONLY ", whole), ("DROP TABLE", "", going)):
        if some:
            listed = ", ".join(f"{only}{_at(table, places)}" for table in some)
            cursor.execute(f"{verb} {listed}")
    for table in staying:
        if table.only:
            cursor.execute(f"DELETE FROM ONLY {_at(table, places)} WHERE {table.only}")
    return [table for table in tables if table.there and table not in staying]


def _stays(cursor: Any, table: TargetTable, places: dict[str, str]) -> bool:
    """Whether a table that is there can be emptied; otherwise it is dropped.

    Raises:
        RestoreRefused: it would have to be dropped, with rows that the backup does not have.
    """
    if table.there and _alike(cursor, table, places):
        return True
    if not table.only:
        return False
    if not table.there:
        return True
    if _has_others(cursor, table, places):
        raise RestoreRefused(
            f"{table.shown} is defined otherwise than in the backup, and has rows of another"
            " migration, which would be lost",
            remedy="Nothing was changed; restore with the version that made the backup",
        )
    return False


def _has_others(cursor: Any, table: TargetTable, places: dict[str, str]) -> bool:
    """Whether a table has rows that do not belong to the backup."""
    cursor.execute(f"SELECT EXISTS (SELECT FROM {_at(table, places)} WHERE NOT ({table.only}))")
    return bool(cursor.fetchone()[0])


def _alike(cursor: Any, table: TargetTable, places: dict[str, str]) -> bool:
    now = _defined(cursor, table, places)
    return definition.same(now, table.definition, phases=definition.IN_PLACE)


def _fill(cursor: Any, table: TargetTable, path: Path, places: dict[str, str]) -> None:
    names = ", ".join(map(quoted, table.columns))
    with path.open("rb") as file:
        cursor.copy_expert(f"COPY {_at(table, places)} ({names}) FROM STDIN (FORMAT binary)", file)
    alone = not table.only or not _has_others(cursor, table, places)
    for counter in table.counters:
        name = dump.at(places[table.schema], counter.name)
        if not alone:
            # Others go on counting; numbers that nobody gets do no harm.
            cursor.execute(
                f"SELECT setval(%s, greatest(last_value, %s)) FROM {name}", (name, counter.last)
            )
            continue
        # After RESTART the sequence has a new file, so setval is undone with the transaction.
        cursor.execute(f"ALTER SEQUENCE {name} RESTART")
        cursor.execute("SELECT setval(%s, %s, %s)", (name, counter.last, counter.called))


def _compare(cursor: Any, table: TargetTable, places: dict[str, str]) -> None:
    """Hold a restored table against what the backup says of it.

    Raises:
        BackupError: it differs.
    """
    now = _defined(cursor, table, places)
    if not definition.same(now, table.definition):
        wrong = [
            p for p in definition.PHASES if not definition.same(now, table.definition, phases=[p])
        ]
        raise _differs(table, f"is defined otherwise ({', '.join(wrong)})")
    rows, values = dump.digest(cursor, _at(table, places), table.only)
    if (rows, values) != (table.rows, table.digest):
        raise _differs(table, f"has {rows:,} rows, the backup {table.rows:,}, of other values")


def _run(
    cursor: Any, table: TargetTable, places: dict[str, str], phase: str, *, only: str = ""
) -> None:
    """Execute the statements of a phase; only those that begin so."""
    cursor.execute(_path(table, places))
    for statement in table.definition.get(phase, ()):
        if statement.startswith(only):
            cursor.execute(statement)


def _defined(cursor: Any, table: TargetTable, places: dict[str, str]) -> definition.Definition:
    cursor.execute(_path(table, places))
    return definition.define(cursor, _at(table, places))


def _path(table: TargetTable, places: dict[str, str]) -> str:
    return definition.path(quoted(places[table.schema]), quoted(table.schema))


def _at(table: TargetTable, places: dict[str, str]) -> str:
    return dump.at(places[table.schema], table.name)


def _differs(table: TargetTable, how: str) -> BackupError:
    return BackupError(
        f"{table.shown} as restored {how}", remedy="Nothing was changed; take another backup"
    )
