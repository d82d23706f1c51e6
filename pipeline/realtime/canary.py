"""A canary: one event of each type is emitted in a space of its own, and must arrive.

A second session listens as the application's server does. Only notifications from this session
count, because anybody can notify. Rows have to be committed to be published, so they are in the
target for a moment: a user and a space without other members, with negative ids, which no sequence
generates. They are written as rows of a move, so capture and the rollback ignore them, but they
are published. They are always removed at the end; the next run first removes the rows of a run
that was killed.
"""

import contextlib
import select
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from pipeline.core.errors import TargetError, Transient
from pipeline.core.findings import CheckResult, Finding
from pipeline.core.quoting import quoted
from pipeline.declared import feed
from pipeline.declared.events import FLEETING
from pipeline.postgres import session
from pipeline.postgres.target import Target
from pipeline.realtime.checks import CANARY
from pipeline.realtime.findings import EventNotReceived

ID = -1
MARK = "pipeline-canary"
TOPIC, _PERSON = feed.CANARY_TOPICS
SECONDS = 5.0
"""Slower events count as lost."""

_FIXTURE = (
    f"INSERT INTO public.users (id, auth_provider_id, email) VALUES ({ID}, '{MARK}', '{MARK}')",
    "INSERT INTO public.spaces (id, owner_id, name, slug, enable_realtime)"
    f" VALUES ({ID}, {ID}, '{MARK}', '{MARK}', true)",
    f"INSERT INTO public.lessons (id, space_id, title) VALUES ({ID}, {ID}, '{MARK}')",
)
_STORED = {
    "message:new": (
        "messages",
        f"INSERT INTO public.messages (id, space_id, user_id, content) VALUES ({ID}, {ID}, {ID},"
        f" '{MARK}')",
    ),
    "note:published": (
        "notes",
        "INSERT INTO public.notes (id, space_id, author_id, title, status)"
        f" VALUES ({ID}, {ID}, {ID}, '{MARK}', 'published')",
    ),
    "progress:updated": (
        "progress",
        f"INSERT INTO public.progress (id, user_id, lesson_id) VALUES ({ID}, {ID}, {ID})",
    ),
    "member:changed": (
        "space_members",
        f"INSERT INTO public.space_members (id, space_id, user_id) VALUES ({ID}, {ID}, {ID})",
    ),
}
_REMOVE = (
    f"DELETE FROM public.spaces WHERE id = {ID} AND slug = '{MARK}'",
    f"DELETE FROM public.users WHERE id = {ID} AND auth_provider_id = '{MARK}'",
    f"DELETE FROM feed.changes WHERE topic IN ('{TOPIC}', '{_PERSON}')",
    f"DELETE FROM feed.fleeting WHERE topic IN ('{TOPIC}', '{_PERSON}')",
)


def emit(target: Target, *, url: str, shown: str) -> CheckResult:
    """Emit one event of each type, and measure how long each takes to arrive.

    Args:
        target: a session that holds the target's lock and is in no transaction.
        url: the same database, in the format of libpq.
        shown: its name in messages.

    Returns:
        A check whose figures are the number of events that arrived, and their latencies.

    Raises:
        TargetError: the fixture could not be created or removed, or a connection was lost.
    """
    findings: list[Finding] = []
    figures: dict[str, Any] = {"events": 0}
    remove(target)
    with _listening(url, shown) as connection:
        try:
            with _writing(target, published=False):
                target.run(*_FIXTURE)
            for event in (*_STORED, *FLEETING):
                found = _emit_one(target, connection, event)
                if isinstance(found, float):
                    figures["events"] += 1
                    figures[milliseconds(event)] = round(found * 1000, 1)
                else:
                    findings.append(found)
        except BaseException:
            # The first error is reported; the next run removes the remaining rows.
            with contextlib.suppress(TargetError):
                remove(target)
            raise
        remove(target)
    return CheckResult(CANARY, not findings, True, tuple(findings), figures)


def milliseconds(event: str) -> str:
    """The figure of an event's latency, from its commit until its notification."""
    return f"{event.replace(':', '_')}_ms"


def remove(target: Target) -> None:
    """Remove the rows of a canary, in a transaction of its own."""
    with _writing(target, published=False):
        target.run(*_REMOVE)


def _emit_one(target: Target, connection: Any, event: str) -> float | EventNotReceived:
    """Emit one event; returns the seconds from its commit until its notification."""
    hint = feed.CHANGED_HINT if event in _STORED else feed.FLEETING_HINT
    expected = hint, int(target.value("SELECT pg_backend_pid()"))
    try:
        with _writing(target, published=True):
            if event in _STORED:
                target.run(_STORED[event][1])
            else:
                target.rows("SELECT 1 FROM feed.send($1, $2, '{}'::jsonb)", (TOPIC, event))
            started = time.perf_counter()
    except Transient:
        raise
    except TargetError as error:
        return EventNotReceived(event, f"the event could not be emitted ({error.problem})")
    if not _notified(connection, expected, until=started + SECONDS):
        return EventNotReceived(event, f"no notification within {SECONDS:.0f} s")
    seconds = time.perf_counter() - started
    if not _recorded(target, event):
        return EventNotReceived(event, "the feed has no row for the event")
    return seconds


def _recorded(target: Target, event: str) -> bool:
    """Whether the feed has a row for this event."""
    if event in FLEETING:
        return bool(
            target.value(
                "SELECT EXISTS (SELECT FROM feed.fleeting WHERE (topic, event) = ($1, $2))",
                (TOPIC, event),
            )
        )
    return bool(
        target.value(
            "SELECT EXISTS (SELECT FROM feed.changes"
            " WHERE (topic, event, table_name, operation, key) = ($1, $2, $3, 'INSERT', $4))",
            (TOPIC, event, _STORED[event][0], str(ID)),
        )
    )


def _notified(connection: Any, expected: tuple[str, int], *, until: float) -> bool:
    """Whether a notification with this payload and backend process id arrives in time."""
    while (left := until - time.perf_counter()) > 0:
        try:
            if select.select([connection], [], [], left)[0]:
                connection.poll()
        except psycopg2.Error:
            return False
        received = [(notify.payload, notify.pid) for notify in connection.notifies]
        connection.notifies.clear()
        if expected in received:
            return True
    return False


@contextmanager
def _writing(target: Target, *, published: bool) -> Iterator[None]:
    """A transaction that writes like a move; the feed records it if ``published``."""
    with target.transaction():
        target.mark_as_move()
        target.run(
            f"SET LOCAL {session.CANARY} = '{'on' if published else 'off'}'",
            # As in sessions of the application.
            "SET LOCAL row_security = on",
        )
        yield


@contextmanager
def _listening(url: str, shown: str) -> Iterator[Any]:
    with closing(
        session.connect(
            url,
            shown=shown,
            application_name="pipeline canary",
            settings=session.APPLICATION,
        )
    ) as connection:
        try:
            connection.cursor().execute(f"LISTEN {quoted(feed.CHANNEL)}")
        except psycopg2.Error as error:
            # Not "from error": the driver's own text may contain the URL.
            raise TargetError.from_driver(error, where=shown, url=url) from None
        yield connection
