"""Rows into the target, inside the table's one transaction.

``set_down`` copies rows into a table without keys; a ``Stage`` keeps rows beside a table that has
them and merges them into it. Both cut what PostgreSQL refuses in halves until the row stands alone,
reject that row and go on.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.mapping import secret
from pipeline.mapping.contract import Reason
from pipeline.mapping.landing import Landing
from pipeline.mapping.row_key import RowKey
from pipeline.move.reading.sift import Sieve, Sifted
from pipeline.postgres import refusals, schema
from pipeline.postgres.target import DataFault, Target

STAGE = "pg_temp.pipeline_stage"
_TEMPORARY = STAGE.partition(".")[2]
"""What the driver, which adds the schema itself, calls it."""

_INDEXABLE_BYTES = 2_500
"""A row whose indexed texts are shorter than this fits into a B-tree (its limit is 2,704)."""

_NO_PARENT = "23503"


class Stage:
    """A temporary table with the columns, defaults, NOT NULL and CHECKs of the moved one."""

    def __init__(self, target: Target, sieve: Sieve) -> None:
        """Nothing is staged yet."""
        self.target = target
        self.sieve = sieve
        self._made = False

    def make(self) -> None:
        """Make the table, unless it is there."""
        if not self._made:
            # Defaults, and what else makes values, stand for columns that only the target has.
            self.target.run(
                f"CREATE TEMPORARY TABLE {STAGE} (LIKE {quoted(self.sieve.landing.name)}"
                " INCLUDING CONSTRAINTS INCLUDING DEFAULTS INCLUDING GENERATED"
                " INCLUDING IDENTITY) ON COMMIT DROP"
            )
            self._made = True

    def add(self, batch: pa.RecordBatch, sifted: Sifted) -> None:
        """Set rows of a sifted range down; reject what is not clean."""
        self.make()
        try:
            with self.target.savepoint():
                self.target.copy(_TEMPORARY, batch, temporary=True)
        except DataFault:
            if not sifted.judged:
                key = self.sieve.landing.key.name
                clean = self.sieve.sift(sifted.part, judge=True).batch.column(key)
                batch = batch.filter(pc.is_in(batch.column(key), clean))
            _set_down_singly(self.target, self.sieve, _TEMPORARY, batch, temporary=True)

    def merge(self) -> None:
        """Insert or update the table's rows from here; reject what PostgreSQL refuses."""
        if not self._made:
            return
        landing = self.sieve.landing
        key = quoted(landing.key.name)
        staged = self.target.arrow(f"SELECT {key} FROM {STAGE} ORDER BY {key}{_collation(landing)}")
        keys = staged.column(landing.key.name).to_pylist()
        if keys:
            _merge_between(self.target, self.sieve, keys)
        self.target.run(f"DROP TABLE {STAGE}")
        self._made = False


def set_down(
    stage: Stage, batches: Iterable[Sifted], *, on_batch: Callable[[Sifted], None]
) -> None:
    """Set sifted batches down in the bare table; rows that may not fit into an index are staged."""
    for sifted in batches:
        _set_down(stage, sifted)
        on_batch(sifted)


def _set_down(stage: Stage, sifted: Sifted) -> None:
    target, sieve = stage.target, stage.sieve
    indexable = _indexable(sieve.landing, sifted.batch)
    short = sifted.batch if indexable is None else sifted.batch.filter(indexable)
    try:
        with target.savepoint():
            target.copy(sieve.landing.name, short)
    except DataFault as fault:
        _require_row_fault(target, fault, sieve.landing)
        if not sifted.judged:
            _set_down(stage, sieve.sift(sifted.part, judge=True))
            return
        _set_down_singly(target, sieve, sieve.landing.name, short)
    if indexable is not None:
        stage.add(sifted.batch.filter(pc.invert(indexable)), sifted)


def _indexable(landing: Landing, batch: pa.RecordBatch) -> pa.Array | None:
    """Which rows surely fit into every B-tree, None for all.

    An index cannot be built around a row that was deleted in the same transaction, so rows with
    long texts wait in staging until the indexes are there.
    """
    columns = {column.name for index in landing.table.indexes for column in index.columns}
    for unique in schema.uniques_of(landing.table):
        columns |= {column.name for column in unique.columns}
    texts = [
        batch.column(name)
        for name in sorted(columns & set(batch.schema.names))
        if pa.types.is_string(batch.column(name).type)
    ]
    size: pa.Array | None = None
    for text in texts:
        bytes_ = pc.fill_null(pc.binary_length(text), 0)
        size = bytes_ if size is None else pc.add(size, bytes_)
    if size is None or (pc.max(size).as_py() or 0) <= _INDEXABLE_BYTES:
        return None
    return pc.less_equal(size, _INDEXABLE_BYTES)


def _set_down_singly(
    target: Target, sieve: Sieve, table: str, batch: pa.RecordBatch, *, temporary: bool = False
) -> None:
    """COPY a batch; cut it in halves where PostgreSQL refuses it, and reject single rows."""
    if not batch.num_rows:
        return
    try:
        with target.savepoint():
            target.copy(table, batch, temporary=temporary)
    except DataFault as fault:
        _require_row_fault(target, fault, sieve.landing)
        if batch.num_rows == 1:
            keys = batch.column(sieve.landing.key.name).to_pylist()
            sieve.reject(keys, _refusal(target, fault, sieve.landing))
            return
        half = batch.num_rows // 2
        for part in (batch.slice(0, half), batch.slice(half)):
            _set_down_singly(target, sieve, table, part, temporary=temporary)


def _require_row_fault(target: Target, fault: DataFault, landing: Landing) -> None:
    """Raise a fault that speaks of no row: of a broken function, or a trigger of statements."""
    if not fault.of_value:
        raise fault
    if fault.context.functions:
        found = refusals.callers(target.rows, fault.context, table=landing.name)
        if found and not any(trigger.of_row for trigger in found):
            raise fault


def _refusal(target: Target, fault: DataFault, landing: Landing) -> Reason:
    """The reason of a row that only PostgreSQL could know."""
    said = secret.said_of(landing.table, str(fault))
    who = refusals.speaker(target.rows, fault.context, table=landing.name)
    if who:
        # What a function says may hold any value of the row, and not in quotation marks.
        hidden = secret.SHOWN if secret.columns(landing.table) else said
        said = f"{who} refuses it: {hidden}"
    return Reason("refused", None, f"{said} (SQLSTATE {fault.sqlstate})")


def drop_orphans(
    target: Target,
    sieve: Sieve,
    table: str,
    *,
    on_found: Callable[[list[Any]], None] = lambda _: None,
) -> int:
    """Take rows whose parent is not in the target out of a table, and reject them.

    Args:
        target: the session.
        sieve: it notes what is rejected.
        table: the table or the stage, quoted.
        on_found: told the keys of such rows before they go.
    """
    landing, removed = sieve.landing, 0
    key = quoted(landing.key.name)
    for column, parent in landing.parents:
        name = quoted(column.name)
        parent_key = RowKey.of(parent).sql
        found = target.rows(
            f"SELECT {key} FROM {table} AS r WHERE {name} IS NOT NULL AND NOT EXISTS (SELECT"
            f" FROM {quoted(parent.name)} AS p WHERE p.{parent_key} = r.{name})"
        )
        keys = [found_key for (found_key,) in found]
        if keys:
            on_found(keys)
            target.rows(f"DELETE FROM {table} WHERE {key} = ANY($1) RETURNING 1", (keys,))
            message = f"refers to a row of {parent.name} that is not in the target"
            sieve.reject(keys, Reason("held", column.name, message))
        removed += len(keys)
    return removed


def build_foreign_keys(
    target: Target,
    sieve: Sieve,
    statements: Iterable[str],
    *,
    on_orphans: Callable[[list[Any]], None],
) -> None:
    """Add foreign keys; rows without their parent are taken out and rejected."""
    for statement in statements:
        try:
            with target.savepoint():
                target.run(statement)
        except DataFault as fault:
            if fault.sqlstate != _NO_PARENT:
                raise
            drop_orphans(target, sieve, quoted(sieve.landing.name), on_found=on_orphans)
            target.run(statement)


def _merge_between(target: Target, sieve: Sieve, keys: list[Any]) -> None:
    landing = sieve.landing
    key = quoted(landing.key.name)
    columns = [quoted(column.name) for column in landing.columns]
    updates = ", ".join(
        f"{quoted(column.name)} = {_newer(landing, column)}"
        for column in landing.columns
        if column is not landing.key
    )
    collation = _collation(landing)
    try:
        with target.savepoint():
            target.rows(
                # Ids are the source's, also where the target would always give them out.
                f"INSERT INTO {quoted(landing.name)} ({', '.join(columns)})"
                f" OVERRIDING SYSTEM VALUE SELECT {', '.join(columns)} FROM {STAGE}"
                f" WHERE {key}{collation} BETWEEN $1 AND $2"
                f" ON CONFLICT ({key}) DO UPDATE SET {updates}",
                (keys[0], keys[-1]),
            )
    except DataFault as fault:
        _require_row_fault(target, fault, landing)
        if len(keys) == 1:
            sieve.reject(keys, _refusal(target, fault, landing))
            return
        half = len(keys) // 2
        _merge_between(target, sieve, keys[:half])
        _merge_between(target, sieve, keys[half:])


def _newer(landing: Landing, column: sa.Column[Any]) -> str:
    """What an update sets a column to; a BLOB that stays the same is not written again."""
    name = quoted(column.name)
    if not isinstance(column.type, sa.LargeBinary):
        return f"EXCLUDED.{name}"
    old = f"{quoted(landing.name)}.{name}"
    return f"CASE WHEN {old} IS DISTINCT FROM EXCLUDED.{name} THEN EXCLUDED.{name} ELSE {old} END"


def _collation(landing: Landing) -> str:
    return ' COLLATE "C"' if landing.casts[landing.key.name].raw == pa.string() else ""
