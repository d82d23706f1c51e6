"""The scope of a move: the rows of one table that it covers, on both sides.

A full move covers all rows, a sync the rows that may have changed, and a subset the rows that
belong to it; the source of such a move contains no other rows. Rows outside the scope stay
unchanged in the target, in quarantine and in the rest of the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from pipeline.core.findings import CheckResult
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.ledger import conservation, quarantine, watermarks
from pipeline.move.ledger.watermarks import Watermark
from pipeline.postgres import schema
from pipeline.postgres.driver.statements import Question
from pipeline.postgres.target import Target

Strategy = Literal["filled", "merged", "unchanged", "synced", "subset"]


@dataclass(frozen=True, kw_only=True)
class TableScope:
    """All rows of a table; subclasses define other scopes.

    Attributes:
        strategy: the reported strategy, None if it depends on the state of the target.
        deleted: keys of rows in scope that the source no longer has.
        largest: the largest key of the source's rows outside the scope, if any.
        newest: the largest date of change of the source that is known before the move.
        rows_before: rows of the target before the move, None if the move counts them.
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
        """Keys of the rows whose recorded conflicts end unless found again; None for all rows."""
        return None

    def quarantined(self, _target: Target, _table: str) -> set[str] | None:
        """Row ids of the quarantined rows in scope; None for all of them."""
        return None

    def conservation(
        self, target: Target, mapping: TableMapping, *, read: int, found: int
    ) -> CheckResult:
        """Check source = moved + quarantined + excluded.

        Args:
            read: rows of the source in this move.
            found: rows of the target that the comparison found.
        """
        return conservation.check(target, mapping, read, found)

    def questions(self, _mapping: TableMapping) -> tuple[Question[Any], ...]:
        """What ``conservation`` and ``target_rows`` ask besides the ledger."""
        return ()

    def target_rows(self, _target: Target, _table: str, *, moved: int, added: int) -> int:
        """Rows of the target: the counted rows, or the rows before the move plus the added ones."""
        return moved if self.rows_before is None else self.rows_before + added

    def watermark(self, read: Watermark, _before: Watermark | None) -> Watermark:
        """The new watermark.

        Args:
            read: the watermark of this move if it covers the whole table.
        """
        return read


EVERY_ROW = TableScope()


@dataclass(frozen=True, kw_only=True)
class ChangedRows(TableScope):
    """Rows that may have changed, including all rows in quarantine.

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
    """Rows that may have changed, of a source whose total number of rows is known."""

    source_rows: int

    def questions(self, mapping: TableMapping) -> tuple[Question[Any], ...]:
        """The number of all rows."""
        return (schema.count_question(mapping.name),)

    def conservation(self, target: Target, mapping: TableMapping, **_: int) -> CheckResult:
        """Count all rows of both sides, which is cheap compared with comparing their keys."""
        found = _count(target, mapping.name)
        return conservation.check(target, mapping, self.source_rows, found)


@dataclass(frozen=True, kw_only=True)
class SubsetRows(CountedRows):
    """Rows that belong to a subset; nothing is known about the others.

    Attributes:
        row_ids: row ids of the rows in the source, as the ledger writes them.
        excluded: number of rows of the source outside the subset.
    """

    strategy: ClassVar[Strategy | None] = "subset"
    row_ids: frozenset[str]
    excluded: int

    @property
    def ledger_keys(self) -> Sequence[Any]:
        """Keys of the rows in scope."""
        return self.keys

    def quarantined(self, target: Target, table: str) -> set[str]:
        """Row ids of the quarantined rows in scope."""
        return quarantine.within(target, table, row_ids=self.row_ids, keys=self.keys)

    def conservation(self, target: Target, mapping: TableMapping, **_: int) -> CheckResult:
        """Check source = moved + quarantined + excluded, with moved rows in scope only."""
        return conservation.result(
            mapping,
            self.source_rows,
            len(conservation.existing(target, mapping, self.keys)),
            quarantined=len(self.quarantined(target, mapping.name)),
            excluded=self.excluded,
        )

    def target_rows(self, target: Target, table: str, *, moved: int, added: int) -> int:  # noqa: ARG002
        """All rows of the target, including those outside the scope."""
        return _count(target, table)

    def watermark(self, read: Watermark, before: Watermark | None) -> Watermark:
        """Keep the newest date of the last complete move, if any."""
        newest = before.newest if before else read.newest
        return Watermark(newest, read.rows, watermarks.PART, fingerprint=None, position=None)


def _count(target: Target, table: str) -> int:
    return target.answer(schema.count_question(table))
