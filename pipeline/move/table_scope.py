"""Which rows of one table a move answers for, on both sides.

A whole move answers for all rows. A sync answers for those that may have changed, and a subset for
those that belong to it; the source of such a move holds no other rows. What a scope does not cover
stays as it is: in the target, in quarantine and in the rest of the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from pipeline.move import quarantine, verify, watermarks
from pipeline.move.extract import Source
from pipeline.move.findings import CheckResult
from pipeline.move.landing import Landing
from pipeline.move.quoting import quoted
from pipeline.move.target import Target
from pipeline.move.watermarks import Watermark

Way = Literal["filled", "merged", "unchanged", "synced", "subset"]


@dataclass(frozen=True)
class TableScope:
    """All rows of a table. The classes that derive from it override what differs.

    Attributes:
        way: what such a move is called, None where that depends on what the target holds.
        deleted: keys of rows in scope that the source does not have any more.
        largest: the largest key of the source's rows outside the scope, if any.
        newest: the largest date of change of the source that is known before the move.
        rows_before: rows of the target before the move, None where they have to be counted.
    """

    way: ClassVar[Way | None] = None
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
        """Keys of the rows whose entries in the ledger may be removed; None for all rows."""
        return None

    def quarantined(self, target: Target, landing: Landing) -> set[str] | None:  # noqa: ARG002
        """Handles of the rows in quarantine that are in scope; None for all of them."""
        return None

    def conservation(
        self, target: Target, landing: Landing, *, read: int, found: int
    ) -> CheckResult:
        """Source = moved + quarantined + excluded.

        Args:
            target: the session.
            landing: the table.
            read: rows that the source of this move holds.
            found: rows that the comparison found in the target.
        """
        return verify.conservation(target, landing, read, found)

    def target_rows(self, target: Target, landing: Landing, *, moved: int, added: int) -> int:  # noqa: ARG002
        """Rows of the target after the move.

        Args:
            target: the session.
            landing: the table.
            moved: rows that the check of conservation counted in the target.
            added: how many more rows in scope the target has than before.
        """
        return moved

    def watermark(
        self,
        source: Source,
        landing: Landing,
        *,
        rows: int,
        newest: datetime | None,
        before: Watermark | None,  # noqa: ARG002
    ) -> Watermark:
        """Up to where the source has been read after this move.

        Args:
            source: what was read.
            landing: the table.
            rows: rows of the target now.
            newest: the largest date of change that was read.
            before: the watermark until now.
        """
        position, seen = source.position(landing.table), source.snapshot.seen
        return Watermark(newest, rows, watermarks.rules_of(landing), seen, position)


EVERY_ROW = TableScope()


@dataclass(frozen=True, kw_only=True)
class ChangedRows(TableScope):
    """Rows that may have changed, among them all that wait in quarantine.

    Attributes:
        existing: keys of those that the source has.
        source_rows: rows of the source in all.
    """

    way: ClassVar[Way | None] = "synced"
    existing: tuple[Any, ...]
    source_rows: int = 0

    @property
    def keys(self) -> Sequence[Any]:
        """Keys of the rows in scope, on either side."""
        return [*self.existing, *self.deleted]

    def conservation(
        self,
        target: Target,
        landing: Landing,
        *,
        read: int,  # noqa: ARG002
        found: int,  # noqa: ARG002
    ) -> CheckResult:
        """All rows of both sides are counted, which costs little beside comparing their keys."""
        return verify.conservation(target, landing, self.source_rows, _count(target, landing))


@dataclass(frozen=True, kw_only=True)
class LoggedRows(ChangedRows):
    """Rows that the source's log names: to count all others would cost more than to move these."""

    rows_before: int

    def conservation(
        self, target: Target, landing: Landing, *, read: int, found: int
    ) -> CheckResult:
        """Only the rows in scope are counted."""
        return verify.conservation(target, landing, read, found)

    def target_rows(self, target: Target, landing: Landing, *, moved: int, added: int) -> int:  # noqa: ARG002
        """The last count goes on."""
        return self.rows_before + added


@dataclass(frozen=True, kw_only=True)
class NoRows(LoggedRows):
    """Nothing, because the source has not been written."""

    existing: tuple[Any, ...] = ()

    def conservation(
        self,
        target: Target,  # noqa: ARG002
        landing: Landing,
        *,
        read: int,
        found: int,
    ) -> CheckResult:
        """What waits in quarantine is not looked at either."""
        return verify.conserved(landing, read, found, quarantined=0)


@dataclass(frozen=True, kw_only=True)
class SubsetRows(ChangedRows):
    """Rows that belong to a subset; of the others nothing is known.

    Attributes:
        handles: what names those in the source, as the ledger writes it.
        excluded: rows of the source that are left out.
    """

    way: ClassVar[Way | None] = "subset"
    handles: frozenset[str]
    excluded: int

    @property
    def ledger_keys(self) -> Sequence[Any]:
        """Keys of the rows in scope."""
        return self.keys

    def quarantined(self, target: Target, landing: Landing) -> set[str]:
        """Handles of the rows in quarantine that are in scope."""
        return quarantine.within(target, landing.name, handles=self.handles, keys=self.keys)

    def conservation(
        self,
        target: Target,
        landing: Landing,
        *,
        read: int,  # noqa: ARG002
        found: int,  # noqa: ARG002
    ) -> CheckResult:
        """Source = moved + quarantined + excluded, where only rows in scope can be told apart."""
        return verify.conserved(
            landing,
            self.source_rows,
            len(verify.existing(target, landing, self.keys)),
            quarantined=len(self.quarantined(target, landing)),
            excluded=self.excluded,
        )

    def target_rows(self, target: Target, landing: Landing, *, moved: int, added: int) -> int:  # noqa: ARG002
        """The target has rows outside the scope, too."""
        return _count(target, landing)

    def watermark(
        self,
        source: Source,  # noqa: ARG002
        landing: Landing,  # noqa: ARG002
        *,
        rows: int,
        newest: datetime | None,
        before: Watermark | None,
    ) -> Watermark:
        """What was seen of the whole table, if it ever was, is all that is known of it."""
        newest = before.newest if before else newest
        return Watermark(newest, rows, watermarks.PART, seen=None, position=None)


def _count(target: Target, landing: Landing) -> int:
    return int(target.value(f"SELECT count(*) FROM {quoted(landing.name)}"))
