"""Rows that were changed on both sides.

A date of change in the target that is newer than the source's, and newer than any that the source
had when it was read last, was not put there by a move: somebody wrote the target. Where the source
has run behind its own clock, the second condition does not hold, and its version moves as usual.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.move import policies
from pipeline.move.changes import Changes
from pipeline.move.errors import ConflictError
from pipeline.move.findings import OFFENDERS, CheckResult, Conflict
from pipeline.move.landing import Landing
from pipeline.move.target import Target


@dataclass
class Conflicts:
    """The conflicts of one table in one run.

    Attributes:
        table: its name.
        changed_by: its column that tells when a row changed; None where it has none.
        newest: the largest of those dates that the source had when it was read last.
        policy: which version stays.
        rows: how many rows were changed on both sides.
        values: their values that differ.
        kept: keys of those that stay as the target has them.
    """

    table: str
    changed_by: str | None
    newest: datetime | None
    policy: policies.Conflicts
    rows: int = 0
    values: list[Conflict] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)

    def settle(self, changes: Changes) -> pa.Array | None:
        """Note what was changed on both sides; returns keys of rows that must not be overwritten.

        Raises:
            ConflictError: there are such rows, and the policy is to stop.
        """
        keys = self._newer_in_target(changes)
        if keys is None:
            return None
        self.rows += len(keys)
        kept = "source" if self.policy == "source" else "target"
        for differing in changes.differing:
            where = pc.is_in(differing.keys, keys)
            self.values += [
                Conflict(self.table, key, differing.column, ours, theirs, kept)  # type: ignore[arg-type]
                for key, ours, theirs in zip(
                    differing.keys.filter(where).to_pylist(),
                    differing.source.filter(where).to_pylist(),
                    differing.target.filter(where).to_pylist(),
                    strict=True,
                )
            ]
        if self.policy == "fail":
            raise ConflictError(
                f"{self.table}: {len(keys)} rows were changed in the target since the source was"
                f" read last, such as {self.table} {keys[0].as_py()}",
                remedy="Set POLICY_CONFLICTS to target or source to say which version stays",
            )
        if kept == "source":
            return None
        self.kept += keys.to_pylist()
        return keys

    def check(self) -> CheckResult:
        """No row was changed on both sides."""
        self.values.sort(key=lambda value: str(value.key))
        return CheckResult(
            "conflicts",
            not self.rows,
            False,
            tuple(self.values[:OFFENDERS]),
            {"rows": self.rows, "kept": len(self.kept)},
        )

    def _newer_in_target(self, changes: Changes) -> pa.Array | None:
        if self.newest is None:
            return None
        for differing in changes.differing:
            if differing.column == self.changed_by:
                there = differing.target
                newer = pc.and_(
                    pc.greater(there, differing.source),
                    pc.greater(there, pa.scalar(self.newest, there.type)),
                )
                keys = differing.keys.filter(pc.fill_null(newer, False))
                return keys if len(keys) else None
        return None


def keys(target: Target, landing: Landing) -> list[Any]:
    """Keys of the rows that were left as the target had them, as the ledger tells."""
    kind = landing.key.type.python_type
    found = target.rows(
        "SELECT DISTINCT source_key FROM migration.conflicts WHERE table_name = $1",
        (landing.name,),
    )
    return [kind(key) for (key,) in found]


def check_kept(target: Target, table: str) -> CheckResult:
    """No row was changed on both sides, as the ledger tells."""
    found = target.rows(
        "SELECT source_key, column_name, source_value, target_value FROM migration.conflicts"
        " WHERE table_name = $1 ORDER BY 1, 2",
        (table,),
    )
    values = tuple(
        Conflict(table, key, column, ours, theirs, "target") for key, column, ours, theirs in found
    )
    rows = len({value.key for value in values})
    return CheckResult(
        "conflicts", not rows, False, values[:OFFENDERS], {"rows": rows, "kept": rows}
    )


def replace(target: Target, table: str, values: Iterable[Conflict]) -> None:
    """Make the ledger hold exactly these; one that stays is not touched."""
    there = {
        tuple(row)
        for row in target.rows(
            "SELECT source_key, column_name, source_value, target_value FROM migration.conflicts"
            " WHERE table_name = $1",
            (table,),
        )
    }
    now = {
        (str(value.key), value.column, _text(value.source), _text(value.target))
        for value in values
        if value.kept == "target"
    }
    for key, column, *_ in sorted(there - now, key=str):
        target.rows(
            "DELETE FROM migration.conflicts WHERE table_name = $1 AND source_key = $2"
            " AND column_name = $3 RETURNING 1",
            (table, key, column),
        )
    added = sorted(now - there, key=str)
    if added:
        columns = [pa.array(column, pa.string()) for column in zip(*added, strict=True)]
        names = ["source_key", "column_name", "source_value", "target_value"]
        of_table = pa.array([table] * len(added), pa.string())
        target.copy(
            "migration.conflicts",
            pa.RecordBatch.from_arrays([of_table, *columns], names=["table_name", *names]),
        )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
