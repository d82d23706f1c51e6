"""Which rows of one table a move answers for, on both sides.

A whole move answers for all rows. A sync answers for those that may have changed, and a subset for
those that belong to it; the source of such a move holds no other rows. What a scope does not cover
stays as it is: in the target, in quarantine and in the rest of the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from pipeline.core.findings import CheckResult
from pipeline.core.quoting import quoted
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.ledger import conservation, quarantine, watermarks
from pipeline.move.ledger.watermarks import Watermark
from pipeline.postgres.target import Target

Strategy = Literal["filled", "merged", "unchanged", "synced", "subset"]


@dataclass(frozen=True, kw_only=True)
class TableScope:
    """All rows of a table. The classes that derive from it override what differs.

    Attributes:
        strategy: what such a move is called, None where that depends on what the target holds.
        deleted: keys of rows in scope that the source does not have any more.
        largest: the largest key of the source's rows outside the scope, if any.
        newest: the largest date of change of the source that is known before the move.
        rows_before: rows of the target before the move, None where they are counted.
    """

    strategy: ClassVar[Strategy | None] = None
    deleted: tuple[Any, ...] = ()
    largest: int | None = None
    newest: datetime | None = None
    rows_before: int | None = None

    @property
    def keys(self) -> Sequence[Any] | None:
        """Keys of the rows in scope, on either side; None for all rows."""
        return None

    @property
    def ledger_keys(self) -> Sequence[Any] | None:
        """Keys of the rows whose conflicts are settled if none is found; None for all rows."""
        return None

    def quarantined(self, _target: Target, _table: str) -> set[str] | None:
        """Handles of the rows in quarantine that are in scope; None for all of them."""
        return None

    def conservation(
        self, target: Target, mapping: TableMapping, *, read: int, found: int
    ) -> CheckResult:
        """Source = moved + quarantined + excluded.

        Args:
            target: the session.
            mapping: the table.
            read: rows that the source of this move holds.
            found: rows that the comparison found in the target.
        """
        return conservation.check(target, mapping, read, found)

    def target_rows(self, _target: Target, _table: str, *, moved: int, added: int) -> int:
        """Rows of the target: as they were counted, or as many more as there are in scope."""
        return moved if self.rows_before is None else self.rows_before + added

    def watermark(self, read: Watermark, _before: Watermark | None) -> Watermark:
        """Up to where the source has been read.

        Args:
            read: what this move has read, if that was the whole table.
            before: the watermark until now.
        """
        return read


EVERY_ROW = TableScope()


@dataclass(frozen=True, kw_only=True)
class ChangedRows(TableScope):
    """Rows that may have changed, among them all that wait in quarantine.

    Attributes:
        existing: keys of those that the source has.
    """

    strategy: ClassVar[Strategy | None] = "synced"
    existing: tuple[Any, ...] = ()

    @property
    def keys(self) -> Sequence[Any]:
        """Keys of the rows in scope, on either side."""
        return [*self.existing, *self.deleted]


@dataclass(frozen=True, kw_only=True)
class CountedRows(ChangedRows):
    """Rows that may have changed, of a source whose rows were all counted.

    Attributes:
        source_rows: rows of the source in all.
    """

    source_rows: int

    def conservation(self, target: Target, mapping: TableMapping, **_: int) -> CheckResult:
        """All rows of both sides are counted, which costs little beside comparing their keys."""
        found = _count(target, mapping.name)
        return conservation.check(target, mapping, self.source_rows, found)


@dataclass(frozen=True, kw_only=True)
class SubsetRows(CountedRows):
    """Rows that belong to a subset; of the others nothing is known.

    Attributes:
        row_ids: what names those in the source, as the ledger writes it.
        excluded: rows of the source that are left out.
    """

    strategy: ClassVar[Strategy | None] = "subset"
    row_ids: frozenset[str]
    excluded: int

    @property
    def ledger_keys(self) -> Sequence[Any]:
        """Keys of the rows in scope."""
        return self.keys

    def quarantined(self, target: Target, table: str) -> set[str]:
        """Handles of the rows in quarantine that are in scope."""
        return quarantine.within(target, table, row_ids=self.row_ids, keys=self.keys)

    def conservation(self, target: Target, mapping: TableMapping, **_: int) -> CheckResult:
        """Source = moved + quarantined + excluded, where only rows in scope can be told apart."""
        return conservation.result(
            mapping,
            self.source_rows,
            len(conservation.existing(target, mapping, self.keys)),
            quarantined=len(self.quarantined(target, mapping.name)),
            excluded=self.excluded,
        )

    def target_rows(self, target: Target, table: str, *, moved: int, added: int) -> int:  # noqa: ARG002
        """The target has rows outside the scope, too."""
        return _count(target, table)

    def watermark(self, read: Watermark, before: Watermark | None) -> Watermark:
        """What was seen of the whole table, if it ever was, is all that is known of it."""
        newest = before.newest if before else read.newest
        return Watermark(newest, read.rows, watermarks.PART, fingerprint=None, position=None)


def _count(target: Target, table: str) -> int:
    return int(target.value(f"SELECT count(*) FROM {quoted(table)}"))
