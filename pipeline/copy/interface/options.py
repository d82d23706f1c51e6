"""What a copy is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.copy.target.layout import PUBLIC
from pipeline.move.context.options import DELETE_SHARE
from pipeline.postgres.target import LOCK_SECONDS


@dataclass(frozen=True)
class CopyOptions:
    """The options of a copy.

    Attributes:
        schema: the schema of the target.
        casts: types or forms by ``table.column`` of the source.
        exclude: tables of the source that stay there.
        delete_share: the largest share of a table's rows that a second copy may lose.
        verify: compare only, and write nothing.
        lock_seconds: how long to wait for another run that holds the lock of the schema.
    """

    run_id: str
    schema: str = PUBLIC
    casts: Mapping[str, str] = field(default_factory=dict)
    exclude: frozenset[str] = frozenset()
    delete_share: float = DELETE_SHARE
    verify: bool = False
    lock_seconds: float = LOCK_SECONDS
