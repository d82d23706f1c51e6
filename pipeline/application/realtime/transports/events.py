"""The events of subscribers, as types.

A stored event is a change of one row. ``version`` is its id in the feed, and ``row`` holds the
published columns, read after the change: it may contain a later change, and it is None if the row
was deleted. Fleeting events are not stored, and may be lost. ``Resync`` means that changes were
missed for good, so the subscriber has to read its tables again.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pipeline.core.errors import PipelineError
from pipeline.declared.events import Operation

Row = Mapping[str, Any]

_DEEPEST = 64
"""The deepest nesting of a fleeting event's JSON."""


def _nothing() -> Row:
    return MappingProxyType({})


@dataclass(frozen=True)
class Changed:
    """A row of a published table was inserted, updated or deleted.

    Attributes:
        topic: ``space:12`` or ``user:7``.
        key: the row's primary key, as text.
        version: the change's id in the feed; for one row, a larger one is later.
        row: the published columns as read now; None if the row was deleted or cannot be read.
    """

    topic: str
    table: str
    operation: Operation
    key: str
    version: int
    row: Row | None


class MessageNew(Changed):
    """``message:new``: a new message in a space."""


class NotePublished(Changed):
    """``note:published``: a note became visible to its space."""


class ProgressUpdated(Changed):
    """``progress:updated``: a user made progress in a lesson."""


class MemberChanged(Changed):
    """``member:changed``: a user joined or left a space, or got another role."""


@dataclass(frozen=True)
class PresenceChanged:
    """``presence:changed``: a member is present, or left.

    Attributes:
        here: whether the member is present.
        lasting: the server reports when the member leaves, so heartbeats are not needed.
        payload: the other fields of the event.
    """

    topic: str
    member: str
    here: bool = True
    lasting: bool = False
    payload: Row = field(default_factory=_nothing)


@dataclass(frozen=True)
class TypingChanged:
    """``typing:changed``: a member started or stopped typing.

    Attributes:
        payload: the other fields of the event.
    """

    topic: str
    member: str
    typing: bool = True
    payload: Row = field(default_factory=_nothing)


@dataclass(frozen=True)
class Resync:
    """Changes were missed for good: read the tables again; later changes follow."""


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
"""Types of events that rows make."""

FLEETING: Mapping[str, type[PresenceChanged | TypingChanged]] = MappingProxyType(
    {"presence:changed": PresenceChanged, "typing:changed": TypingChanged}
)
"""Types of fleeting events."""

NAMES: Mapping[type[Event], str] = MappingProxyType(
    {kind: name for name, kind in {**STORED, **FLEETING}.items()}
)
"""Names by type of event."""


def name_of(event: Event) -> str:
    """The name of an event; for a change without an event type, the name of its table."""
    if isinstance(event, Resync):
        return "resync"
    return NAMES.get(type(event)) or (event.table if isinstance(event, Changed) else "")


def require_known(names: Collection[str], *, tables: Collection[str]) -> None:
    """Refuse names that are neither events nor published tables.

    Raises:
        PipelineError: lists the known names.
    """
    known = {*STORED, *FLEETING, *tables}
    for name in names:
        if name not in known:
            raise PipelineError(
                f"{name!r} is neither an event nor a published table",
                remedy=f"Use one of {', '.join(sorted(known))}",
            )


def fleeting(topic: str, event: str, payload: object) -> Fleeting | None:
    """A received event as a type; None if its name is unknown.

    Raises:
        ValueError: the payload does not have the shape that ``sent`` gives it, or is nested too
            deep.
    """
    if event not in FLEETING:
        return None
    if not isinstance(payload, Mapping) or not _shallow(payload):
        raise ValueError
    fields = dict(payload)
    member = member_id(fields.pop("member", ""))
    lasting = _flag(fields, "lasting", default=False)
    if event == "presence:changed":
        here = _flag(fields, "here", default=True)
        return PresenceChanged(topic, member, here, lasting, MappingProxyType(fields))
    typing = _flag(fields, "typing", default=True)
    return TypingChanged(topic, member, typing, MappingProxyType(fields))


def member_id(value: object) -> str:
    """The id of a member, as text.

    Raises:
        ValueError: it is neither text nor an integer, or the integer is too long.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError
    return str(value)


def _flag(fields: dict[str, Any], name: str, *, default: bool) -> bool:
    value = fields.pop(name, default)
    if not isinstance(value, bool):
        raise ValueError
    return value


def _shallow(value: object) -> bool:
    """Whether a value is not nested too deep for programs that walk it by recursion."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        inner = (each.values() if isinstance(each, Mapping) else each for each in level)
        level = [each for some in inner for each in some if isinstance(each, Mapping | list)]
        if not level:
            return True
    return False


def sent(event: Fleeting) -> dict[str, Any]:
    """The JSON payload of an event."""
    state: dict[str, Any] = (
        {"here": event.here, "lasting": event.lasting}
        if isinstance(event, PresenceChanged)
        else {"typing": event.typing}
    )
    return {**event.payload, "member": event.member, **state}
