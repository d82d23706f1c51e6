"""What is looked at to tell whether what runs for good is well, and how it was found."""

from dataclasses import dataclass
from enum import StrEnum


class Component(StrEnum):
    """What is looked at."""

    TARGET = "target"
    CODE = "code"
    WEBSERVER = "webserver"
    DAEMON = "daemon"
    SYNC = "sync"
    DISK = "disk"


@dataclass(frozen=True)
class Reading:
    """How one thing is.

    Attributes:
        component: what was looked at.
        ok: whether it is as it should be.
        detail: what was found.
    """

    component: Component
    ok: bool
    detail: str
