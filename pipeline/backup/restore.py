"""Restore tables of the target from files in one transaction and compare them before the commit.

If a table's definition is unchanged, only its rows are replaced, so objects that depend on it
remain. A deleted or altered table is recreated; keys and indexes are built after the rows are
loaded. Objects outside the backup are never dropped: if one depends on a table that must be
dropped, the restore is refused. A recreated table is added to its publications again. In tables of
the ledger, only the rows of the backup's migration are replaced.
"""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2 import errors

from pipeline.backup import definition, older, store, target_dump
from pipeline.backup.errors import BackupError, RestoreRefused
from pipeline.backup.manifest import TargetTable
from pipeline.backup.session import session
from pipeline.core.errors import first_line
from pipeline.core.quoting import quoted
from pipeline.declared import trigger_prefixes
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
"""Leaves out the feed's triggers: through them, emptying a table starts a new epoch of the feed."""


@dataclass(frozen=True)
class Unpublished:
    """A table that could not be added to its publication again."""

    table: str
    publication: str
    why: str


def restore(
    url: str, *, shown: str, tables: Iterable[TargetTable], folder: Path
) -> list[Unpublished]:
    """Restore the target's tables; the caller holds the target's lock.

    Returns:
        Publications to which a table could not be added again.

    Raises:
        BackupError: a file is damaged, or a restored table differs; nothing was changed.
        RestoreRefused: an object or rows outside the backup would be lost.
        TargetError: the server does not answer or refuses; nothing was changed.
    """
    wanted = _require_intact(tables, folder)
    with session(url, shown=shown) as cursor:
        schemas = {table.schema: table.schema for table in wanted}
        return _restore_tables(cursor, wanted, folder, schemas)


def verify_restore(url: str, *, shown: str, tables: Iterable[TargetTable], folder: Path) -> None:
    """Restore into temporary schemas that are never committed, and compare.

    Raises:
        BackupError: the backup cannot be restored.
        TargetError: the server does not answer or refuses.
    """
    wanted = _require_intact(tables, folder)
    schemas = {table.schema: f"restore_check_{secrets.token_hex(4)}" for table in wanted}
    with session(url, shown=shown) as cursor:
        _restore_tables(cursor, wanted, folder, schemas)
        cursor.connection.rollback()


def _require_intact(tables: Iterable[TargetTable], folder: Path) -> list[TargetTable]:
    wanted = list(map(older.renamed, tables))
    for table in wanted:
        if table.existed:
            store.require_intact(folder / table.file, table.sha256)
    return wanted


def _restore_tables(
    cursor: Any, tables: list[TargetTable], folder: Path, schemas: dict[str, str]
) -> list[Unpublished]:
    """Restore tables; ``schemas`` maps a schema of the backup to the schema to restore into."""
    existed = [table for table in tables if table.existed]
    # Restored rows are not published as changes; readers of the feed start over.
    cursor.execute(f"SET LOCAL {MOVING} = 'on'")
    for schema in dict.fromkeys(table.schema for table in existed):
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schemas[schema])}")
    listed = {table.shown: _publications(cursor, table, schemas) for table in existed}
    to_create = _clear(cursor, tables, schemas)
    for table in existed:
        _run(cursor, table, schemas, "functions")
    for table in existed:
        if table in to_create:
            _run(cursor, table, schemas, "table")
        _fill(cursor, table, folder / table.file, schemas)
    for table in to_create:
        _run(cursor, table, schemas, "keys")
    for table in existed:
        _run(cursor, table, schemas, "links")
        _run(cursor, table, schemas, "triggers")
    for table in to_create:
        definition.revoke_table_rights(cursor, _qualified(table, schemas))
    for table in existed:
        prefix = "" if table in to_create else definition.POLICY
        _run(cursor, table, schemas, "rights", prefix=prefix)
    lost = [each for t in to_create for each in _publish(cursor, t, schemas, listed[t.shown])]
    # Deferred triggers and constraints run before the comparison.
    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for table in existed:
        _compare(cursor, table, schemas)
    return lost


def _publications(cursor: Any, table: TargetTable, schemas: dict[str, str]) -> dict[str, str]:
    cursor.execute(_search_path(table, schemas))
    return definition.publications(cursor, _qualified(table, schemas))


def _publish(
    cursor: Any, table: TargetTable, schemas: dict[str, str], listed: dict[str, str]
) -> Iterator[Unpublished]:
    """Add a recreated table to its publications, those in the backup and those before the restore.

    The backup's definition wins where both have one.
    """
    cursor.execute(_search_path(table, schemas))
    for name, statement in (listed | table.publications).items():
        cursor.execute("SAVEPOINT published")
        try:
            cursor.execute(statement)
        except (errors.UndefinedObject, errors.InsufficientPrivilege) as error:
            cursor.execute("ROLLBACK TO SAVEPOINT published")
            yield Unpublished(table.shown, name, first_line(str(error)))
            continue
        now = _publications(cursor, table, schemas)
        if definition.without_casts([now.get(name, "")]) != definition.without_casts([statement]):
            raise _differs(table, f"has different columns or conditions in publication {name}")


def _clear(cursor: Any, tables: list[TargetTable], schemas: dict[str, str]) -> list[TargetTable]:
    """Empty the tables that can stay and drop the others; returns the tables to create."""
    present = [t for t in tables if target_dump.exists(cursor, schemas[t.schema], t.name)]
    if present:
        listed = ", ".join(f"ONLY {_qualified(table, schemas)}" for table in present)
        cursor.execute(f"LOCK TABLE {listed} IN ACCESS EXCLUSIVE MODE")
    for table in present:
        # Before the lock a child table could be created, whose rows are not in the backup.
        target_dump.exists(cursor, schemas[table.schema], table.name)
    to_empty = [table for table in present if _can_stay(cursor, table, schemas)]
    for table in present:
        definition.revoke_function_rights(cursor, _qualified(table, schemas))
        cursor.execute(
            _CONSTRAINED, {"table": _qualified(table, schemas), "feed": trigger_prefixes.FEED}
        )
        for (statement,) in cursor.fetchall():
            cursor.execute(statement)
    to_drop = [table for table in present if table not in to_empty]
    to_truncate = [table for table in to_empty if not table.only]
    for verb, only, some in (("TRUNCATE", "ONLY ", to_truncate), ("DROP TABLE", "", to_drop)):
        if some:
            listed = ", ".join(f"{only}{_qualified(table, schemas)}" for table in some)
            cursor.execute(f"{verb} {listed}")
    for table in to_empty:
        if table.only:
            cursor.execute(f"DELETE FROM ONLY {_qualified(table, schemas)} WHERE {table.only}")
    return [table for table in tables if table.existed and table not in to_empty]


def _can_stay(cursor: Any, table: TargetTable, schemas: dict[str, str]) -> bool:
    """Whether an existing table can be emptied; otherwise it must be dropped.

    Raises:
        RestoreRefused: it must be dropped, but has rows that are not in the backup.
    """
    if table.existed and _has_same_definition(cursor, table, schemas):
        return True
    if not table.only:
        return False
    if not table.existed:
        return True
    if _has_other_rows(cursor, table, schemas):
        raise RestoreRefused(
            f"The definition of {table.shown} differs from the backup, and the table has rows of"
            " another migration, which would be lost",
            remedy="Nothing was changed; restore with the version that created the backup",
        )
    return False


def _has_other_rows(cursor: Any, table: TargetTable, schemas: dict[str, str]) -> bool:
    """Whether a table has rows that do not belong to the backup's migration."""
    name = _qualified(table, schemas)
    cursor.execute(f"SELECT EXISTS (SELECT FROM {name} WHERE NOT ({table.only}))")
    return bool(cursor.fetchone()[0])


def _has_same_definition(cursor: Any, table: TargetTable, schemas: dict[str, str]) -> bool:
    now = _define(cursor, table, schemas)
    return definition.same(now, table.definition, phases=definition.IN_PLACE)


def _fill(cursor: Any, table: TargetTable, path: Path, schemas: dict[str, str]) -> None:
    into = f"{_qualified(table, schemas)} ({', '.join(map(quoted, table.columns))})"
    with path.open("rb") as file:
        cursor.copy_expert(f"COPY {into} FROM STDIN (FORMAT binary)", file)
    shared = bool(table.only) and _has_other_rows(cursor, table, schemas)
    for counter in table.counters:
        name = target_dump.qualified(schemas[table.schema], counter.name)
        if shared:
            # Other migrations use the sequence too; gaps in it do no harm.
            cursor.execute(
                f"SELECT setval(%s, greatest(last_value, %s)) FROM {name}", (name, counter.last)
            )
            continue
        # After RESTART the sequence has a new file, so setval is undone with the transaction.
        cursor.execute(f"ALTER SEQUENCE {name} RESTART")
        cursor.execute("SELECT setval(%s, %s, %s)", (name, counter.last, counter.called))


def _compare(cursor: Any, table: TargetTable, schemas: dict[str, str]) -> None:
    """Compare a restored table with the manifest.

    Raises:
        BackupError: it differs.
    """
    now = _define(cursor, table, schemas)
    if not definition.same(now, table.definition):
        wrong = [
            p for p in definition.PHASES if not definition.same(now, table.definition, phases=[p])
        ]
        raise _differs(table, f"has a different definition ({', '.join(wrong)})")
    rows, values = target_dump.digest(cursor, _qualified(table, schemas), table.only)
    if (rows, values) != (table.rows, table.digest):
        raise _differs(
            table, f"has {rows:,} rows, the backup has {table.rows:,}, and the values differ"
        )


def _run(
    cursor: Any, table: TargetTable, schemas: dict[str, str], phase: str, *, prefix: str = ""
) -> None:
    """Execute the statements of a phase that start with a prefix."""
    cursor.execute(_search_path(table, schemas))
    for statement in table.definition.get(phase, ()):
        if statement.startswith(prefix):
            cursor.execute(statement)


def _define(cursor: Any, table: TargetTable, schemas: dict[str, str]) -> definition.Definition:
    cursor.execute(_search_path(table, schemas))
    return definition.define(cursor, _qualified(table, schemas))


def _search_path(table: TargetTable, schemas: dict[str, str]) -> str:
    return definition.set_search_path(quoted(schemas[table.schema]), quoted(table.schema))


def _qualified(table: TargetTable, schemas: dict[str, str]) -> str:
    return target_dump.qualified(schemas[table.schema], table.name)


def _differs(table: TargetTable, how: str) -> BackupError:
    return BackupError(
        f"The restored table {table.shown} {how}", remedy="Nothing was changed; take another backup"
    )
