"""What is looked at to tell whether what runs for good is well, and how it was found."""

from dataclasses import dataclass
from enum import StrEnum


class Organ(StrEnum):
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
        organ: what was looked at.
        well: whether it is as it should be.
        says: what was found.
    """

    organ: Organ
    well: bool
    says: str
