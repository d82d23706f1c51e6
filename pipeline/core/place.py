"""The destination of a migration's tables."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A schema of a PostgreSQL database that one run at a time may write.

    Attributes:
        schema: contains the tables.
        lock_key: the key of the run's advisory lock.
    """

    schema: str
    lock_key: int


PUBLIC = Place("public", lock_key=0x6D6967726174)  # "migrat"
