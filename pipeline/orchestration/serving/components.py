"""The components that a health check examines, and its results."""

from dataclasses import dataclass
from enum import StrEnum


class Component(StrEnum):
    """A component of a running installation."""

    TARGET = "target"
    RECORDS = "records"
    CODE = "code"
    WEBSERVER = "webserver"
    DAEMON = "daemon"
    SYNC = "sync"
    DISK = "disk"


@dataclass(frozen=True)
class Reading:
    """The health of a component."""

    component: Component
    ok: bool
    detail: str
