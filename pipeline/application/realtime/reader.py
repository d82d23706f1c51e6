"""Reads the feed: each change exactly once, in whatever order transactions commit.

A window holds the changes that one snapshot sees and an earlier one did not. It is read in pages,
which bounds memory; each page gives the cursor of the next one. No clock is used, and a transaction
in progress delays only its own changes.
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
from pipeline.declared.events import Operation, published_changes
from pipeline.declared.feed import FRESH
from pipeline.mapping.casts.types import DIALECT
from pipeline.mapping.row_key import RowKey

_UNREAD = """
  (c.xid >= %(next)s::xid8 OR c.xid = ANY(%(unfinished)s::xid8[]))
  AND pg_visible_in_snapshot(c.xid, w.until)
  AND (%(topics)s::text[] IS NULL OR c.topic = ANY(%(topics)s))"""
"""Changes unread by a cursor: begun after its snapshot, or in progress in it; both by index."""

_HORIZON_VALUES = """
  h.epoch::text || ' ' || (pg_control_system()).system_identifier
    || ' ' || (SELECT oid FROM pg_database WHERE datname = current_database())
    || ' ' || CASE WHEN NOT pg_is_in_recovery()
      THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
  coalesce(h.pruned > %(next)s::xid8 OR EXISTS (
    SELECT FROM unnest(%(unfinished)s::xid8[]) AS u
    WHERE u < h.pruned AND pg_visible_in_snapshot(u, pg_current_snapshot())), false),
  coalesce((SELECT max(c.xid) FROM feed.changes AS c) >= pg_snapshot_xmax(pg_current_snapshot())
    OR h.pruned > pg_snapshot_xmax(pg_current_snapshot()), false)"""
"""The feed's epoch, whether unread changes were pruned, and whether it came from another server.

A dump contains the epoch, and a replica that takes over without the last commits reuses their
numbers. So an epoch includes the server, the database and the timeline of its WAL. A replica has no
timeline yet: its snapshots do not list the transactions in progress. Those cannot be pruned.
"""

# One statement, so one snapshot: nothing can be pruned between the rows and the horizon.
_WINDOW = sql.SQL(
    "SELECT "
    + _HORIZON_VALUES
    + """, pg_snapshot_xmax(w.until) < %(next)s::xid8, w.until::text, found.first, found.last,
  page.id, page.topic, page.event, page.table_name, page.operation, page.key, page.payload
FROM feed.horizon AS h
CROSS JOIN (SELECT coalesce(%(until)s::pg_snapshot, pg_current_snapshot()) AS until) AS w
-- With a count, because min(id) alone would scan the ids of the whole feed.
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

_WINDOW_COLUMNS = 7
"""The columns of the feed and the window; those of a change follow."""

_PAGE = sql.SQL(
    """
SELECT c.id, c.topic, c.event, c.table_name, c.operation, c.key, c.payload
FROM feed.changes AS c CROSS JOIN (SELECT %(until)s::pg_snapshot AS until) AS w
WHERE c.id > %(after)s AND c.id <= %(last)s AND """
    + _UNREAD
    + " ORDER BY c.id LIMIT %(most)s"
)

# Rows of another server, from a dump, are not visible in a snapshot.
_FLEETING = sql.SQL(
    "SELECT w.now::text, sent.total, sent.topic, sent.event, sent.payload"
    " FROM (SELECT pg_current_snapshot() AS now) AS w"
    " LEFT JOIN LATERAL (SELECT f.*, count(*) OVER () AS total FROM feed.fleeting AS f"
    " WHERE (f.xid >= %(next)s::xid8 OR f.xid = ANY(%(unfinished)s::xid8[]))"
    " AND pg_visible_in_snapshot(f.xid, w.now)"
    f" AND f.at > now() - interval '{FRESH}'"
    " AND f.topic = ANY(coalesce(%(topics)s::text[], ARRAY[f.topic]))"
    " ORDER BY f.id DESC LIMIT %(most)s) AS sent ON true ORDER BY sent.id"
)

_HORIZON = sql.SQL(
    "SELECT " + _HORIZON_VALUES + ", pg_current_snapshot()::text FROM feed.horizon AS h"
)


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
    """A page of changes.

    Attributes:
        start: its first position, with its window.
        changes: in the order of their ids.
        cursor: the start of the next page.
        missed: earlier changes cannot be determined, and ``cursor`` is the next position.
    """

    start: Cursor
    changes: Sequence[Change]
    cursor: Cursor
    missed: bool = False

    @property
    def done(self) -> bool:
        """Whether the window was read completely."""
        return self.cursor.window is None

    def before(self, change: Change) -> Cursor:
        """The position just before a change of this page."""
        window = replace(cast(Window, self.start.window), after=change.id - 1)
        return replace(self.start, window=window)


class Reader:
    """Reads changes, and the changed rows."""

    def __init__(self, session: Session, tables: sa.MetaData, *, most: int = 500) -> None:
        """Use a session.

        Args:
            session: of a role that may read schema ``feed`` and the published tables.
            tables: the declared tables.
            most: changes per page.
        """
        self._session, self.most = session, most
        self._tables = {
            table.name: table for table in tables.sorted_tables if published_changes(table)
        }
        self.reads = self.rows_read = self.unreadable = 0

    @property
    def published(self) -> Collection[str]:
        """Names of the published tables."""
        return self._tables.keys()

    async def now(self) -> Cursor:
        """The position after all committed changes.

        Raises:
            TargetError: the feed cannot be read.
        """
        epoch, _, snapshot = await self._horizon({"next": "1", "unfinished": []})
        return Cursor(epoch, snapshot)

    async def page(
        self, cursor: Cursor, *, topics: Collection[str] | None, until: str | None = None
    ) -> Page:
        """The next changes of these topics, or all, after a cursor; a new window ends at ``until``.

        Raises:
            TargetError: the feed cannot be read; the page can be read again.
        """
        parameters = self._parameters(cursor, topics)
        if cursor.window is not None:
            return await self._next_page(cursor, cursor.window, parameters)
        rows = await self._query(_WINDOW, {**parameters, "until": until})
        *horizon, set_back, end, first, last = _only(rows)[:_WINDOW_COLUMNS]
        epoch, missed = _require_own(*horizon)
        if missed or set_back or epoch != cursor.epoch:
            return Page(cursor, (), await self.now(), missed=True)
        if first is None:
            return Page(cursor, (), Cursor(epoch, end))
        window = Window(end, first - 1, last)
        start = replace(cursor, window=window)
        return self._page(start, window, [row[_WINDOW_COLUMNS:] for row in rows])

    async def _next_page(
        self, cursor: Cursor, window: Window, parameters: Mapping[str, Any]
    ) -> Page:
        bounds = {"until": window.until, "after": window.after, "last": window.last}
        rows = await self._query(_PAGE, {**parameters, **bounds})
        # After the rows, so that it shows what was pruned before they were read.
        epoch, missed, now = await self._horizon(parameters)
        if missed or epoch != cursor.epoch:
            return Page(cursor, (), Cursor(epoch, now), missed=True)
        return self._page(cursor, window, rows)

    def _page(self, cursor: Cursor, window: Window, rows: Sequence[tuple[Any, ...]]) -> Page:
        """A page of a window, with the cursor of the next one."""
        changes = [Change(*row) for row in rows]
        self.rows_read += len(changes)
        if len(changes) < self.most or changes[-1].id >= window.last:
            return Page(cursor, changes, Cursor(cursor.epoch, window.until))
        rest = replace(window, after=changes[-1].id)
        return Page(cursor, changes, replace(cursor, window=rest))

    async def fleeting(
        self, cursor: Cursor, *, topics: Collection[str] | None
    ) -> tuple[list[Fleeting], int, Cursor]:
        """The fleeting events after a cursor that have not expired, oldest first.

        Returns:
            The events, the number of older events beyond the page size, and the next cursor.

        Raises:
            TargetError: they cannot be read.
        """
        rows = await self._query(_FLEETING, self._parameters(cursor, topics))
        now, total, *_ = rows[0]
        received = [] if total is None else [row[2:] for row in rows]
        events = (self._fleeting(*each) for each in received)
        readable = [event for event in events if event is not None]
        return readable, (total or 0) - len(received), replace(cursor, since=now)

    def _parameters(self, cursor: Cursor, topics: Collection[str] | None) -> dict[str, Any]:
        return {
            "next": cursor.next_transaction,
            "unfinished": cursor.unfinished,
            "topics": None if topics is None else sorted(topics),
            "most": self.most,
        }

    def _fleeting(self, topic: str, event: str, payload: object) -> Fleeting | None:
        """A fleeting event; None if it cannot be read."""
        try:
            return fleeting(topic, event, {} if payload is None else payload)
        except ValueError:
            self.unreadable += 1
            return None

    async def events(self, changes: Iterable[Change]) -> list[tuple[Change, Event]]:
        """Changes with their events and rows; one query for each table.

        Raises:
            TargetError: a table cannot be read.
        """
        known = list(changes)
        wanted: dict[str, set[str]] = {}
        for change in known:
            if change.table in self._tables and change.operation != "DELETE" and change.key:
                wanted.setdefault(change.table, set()).add(change.key)
        rows = {name: await self._rows(name, keys) for name, keys in wanted.items()}
        events = ((change, self._event(change, rows)) for change in known)
        return [(change, event) for change, event in events if event is not None]

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
        """Rows by key; an unreadable row is left out and does not affect the others."""
        try:
            return await self._all_rows(name, keys)
        except UnusableValue:
            if len(keys) == 1:
                self.unreadable += 1
                return {}
            ordered = sorted(keys)
            half = len(ordered) // 2
            first = await self._rows(name, set(ordered[:half]))
            return first | await self._rows(name, set(ordered[half:]))

    async def _all_rows(self, name: str, keys: set[str]) -> dict[str, Row]:
        table = self._tables[name]
        published = published_changes(table)
        key = RowKey.of(table).column
        columns = published.columns if published else ()
        # Cast to the type of the key, so that its index is used.
        query = sql.SQL("SELECT {key}::text, {columns} FROM {table} WHERE {key} = ANY(").format(
            key=sql.Identifier(key.name),
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            table=sql.Identifier(table.schema or "public", table.name),
        ) + sql.SQL("%(keys)s::{}[])").format(_type(key))
        found = await self._query(query, {"keys": sorted(keys)})
        return {row[0]: MappingProxyType(dict(zip(columns, row[1:], strict=True))) for row in found}

    async def _horizon(self, parameters: Mapping[str, Any]) -> tuple[str, bool, str]:
        *horizon, snapshot = _only(await self._query(_HORIZON, parameters))
        return *_require_own(*horizon), snapshot

    async def _query(
        self, query: sql.SQL | sql.Composed, values: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        self.reads += 1
        return await self._session.rows(query, values)


def _only(rows: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    if not rows:
        raise TargetError(
            "Table feed.horizon of the target is empty", remedy=message("Run ", REALTIME_ON)
        )
    return rows[0]


def _require_own(epoch: str | None, missed: bool, foreign: bool) -> tuple[str, bool]:
    """Refuse a feed whose transaction numbers do not identify new changes."""
    if epoch is None:
        raise TargetError(
            "The feed cannot be read from a replica, which lacks the transactions in progress",
            remedy="Connect to the primary; if this replica is being promoted, wait for the retry",
        )
    if foreign:
        raise TargetError(
            "The feed contains changes of another server, which came from a dump",
            remedy=message("Run ", REALTIME_ON, ", which resets the feed"),
        )
    return epoch, missed


def _type(column: sa.Column[Any]) -> sql.SQL:
    # Compiled from our own declaration, never from input.
    return sql.SQL(cast(Any, column.type.compile(dialect=DIALECT)))
