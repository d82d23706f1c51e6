"""The application's triggers in the source: which of them run when rows are written back.

A trigger that keeps another table current (a full-text index, an audit log) has to run, because the
rows change. What a trigger would do to the moved tables has been done in the target already, whose
rows are written as they are. So a trigger's updates of moved tables have no effect, and triggers
that insert or delete rows of moved tables do not run. Neither do the pipeline's own triggers.

A trigger may also refuse a row, or fail. The rows are then written without the triggers that can
refuse one (``RAISE``), and if that fails too, without any.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.core.quoting import quoted
from pipeline.cutover import freezing
from pipeline.cutover.source.changed_rows import stored_columns
from pipeline.mapping.matching import folded
from pipeline.sqlite import tracking

_WRITING = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
_UNSAFE = {"load_extension", "fts3_tokenizer"}
_RAISES = re.compile(r"\bRAISE\s*\(", re.IGNORECASE)


@dataclass(frozen=True)
class AppTrigger:
    """A trigger of the source.

    Attributes:
        own: whether it is the pipeline's.
    """

    name: str
    table: str
    sql: str
    own: bool


@dataclass(frozen=True)
class Attempt:
    """One way to write the rows back.

    Attributes:
        off: why a trigger does not run, by its name; the others run.
        written: the tables that the application's triggers write.
    """

    off: Mapping[str, str]
    written: frozenset[str] = frozenset()


@dataclass
class Effects:
    """What triggers do, by their names.

    Attributes:
        writes: the tables that they write, with SQLite's codes of the operations.
        faults: why SQLite cannot compile them.
    """

    writes: dict[str, set[tuple[int, str]]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def read(connection: sqlite3.Connection) -> list[AppTrigger]:
    """All triggers of the main database, in the order of their creation."""
    own = freezing.own_triggers(connection) | tracking.own_triggers(connection)
    found = connection.execute(
        "SELECT name, tbl_name, sql FROM main.sqlite_master WHERE type = 'trigger' ORDER BY rowid"
    )
    return [AppTrigger(name, table, sql, name in own) for name, table, sql in found]


def attempts(
    connection: sqlite3.Connection, tables: Sequence[str], *, remote: bool
) -> list[Attempt]:
    """The ways to write rows of these tables, in the order to try them.

    Args:
        connection: a private copy of the source.
        tables: the moved tables.
        remote: whether a server runs the triggers, so that their updates cannot be suppressed.
    """
    triggers = [each for each in read(connection) if not each.own]
    moved = {folded(name) for name in tables}
    effects = inspect(connection, tables, triggers)
    hard = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE}
    if remote:
        hard = _WRITING
    off = dict(effects.faults)
    for each in triggers:
        written = sorted(
            table
            for operation, table in effects.writes.get(each.name, ())
            if operation in hard and folded(table) in moved
        )
        if written:
            off.setdefault(each.name, f"it writes the moved table {written[0]}")
    tables_written = frozenset(table for each in effects.writes.values() for _, table in each)
    found = [Attempt(off, tables_written)]
    refusing = [each.name for each in triggers if _RAISES.search(each.sql)]
    if set(refusing) - off.keys():
        reason = "it refuses or skips a row that the target has"
        found.append(Attempt({**dict.fromkeys(refusing, reason), **off}, tables_written))
    if {each.name for each in triggers} - off.keys():
        reason = "the rows cannot be written with the triggers of the source"
        all_off = dict.fromkeys((each.name for each in triggers), reason)
        found.append(Attempt({**all_off, **off}, tables_written))
    return found


def inspect(
    connection: sqlite3.Connection, tables: Sequence[str], triggers: Sequence[AppTrigger]
) -> Effects:
    """What the triggers do that fire when these tables are written; nothing is written."""
    effects = Effects()
    with _trial(connection):
        if _compile(connection, tables, effects) is None:
            return effects
    for each in triggers:
        with _trial(connection, without=[other.name for other in triggers if other is not each]):
            why = _compile(connection, tables, effects)
        if why is not None:
            effects.faults[each.name] = f"SQLite cannot run it here ({why})"
    return effects


@contextmanager
def running(connection: sqlite3.Connection, tables: Iterable[str]) -> Iterator[None]:
    """Let triggers run, but let none of them change the moved tables."""
    moved = {folded(name) for name in tables}

    def authorize(
        action: int, first: str | None, second: str | None, schema: str | None, trigger: str | None
    ) -> int:
        if trigger is None:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _UNSAFE:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_UPDATE and schema == "main" and folded(first or "") in moved:
            return sqlite3.SQLITE_IGNORE
        return sqlite3.SQLITE_OK

    # Triggers may then use virtual tables. Functions with effects outside are not available.
    connection.execute("PRAGMA trusted_schema = ON")
    connection.set_authorizer(authorize)
    try:
        yield
    finally:
        connection.set_authorizer(None)
        connection.execute("PRAGMA trusted_schema = OFF")


@contextmanager
def dropped(connection: sqlite3.Connection, off: Iterable[str]) -> Iterator[None]:
    """Drop triggers for a block within a transaction, which ends without them on an error."""
    names = set(off)
    found = [each for each in read(connection) if each.own or each.name in names]
    for each in found:
        connection.execute(f"DROP TRIGGER {quoted(each.name)}")
    yield
    for each in found:
        connection.execute(each.sql)


@contextmanager
def _trial(connection: sqlite3.Connection, *, without: Sequence[str] = ()) -> Iterator[None]:
    """A transaction, rolled back, in which the pipeline's and some other triggers are gone."""
    connection.execute("PRAGMA trusted_schema = ON")
    connection.execute("BEGIN")
    try:
        with dropped(connection, without):
            yield
    finally:
        connection.execute("ROLLBACK")
        connection.execute("PRAGMA trusted_schema = OFF")


def _compile(connection: sqlite3.Connection, tables: Sequence[str], effects: Effects) -> str | None:
    """Compile statements of every kind on these tables; returns why one cannot be compiled."""

    def note(
        action: int, first: str | None, _: str | None, _schema: str | None, trigger: str | None
    ) -> int:
        if trigger is not None and action in _WRITING:
            effects.writes.setdefault(trigger, set()).add((action, first or ""))
        return sqlite3.SQLITE_OK

    connection.set_authorizer(note)
    try:
        for table in tables:
            name = quoted(table)
            columns = ", ".join(
                f"{column} = {column}" for column in stored_columns(connection, table)
            )
            for sql in (
                f"INSERT INTO {name} DEFAULT VALUES",
                f"UPDATE {name} SET {columns}",
                f"DELETE FROM {name}",
            ):
                connection.execute(f"EXPLAIN {sql}").fetchall()
    except sqlite3.DatabaseError as error:
        return str(error)
    finally:
        connection.set_authorizer(None)
    return None
