"""An estimate of the disk space that a move needs in the target, and the space that is free.

A server does not say how much disk space is free, and providers' limits cannot be read. Free space
is known only if the server's data folder is on this machine.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.core.quoting import size
from pipeline.postgres import schema


@dataclass(frozen=True)
class Factors:
    """What PostgreSQL stored of a source.

    Attributes:
        table: bytes of tables, for each byte of values.
        index: bytes for each row and index.
        wal: bytes of write-ahead log, for each byte of tables and indexes.
        file: bytes of tables and indexes, for each byte of the SQLite file.
    """

    table: float
    index: float
    wal: float
    file: float


MEASURED = {
    "rows": Factors(table=0.93, index=22.8, wal=0.86, file=1.27),
    "blobs": Factors(table=1.04, index=0.0, wal=1.04, file=1.04),
}
"""First moves of the workloads of ``bench``, at scale 0.2, with PostgreSQL 18's default settings.

*rows* are 164,000 rows with 17 indexes, *blobs* are 200 BLOBs of 0.5 MiB; the indexes of so few
rows are mostly empty pages.
"""

_LARGEST = Factors(
    *(
        max(getattr(factors, name) for factors in MEASURED.values())
        for name in ("table", "index", "wal", "file")
    )
)


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a move adds, estimated with the largest measured factors."""

    tables: int = 0
    indexes: int = 0
    wal: int = 0

    @classmethod
    def of_table(cls, table: sa.Table, *, rows: int, size: int, existing: int) -> Self:
        """The space for the rows that the target lacks.

        Args:
            table: the table with its indexes.
            rows: rows of the source.
            size: bytes of their values.
            existing: rows that the target already has.
        """
        share = max(rows - existing, 0) / max(rows, 1)
        indexes = 1 + len(table.indexes) + len(schema.unique_constraints(table))
        stored = share * size * _LARGEST.table
        indexed = share * rows * indexes * _LARGEST.index
        return cls(round(stored), round(indexed), round((stored + indexed) * _LARGEST.wal))

    @classmethod
    def of_file(cls, size: int, *, existing: int) -> Self:
        """The space for a SQLite file of this size, without reading it; indexes are in ``tables``.

        Args:
            size: its bytes.
            existing: bytes of its tables that the target already has.
        """
        stored = max(size * _LARGEST.file - existing, 0)
        return cls(tables=round(stored), wal=round(stored * _LARGEST.wal))

    def __add__(self, other: "DiskNeed") -> "DiskNeed":
        """Both together."""
        return DiskNeed(
            self.tables + other.tables, self.indexes + other.indexes, self.wal + other.wal
        )

    @property
    def bytes(self) -> int:
        """Everything, on one disk."""
        return self.tables + self.indexes + self.wal


NOTHING_NEEDED = DiskNeed()


@dataclass(frozen=True)
class TargetDisk:
    """The disk of the target.

    Attributes:
        database: bytes of the database now.
        free: bytes that are free; None if they cannot be known.
    """

    database: int
    free: int | None

    @classmethod
    def of(cls, rows: Callable[[str], Any], url: URL) -> Self:
        """Ask a server; ``rows`` executes a query in a session with this URL."""
        ((database, folder),) = rows(
            "SELECT pg_database_size(current_database()),"
            # Without a row, this user may not see it.
            " (SELECT setting FROM pg_settings WHERE name = 'data_directory')"
        )
        # A Unix socket is on the same machine; an address may lead through a tunnel.
        local = str(url.host or url.query.get("host", "/")).startswith("/")
        try:
            free = shutil.disk_usage(folder).free if folder is not None and local else None
        except OSError:
            free = None
        return cls(int(database), free)

    def fits(self, need: DiskNeed) -> bool:
        """False only if it is known that the disk is too small."""
        return self.free is None or need.bytes <= self.free

    def describe(self, need: DiskNeed) -> str:
        """What a move needs and what there is, in one sentence."""
        parts = {"tables": need.tables, "indexes": need.indexes, "write-ahead log": need.wal}
        needed = ", ".join(f"{size(count)} of {name}" for name, count in parts.items() if count)
        free = (
            "the free space on the server is unknown"
            if self.free is None
            else f"the server's disk has {size(self.free)} free"
        )
        used = f"the database uses {size(self.database)}"
        return f"{used}; a move adds about {needed or 'nothing'}; {free}"
