"""Conflicts: rows that were changed in the target.

A row is in conflict if its date of change in the target is newer than in the source, and newer than
all dates that the source had when it was last read, so no move can have written it. It stays in
conflict until the source has a newer date. If the clock of the source ran ahead, the second
condition does not hold and the source's version moves as usual. Rows deleted in the source are
deleted.
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
from pipeline.postgres.driver.statements import Question
from pipeline.postgres.target import Target


@dataclass
class Conflicts:
    """The conflicts of one table in one run.

    Attributes:
        newest: the largest date of change in the source when it was last read.
        known: keys of the rows that earlier runs left unchanged.
        kept: keys of the rows that keep the target's version.
    """

    mapping: TableMapping
    newest: datetime | None = None
    known: list[Any] = field(default_factory=list)
    rows: int = 0
    values: list[Conflict] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)

    def follow(self, target: Target, newest: datetime | None) -> None:
        """Continue from the last read of the source."""
        self.newest = newest
        self.known = keys(target, self.mapping)

    def settle(self, changes: Changes) -> pa.Array | None:
        """Record conflicts; returns keys of rows that must not be overwritten.

        Raises:
            ConflictError: there are conflicts, and the policy is to stop.
        """
        keys = self._newer_in_target(changes)
        if keys is None:
            return None
        self.rows += len(keys)
        kept = "source" if self.mapping.policies.conflicts == "source" else "target"
        for differing in changes.differing:
            where = pc.is_in(differing.keys, keys)
            self.values += [
                Conflict(self.mapping.name, key, differing.column, source, target, kept)  # type: ignore[arg-type]
                for key, source, target in zip(
                    differing.keys.filter(where).to_pylist(),
                    self._hidden(differing.column, differing.source.filter(where)),
                    self._hidden(differing.column, differing.target.filter(where)),
                    strict=True,
                )
            ]
        if self.mapping.policies.conflicts == "fail":
            table = self.mapping.name
            raise ConflictError(
                f"{table}: {len(keys)} rows were changed in the target since the source was last"
                f" read, such as {table} {keys[0].as_py()}",
                remedy="Set POLICY_CONFLICTS to source or target, the side whose values are kept",
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
                dates = differing.target
                known = pa.array(self.known, differing.keys.type)
                changed = pc.is_in(differing.keys, known)
                if self.newest is not None:
                    beyond = pc.greater(dates, pa.scalar(self.newest, dates.type))
                    changed = pc.or_(changed, pc.fill_null(beyond, False))
                newer = pc.and_(pc.fill_null(pc.greater(dates, differing.source), False), changed)
                keys = differing.keys.filter(newer)
                return keys if len(keys) else None
        return None


def keys(target: Target, mapping: TableMapping) -> list[Any]:
    """Keys of the rows that kept the target's version, from the ledger."""
    return target.answer(keys_question(mapping))


def keys_question(mapping: TableMapping) -> Question[list[Any]]:
    """The question for the keys of the rows that kept the target's version."""
    kind = mapping.key.type.python_type
    return Question(
        "SELECT DISTINCT source_key FROM migration.conflicts WHERE table_name = $1",
        (mapping.name,),
        lambda rows: [kind(key) for (key,) in rows],
    )


def recorded_question(table: str) -> Question[set[tuple[Any, ...]]]:
    """The question for the recorded conflicts, as (key, column, source value, target value)."""
    return Question(
        "SELECT source_key, column_name, source_value, target_value FROM migration.conflicts"
        " WHERE table_name = $1",
        (table,),
        set,
    )


def replace(
    target: Target,
    table: str,
    values: Iterable[Conflict],
    *,
    scope_keys: Iterable[Any] | None = None,
) -> None:
    """Make the ledger hold exactly these conflicts; existing ones are not rewritten.

    Args:
        scope_keys: keys of the rows that were compared, None for all.
    """
    compared = None if scope_keys is None else {str(key) for key in scope_keys}
    before = target.answer(recorded_question(table))
    now = {
        (str(value.key), value.column, _text(value.source), _text(value.target))
        for value in values
        if value.kept == "target"
    }
    settled = sorted(
        {(key, col) for key, col, *_ in before - now if compared is None or key in compared}
    )
    if settled:
        target.defer(
            "DELETE FROM migration.conflicts WHERE table_name = $1 AND (source_key, column_name)"
            " IN (SELECT * FROM unnest($2::text[], $3::text[]))",
            (table, *map(list, zip(*settled, strict=True))),
        )
    added = sorted(now - before, key=str)
    if added:
        columns = [pa.array(column, pa.string()) for column in zip(*added, strict=True)]
        names = ["source_key", "column_name", "source_value", "target_value"]
        table_name = pa.array([table] * len(added), pa.string())
        target.copy(
            "conflicts",
            pa.RecordBatch.from_arrays([table_name, *columns], names=["table_name", *names]),
            schema=ledger.SCHEMA,
        )


def _text(value: Any) -> str | None:
    value = secret.revealed(value)
    return None if value is None else str(value)
