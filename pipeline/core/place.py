"""Where the tables of a migration land."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A part of a PostgreSQL database, which one run at a time may write.

    Attributes:
        schema: holds the tables.
        lock_key: the key of the advisory lock that a run holds.
    """

    schema: str
    lock_key: int


PUBLIC = Place("public", lock_key=0x6D6967726174)  # "migrat"
