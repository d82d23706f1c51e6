"""What subscribers are told, as types.

A stored event is a change of one row. ``version`` is its id in the feed, and ``row`` holds the
published columns as they were read after the change: a later change may show in it already, and it
is None if the row is gone. Fleeting events are kept nowhere, and may be lost. ``Resync`` says that
changes were missed for good: who gets it reads its tables anew.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pipeline.core.errors import PipelineError
from pipeline.declared.events import Operation

Row = Mapping[str, Any]

_DEEPEST = 64
"""So many levels of JSON a fleeting event may have."""


def _nothing() -> Row:
    return MappingProxyType({})


@dataclass(frozen=True)
class Changed:
    """A row of a published table was inserted, updated or deleted.

    Attributes:
        topic: to whom it is told, ``space:12`` or ``user:7``.
        table: its table.
        operation: what was done.
        key: the row's primary key, as text.
        version: the change's id in the feed; of one row, a larger one is later.
        row: the published columns as read now, None if the row is gone or cannot be read.
    """

    topic: str
    table: str
    operation: Operation
    key: str
    version: int
    row: Row | None


class MessageNew(Changed):
    """``message:new``: somebody said something in a space."""


class NotePublished(Changed):
    """``note:published``: a note became visible to its space."""


class ProgressUpdated(Changed):
    """``progress:updated``: somebody came further in a lesson."""


class MemberChanged(Changed):
    """``member:changed``: somebody joined or left a space, or has another role."""


@dataclass(frozen=True)
class PresenceChanged:
    """``presence:changed``: somebody is here, or left.

    Attributes:
        topic: where.
        member: who.
        here: whether they are.
        lasting: the server itself says when they leave, so no heartbeat is waited for.
        payload: what else was said.
    """

    topic: str
    member: str
    here: bool = True
    lasting: bool = False
    payload: Row = field(default_factory=_nothing)


@dataclass(frozen=True)
class TypingChanged:
    """``typing:changed``: somebody began to type, or stopped.

    Attributes:
        topic: where.
        member: who.
        typing: whether they do.
        payload: what else was said.
    """

    topic: str
    member: str
    typing: bool = True
    payload: Row = field(default_factory=_nothing)


@dataclass(frozen=True)
class Resync:
    """Changes were missed for good: read the tables anew; what follows is told from here on."""


Fleeting = PresenceChanged | TypingChanged
Event = Changed | PresenceChanged | TypingChanged | Resync

STORED: Mapping[str, type[Changed]] = MappingProxyType(
    {
        "message:new": MessageNew,
        "note:published": NotePublished,
        "progress:updated": ProgressUpdated,
        "member:changed": MemberChanged,
    }
)
"""The type of each event that rows make."""

FLEETING: Mapping[str, type[PresenceChanged | TypingChanged]] = MappingProxyType(
    {"presence:changed": PresenceChanged, "typing:changed": TypingChanged}
)
"""The type of each event that no table keeps."""

NAMES: Mapping[type[Event], str] = MappingProxyType(
    {kind: name for name, kind in {**STORED, **FLEETING}.items()}
)
"""The name of each type of event."""


def name_of(event: Event) -> str:
    """An event's name; that of a change that is no event is its table's."""
    if isinstance(event, Resync):
        return "resync"
    return NAMES.get(type(event)) or (event.table if isinstance(event, Changed) else "")


def require_known(names: Collection[str], *, tables: Collection[str]) -> None:
    """Refuse names that nothing is ever sent under.

    Args:
        names: of events or tables.
        tables: those that are published.

    Raises:
        PipelineError: says which names there are.
    """
    known = {*STORED, *FLEETING, *tables}
    for name in names:
        if name not in known:
            raise PipelineError(
                f"Nothing is ever told of {name!r}",
                remedy=f"Name one of {', '.join(sorted(known))}",
            )


def fleeting(topic: str, event: str, payload: object) -> Fleeting | None:
    """What was sent, as a type; None if nobody here knows it.

    Raises:
        ValueError: the payload has another shape than ``sent`` gives it, or is nested too deep.
    """
    if event not in FLEETING:
        return None
    if not isinstance(payload, Mapping) or not _shallow(payload):
        raise ValueError
    said = dict(payload)
    member, lasting = member_of(said.pop("member", "")), _flag(said, "lasting", default=False)
    if event == "presence:changed":
        here = _flag(said, "here", default=True)
        return PresenceChanged(topic, member, here, lasting, MappingProxyType(said))
    typing = _flag(said, "typing", default=True)
    return TypingChanged(topic, member, typing, MappingProxyType(said))


def member_of(value: object) -> str:
    """Somebody's id, as text.

    Raises:
        ValueError: it is neither text nor a whole number, or a number that is too long.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError
    return str(value)


def _flag(said: dict[str, Any], name: str, *, default: bool) -> bool:
    value = said.pop(name, default)
    if not isinstance(value, bool):
        raise ValueError
    return value


def _shallow(value: object) -> bool:
    """Whether whoever takes a value may walk through it; most programs do so by recursion."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        inner = (each.values() if isinstance(each, Mapping) else each for each in level)
        level = [each for some in inner for each in some if isinstance(each, Mapping | list)]
        if not level:
            return True
    return False


def sent(event: Fleeting) -> dict[str, Any]:
    """What is sent of it, as JSON."""
    state: dict[str, Any] = (
        {"here": event.here, "lasting": event.lasting}
        if isinstance(event, PresenceChanged)
        else {"typing": event.typing}
    )
    return {**event.payload, "member": event.member, **state}
