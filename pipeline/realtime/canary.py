"""A canary: every type of event is made once in a space of its own, and must arrive.

A second session listens as the application's server does; only what this session notified counts,
because anybody can notify. Rows have to be committed to be told, so
they stand in the target for a moment: a person and a space that nobody else belongs to, with ids
below zero, which no sequence gives out. They are written as a move's rows, so neither capture nor
the way back sees them, and told all the same. They are removed at the end, whatever happens; what a
killed run leaves behind, the next one removes first.
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
from pipeline.realtime.findings import NotHeard

ID = -1
MARK = "pipeline-canary"
TOPIC, _PERSON = feed.CANARY_TOPICS
SECONDS = 5.0
"""What takes longer counts as lost."""

_SCENE = (
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


def sing(target: Target, *, url: str, shown: str) -> CheckResult:
    """Make an event of each type, and tell how long each took to arrive.

    Args:
        target: a session that holds the target's lock and is in no transaction.
        url: the same database, as libpq reads it.
        shown: what messages call it.

    Returns:
        A check whose figures are how many events arrived, and after how long.

    Raises:
        TargetError: the scene could not be made or removed, or a connection was lost.
    """
    findings: list[Finding] = []
    figures: dict[str, Any] = {"events": 0}
    remove(target)
    with _listening(url, shown) as connection:
        try:
            with _written(target, told=False):
                target.run(*_SCENE)
            for event in (*_STORED, *FLEETING):
                found = _made(target, connection, event)
                if isinstance(found, float):
                    figures["events"] += 1
                    figures[milliseconds(event)] = round(found * 1000, 1)
                else:
                    findings.append(found)
        except BaseException:
            # What went wrong is worth telling; the next run removes what is left.
            with contextlib.suppress(TargetError):
                remove(target)
            raise
        remove(target)
    return CheckResult(CANARY, not findings, True, tuple(findings), figures)


def milliseconds(event: str) -> str:
    """What the time is called that an event took from its commit until it was heard."""
    return f"{event.replace(':', '_')}_ms"


def remove(target: Target) -> None:
    """Remove what a canary made, in a transaction of its own."""
    with _written(target, told=False):
        target.run(*_REMOVE)


def _made(target: Target, connection: Any, event: str) -> float | NotHeard:
    """Make one event; returns the seconds from the commit until it was heard."""
    hint = feed.CHANGED_HINT if event in _STORED else feed.FLEETING_HINT
    said = hint, int(target.value("SELECT pg_backend_pid()"))
    try:
        with _written(target, told=True):
            if event in _STORED:
                target.run(_STORED[event][1])
            else:
                target.rows("SELECT 1 FROM feed.send($1, $2, '{}'::jsonb)", (TOPIC, event))
            started = time.perf_counter()
    except Transient:
        raise
    except TargetError as error:
        return NotHeard(event, f"it could not be made ({error.problem})")
    if not _heard(connection, said, until=started + SECONDS):
        return NotHeard(event, f"nobody was notified within {SECONDS:.0f} s")
    seconds = time.perf_counter() - started
    if not _kept(target, event):
        return NotHeard(event, "the feed has no row of it")
    return seconds


def _kept(target: Target, event: str) -> bool:
    """Whether the feed has a row of this event."""
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


def _heard(connection: Any, said: tuple[str, int], *, until: float) -> bool:
    """Whether a notification with this payload, by this process of the server, comes in time."""
    while (left := until - time.perf_counter()) > 0:
        try:
            if select.select([connection], [], [], left)[0]:
                connection.poll()
        except psycopg2.Error:
            return False
        heard = [(notify.payload, notify.pid) for notify in connection.notifies]
        connection.notifies.clear()
        if said in heard:
            return True
    return False


@contextmanager
def _written(target: Target, *, told: bool) -> Iterator[None]:
    """A transaction that writes as a move does; ``told`` lets the feed speak of it all the same."""
    with target.transaction():
        target.mark_as_move()
        target.run(
            f"SET LOCAL {session.CANARY} = '{'on' if told else 'off'}'",
            # As in the sessions of an application.
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
            # Not "from error": the driver's own text may repeat the URL.
            raise TargetError.from_driver(error, where=shown, url=url) from None
        yield connection
