"""Reads the feed: each change exactly once, whatever order transactions commit in.

A window is what one snapshot sees and an earlier one did not. It is read in pages, so that memory
is bounded; a page names the cursor from which the next one goes on. No clock is asked, and a
transaction that stays open delays nobody but itself.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

import sqlalchemy as sa
from psycopg import sql

from pipeline.application.realtime.cursor import Cursor, Window
from pipeline.application.realtime.transports.events import (
    STORED,
    Changed,
    Event,
    Fleeting,
    Row,
    fleeting,
)
from pipeline.application.realtime.transports.session import Session, UnusableValue
from pipeline.core.errors import TargetError
from pipeline.core.messages import REALTIME_ON, message
from pipeline.declared.events import Operation, of_table
from pipeline.declared.feed import FRESH
from pipeline.mapping.row_key import RowKey
from pipeline.mapping.types import DIALECT

_UNREAD = """
  (c.xid >= %(next)s::xid8 OR c.xid = ANY(%(unfinished)s::xid8[]))
  AND pg_visible_in_snapshot(c.xid, w.until)
  AND (%(topics)s::text[] IS NULL OR c.topic = ANY(%(topics)s))"""
"""What a cursor has not seen: what began after its snapshot, or was open in it; both by index."""

_STANDING = """
  h.epoch::text || ' ' || (pg_control_system()).system_identifier
    || ' ' || (SELECT oid FROM pg_database WHERE datname = current_database())
    || ' ' || CASE WHEN NOT pg_is_in_recovery()
      THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
  coalesce(h.pruned > %(next)s::xid8 OR EXISTS (
    SELECT FROM unnest(%(unfinished)s::xid8[]) AS u
    WHERE u < h.pruned AND pg_visible_in_snapshot(u, pg_current_snapshot())), false),
  coalesce((SELECT max(c.xid) FROM feed.changes AS c) >= pg_snapshot_xmax(pg_current_snapshot())
    OR h.pruned > pg_snapshot_xmax(pg_current_snapshot()), false)"""
"""Of the feed: its epoch, whether something was pruned unread, whether it is another server's.

A dump brings the epoch along, and a replica that takes over without the last commits gives their
numbers to others. So a server, a database in it and a timeline of its log belong to an epoch, too.
A replica has no timeline yet: its snapshots do not tell which transactions are open. Whoever is
still open has lost nothing, because what it wrote cannot be pruned.
"""

# One statement and so one snapshot: nothing can be pruned between the rows and the horizon.
_WINDOW = sql.SQL(
    "SELECT "
    + _STANDING
    + """, pg_snapshot_xmax(w.until) < %(next)s::xid8, w.until::text, found.first, found.last,
  page.id, page.topic, page.event, page.table_name, page.operation, page.key, page.payload
FROM feed.horizon AS h
CROSS JOIN (SELECT coalesce(%(until)s::pg_snapshot, pg_current_snapshot()) AS until) AS w
-- Counted, because a smallest id alone would be looked for by walking the ids of the whole feed.
CROSS JOIN LATERAL (SELECT count(*), min(c.id) AS first, max(c.id) AS last FROM feed.changes AS c
  WHERE """
    + _UNREAD
    + """) AS found
LEFT JOIN LATERAL (SELECT c.* FROM feed.changes AS c
  WHERE c.id >= found.first AND c.id <= found.last AND """
    + _UNREAD
    + """ ORDER BY c.id LIMIT %(most)s) AS page ON true
ORDER BY page.id"""
)

_OF_WINDOW = 7
"""So many columns tell of the feed and of the window; those of a change follow."""

_PAGE = sql.SQL(
    """
SELECT c.id, c.topic, c.event, c.table_name, c.operation, c.key, c.payload
FROM feed.changes AS c CROSS JOIN (SELECT %(until)s::pg_snapshot AS until) AS w
WHERE c.id > %(after)s AND c.id <= %(last)s AND """
    + _UNREAD
    + " ORDER BY c.id LIMIT %(most)s"
)

# Transactions of another server, which a dump brings along, are not visible in a snapshot.
_FLEETING = sql.SQL(
    "SELECT w.now::text, said.total, said.topic, said.event, said.payload"
    " FROM (SELECT pg_current_snapshot() AS now) AS w"
    " LEFT JOIN LATERAL (SELECT f.*, count(*) OVER () AS total FROM feed.fleeting AS f"
    " WHERE (f.xid >= %(next)s::xid8 OR f.xid = ANY(%(unfinished)s::xid8[]))"
    " AND pg_visible_in_snapshot(f.xid, w.now)"
    f" AND f.at > now() - interval '{FRESH}'"
    " AND f.topic = ANY(coalesce(%(topics)s::text[], ARRAY[f.topic]))"
    " ORDER BY f.id DESC LIMIT %(most)s) AS said ON true ORDER BY said.id"
)

_HORIZON = sql.SQL("SELECT " + _STANDING + ", pg_current_snapshot()::text FROM feed.horizon AS h")


@dataclass(frozen=True)
class Change:
    """A row of the feed."""

    id: int
    topic: str
    event: str | None
    table: str | None
    operation: str | None
    key: str | None
    payload: Any


@dataclass(frozen=True)
class Page:
    """What was read.

    Attributes:
        begun: where it begins, with its window.
        changes: in the order of their ids.
        cursor: where the next page begins.
        missed: what lay before is unknowable, and ``cursor`` is where it goes on.
    """

    begun: Cursor
    changes: Sequence[Change]
    cursor: Cursor
    missed: bool = False

    @property
    def done(self) -> bool:
        """Whether the window was read to its end."""
        return self.cursor.window is None

    def before(self, change: Change) -> Cursor:
        """The cursor that has read what comes before a change of this page."""
        window = replace(cast(Window, self.begun.window), after=change.id - 1)
        return replace(self.begun, window=window)


class Reader:
    """Reads changes, and the rows that they are about."""

    def __init__(self, session: Session, tables: sa.MetaData, *, most: int = 500) -> None:
        """Read by a session.

        Args:
            session: that of somebody who may read schema ``feed`` and the published tables.
            tables: declares what of each table is told.
            most: changes of a page.
        """
        self._session, self.most = session, most
        self._tables = {table.name: table for table in tables.sorted_tables if of_table(table)}
        self.reads = self.rows_read = self.unreadable = 0

    @property
    def told(self) -> Collection[str]:
        """Names of the tables of which something is told."""
        return self._tables.keys()

    async def now(self) -> Cursor:
        """The cursor that has seen everything that is committed.

        Raises:
            TargetError: the feed cannot be read.
        """
        epoch, _, snapshot = await self._horizon({"next": "1", "unfinished": []})
        return Cursor(epoch, snapshot)

    async def page(
        self, cursor: Cursor, *, topics: Collection[str] | None, until: str | None = None
    ) -> Page:
        """The next changes after a cursor.

        Args:
            cursor: where to begin.
            topics: whose changes; None for those of all.
            until: where a window that is not begun yet shall end; None for now.

        Raises:
            TargetError: the feed cannot be read; nothing was read of it.
        """
        asked: dict[str, Any] = {
            "since": cursor.since,
            "next": cursor.next_transaction,
            "unfinished": cursor.unfinished,
            "topics": None if topics is None else sorted(topics),
            "most": self.most,
        }
        if cursor.window is not None:
            return await self._rest(cursor, cursor.window, asked)
        rows = await self._ask(_WINDOW, {**asked, "until": until})
        *standing, set_back, end, first, last = _only(rows)[:_OF_WINDOW]
        epoch, missed = _require_own(*standing)
        if missed or set_back or epoch != cursor.epoch:
            return Page(cursor, (), await self.now(), missed=True)
        if first is None:
            return Page(cursor, (), Cursor(epoch, end))
        window = Window(end, first - 1, last)
        changes = [row[_OF_WINDOW:] for row in rows]
        return self._read(replace(cursor, window=window), window, changes)

    async def _rest(self, cursor: Cursor, window: Window, asked: Mapping[str, Any]) -> Page:
        bounds = {"until": window.until, "after": window.after, "last": window.last}
        rows = await self._ask(_PAGE, {**asked, **bounds})
        # Asked after the rows: what was pruned before they were read is known by now.
        epoch, missed, now = await self._horizon(asked)
        if missed or epoch != cursor.epoch:
            return Page(cursor, (), Cursor(epoch, now), missed=True)
        return self._read(cursor, window, rows)

    def _read(self, cursor: Cursor, window: Window, rows: Sequence[tuple[Any, ...]]) -> Page:
        """A page of a window, and where the next one begins."""
        changes = [Change(*row) for row in rows]
        self.rows_read += len(changes)
        if len(changes) < self.most or changes[-1].id >= window.last:
            return Page(cursor, changes, Cursor(cursor.epoch, window.until))
        rest = replace(window, after=changes[-1].id)
        return Page(cursor, changes, replace(cursor, window=rest))

    async def fleeting(
        self, cursor: Cursor, *, topics: Collection[str] | None
    ) -> tuple[list[Fleeting], int, Cursor]:
        """The fleeting events after a cursor that are still fresh, oldest first.

        Args:
            cursor: where to begin.
            topics: whose events; None for those of all.

        Returns:
            The events, how many older ones there were no room for, and where the next ones begin.

        Raises:
            TargetError: they cannot be read.
        """
        asked = {
            "next": cursor.next_transaction,
            "unfinished": cursor.unfinished,
            "topics": None if topics is None else sorted(topics),
            "most": self.most,
        }
        rows = await self._ask(_FLEETING, asked)
        now, total, *_ = rows[0]
        said = [] if total is None else [row[2:] for row in rows]
        made = [self._fleeting(*each) for each in said]
        found = [event for event in made if event is not None]
        return found, (total or 0) - len(said), replace(cursor, since=now)

    def _fleeting(self, topic: str, event: str, payload: object) -> Fleeting | None:
        """What was sent; None if it cannot be read."""
        try:
            return fleeting(topic, event, {} if payload is None else payload)
        except ValueError:
            self.unreadable += 1
            return None

    async def events(self, changes: Iterable[Change]) -> list[tuple[Change, Event]]:
        """Changes with their events and the rows that they are about; one query for each table.

        Raises:
            TargetError: a table cannot be read.
        """
        known = list(changes)
        wanted: dict[str, set[str]] = {}
        for change in known:
            if change.table in self._tables and change.operation != "DELETE" and change.key:
                wanted.setdefault(change.table, set()).add(change.key)
        rows = {name: await self._rows(name, keys) for name, keys in wanted.items()}
        made = ((change, self._event(change, rows)) for change in known)
        return [(change, event) for change, event in made if event is not None]

    def _event(self, change: Change, rows: Mapping[str, Mapping[str, Row]]) -> Event | None:
        if change.table is None:
            return self._fleeting(change.topic, change.event or "", change.payload)
        kind = STORED.get(change.event or "", Changed)
        key = change.key or ""
        return kind(
            topic=change.topic,
            table=change.table,
            operation=cast(Operation, change.operation),
            key=key,
            version=change.id,
            row=rows.get(change.table, {}).get(key) if change.operation != "DELETE" else None,
        )

    async def _rows(self, name: str, keys: set[str]) -> dict[str, Row]:
        """Rows by their keys, without those that cannot be read: one of them hides no other."""
        try:
            return await self._all_rows(name, keys)
        except UnusableValue:
            if len(keys) == 1:
                self.unreadable += 1
                return {}
            some = sorted(keys)
            half = len(some) // 2
            first = await self._rows(name, set(some[:half]))
            return first | await self._rows(name, set(some[half:]))

    async def _all_rows(self, name: str, keys: set[str]) -> dict[str, Row]:
        table = self._tables[name]
        told = of_table(table)
        key = RowKey.of(table).column
        columns = told.columns if told else ()
        # By the type of the key, because the index is of that.
        query = sql.SQL("SELECT {key}::text, {columns} FROM {table} WHERE {key} = ANY(").format(
            key=sql.Identifier(key.name),
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            table=sql.Identifier(table.schema or "public", table.name),
        ) + sql.SQL("%(keys)s::{}[])").format(_type(key))
        found = await self._ask(query, {"keys": sorted(keys)})
        return {row[0]: MappingProxyType(dict(zip(columns, row[1:], strict=True))) for row in found}

    async def _horizon(self, asked: Mapping[str, Any]) -> tuple[str, bool, str]:
        *standing, snapshot = _only(await self._ask(_HORIZON, asked))
        return *_require_own(*standing), snapshot

    async def _ask(
        self, query: sql.SQL | sql.Composed, values: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        self.reads += 1
        return await self._session.rows(query, values)


def _only(rows: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    if not rows:
        raise TargetError(
            "The feed of changes has no horizon", remedy=message("Make it anew with ", REALTIME_ON)
        )
    return rows[0]


def _require_own(epoch: str | None, missed: bool, foreign: bool) -> tuple[str, bool]:
    """Refuse a feed by whose transactions nobody can tell what is new."""
    if epoch is None:
        raise TargetError(
            "The feed cannot be read from a replica, which does not know what is committed when",
            remedy="Name the primary; where this one is about to become it, it is tried again",
        )
    if foreign:
        raise TargetError(
            "The feed holds changes of another server, as a dump brings them along",
            remedy=message("Run ", REALTIME_ON, ", which begins it anew"),
        )
    return epoch, missed


def _type(column: sa.Column[Any]) -> sql.SQL:
    # Compiled from our own declaration, never from what somebody sent.
    return sql.SQL(cast(Any, column.type.compile(dialect=DIALECT)))
