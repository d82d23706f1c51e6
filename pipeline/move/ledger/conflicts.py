"""Rows that somebody changed in the target.

A date of change in the target that is newer than the source's, and newer than any that the source
had when it was read last, was not put there by a move: somebody wrote the target. Such a row stays
one until the source has a newer date. Where the source has run ahead of its clock, the second
condition does not hold, and its version moves as usual; a row that the source deletes is deleted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import proof
from pipeline.core.errors import ConflictError
from pipeline.core.findings import OFFENDERS, CheckResult, Conflict
from pipeline.declared import ledger
from pipeline.mapping import secret
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare.changes import Changes, shown
from pipeline.postgres.target import Target


@dataclass
class Conflicts:
    """The conflicts of one table in one run.

    Attributes:
        mapping: the table.
        newest: the largest date of change that the source had when it was read last.
        known: keys of rows that were left as they are before.
        rows: how many rows somebody changed.
        values: their values that differ.
        kept: keys of those that stay as the target has them.
    """

    mapping: TableMapping
    newest: datetime | None = None
    known: list[Any] = field(default_factory=list)
    rows: int = 0
    values: list[Conflict] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)

    def follow(self, target: Target, newest: datetime | None) -> None:
        """Go on from where the source was read before."""
        self.newest = newest
        self.known = keys(target, self.mapping)

    def settle(self, changes: Changes) -> pa.Array | None:
        """Note what somebody changed; returns keys of rows that must not be overwritten.

        Raises:
            ConflictError: there are such rows, and the policy is to stop.
        """
        keys = self._newer_in_target(changes)
        if keys is None:
            return None
        self.rows += len(keys)
        kept = "source" if self.mapping.policies.conflicts == "source" else "target"
        for differing in changes.differing:
            where = pc.is_in(differing.keys, keys)
            self.values += [
                Conflict(self.mapping.name, key, differing.column, ours, theirs, kept)  # type: ignore[arg-type]
                for key, ours, theirs in zip(
                    differing.keys.filter(where).to_pylist(),
                    self._hidden(differing.column, differing.source.filter(where)),
                    self._hidden(differing.column, differing.target.filter(where)),
                    strict=True,
                )
            ]
        if self.mapping.policies.conflicts == "fail":
            table = self.mapping.name
            raise ConflictError(
                f"{table}: {len(keys)} rows were changed in the target since the source was read"
                f" last, such as {table} {keys[0].as_py()}",
                remedy="Set POLICY_CONFLICTS to target or source to say which version stays",
            )
        if kept == "source":
            return None
        self.kept += keys.to_pylist()
        return keys

    def check(self) -> CheckResult:
        """No row was changed in the target."""
        self.values.sort(key=lambda value: str(value.key))
        figures = {"rows": self.rows, "kept": len(self.kept)}
        return proof.CONFLICTS.result(self.values[:OFFENDERS], figures, passed=not self.rows)

    def _hidden(self, column: str, values: pa.Array) -> list[Any]:
        return secret.hidden(self.mapping.table, column, shown(values))

    def _newer_in_target(self, changes: Changes) -> pa.Array | None:
        for differing in changes.differing:
            if differing.column == self.mapping.changed_by:
                there = differing.target
                known = pa.array(self.known, differing.keys.type)
                ours = pc.is_in(differing.keys, known)
                if self.newest is not None:
                    beyond = pc.greater(there, pa.scalar(self.newest, there.type))
                    ours = pc.or_(ours, pc.fill_null(beyond, False))
                newer = pc.and_(pc.fill_null(pc.greater(there, differing.source), False), ours)
                keys = differing.keys.filter(newer)
                return keys if len(keys) else None
        return None


def keys(target: Target, mapping: TableMapping) -> list[Any]:
    """Keys of the rows that were left as the target had them, as the ledger tells."""
    kind = mapping.key.type.python_type
    found = target.rows(
        "SELECT DISTINCT source_key FROM migration.conflicts WHERE table_name = $1",
        (mapping.name,),
    )
    return [kind(key) for (key,) in found]


def replace(
    target: Target, table: str, values: Iterable[Conflict], *, among: Iterable[Any] | None = None
) -> None:
    """Make the ledger hold exactly these; one that stays is not touched.

    Args:
        target: the session.
        table: the table.
        values: what was left as the target has it.
        among: keys of the rows that were looked at, None for all.
    """
    looked_at = None if among is None else {str(key) for key in among}
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
    settled = sorted(
        {(key, col) for key, col, *_ in there - now if looked_at is None or key in looked_at}
    )
    if settled:
        target.rows(
            "DELETE FROM migration.conflicts WHERE table_name = $1 AND (source_key, column_name)"
            " IN (SELECT * FROM unnest($2::text[], $3::text[])) RETURNING 1",
            (table, *map(list, zip(*settled, strict=True))),
        )
    added = sorted(now - there, key=str)
    if added:
        columns = [pa.array(column, pa.string()) for column in zip(*added, strict=True)]
        names = ["source_key", "column_name", "source_value", "target_value"]
        of_table = pa.array([table] * len(added), pa.string())
        target.copy(
            "conflicts",
            pa.RecordBatch.from_arrays([of_table, *columns], names=["table_name", *names]),
            schema=ledger.SCHEMA,
        )


def _text(value: Any) -> str | None:
    value = secret.revealed(value)
    return None if value is None else str(value)
