"""Rows into the target, inside the table's one transaction.

``set_down`` copies rows into a table without keys, or into a staging table that has the same NOT
NULL and CHECK constraints; ``merge_stage`` takes them from staging to the table. Both cut what
PostgreSQL refuses in halves until the row stands alone, reject that row and go on.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.move.contract import Reason, quoted
from pipeline.move.landing import Landing
from pipeline.move.sift import Sieve, Sifted
from pipeline.move.target import DataFault, Target

STAGE = "pipeline_stage"
_INDEXABLE_BYTES = 2_500
"""A row whose indexed texts are shorter than this fits into a B-tree (its limit is 2,704)."""

_TOO_LONG = "54000"


def set_down(
    target: Target,
    sieve: Sieve,
    batches: Iterable[Sifted],
    *,
    on_batch: Callable[[Sifted], None],
) -> None:
    """Set sifted batches down in the bare table."""
    for sifted in batches:
        _set_down(target, sieve, sifted)
        on_batch(sifted)


def stage(target: Target, sieve: Sieve, batch: pa.RecordBatch, sifted: Sifted) -> None:
    """Set rows of a sifted range down in staging; reject what is not clean."""
    try:
        with target.savepoint():
            target.copy(STAGE, batch, temporary=True)
    except DataFault:
        if not sifted.judged:
            key = sieve.landing.key.name
            clean = sieve.sift(sifted.part, judge=True).batch.column(key)
            batch = batch.filter(pc.is_in(batch.column(key), clean))
        set_down_singly(target, sieve, STAGE, batch, temporary=True)


def _set_down(target: Target, sieve: Sieve, sifted: Sifted) -> None:
    try:
        with target.savepoint():
            target.copy(sieve.landing.name, sifted.batch)
    except DataFault:
        if not sifted.judged:
            _set_down(target, sieve, sieve.sift(sifted.part, judge=True))
        else:
            set_down_singly(target, sieve, sieve.landing.name, sifted.batch)


def set_down_singly(
    target: Target, sieve: Sieve, table: str, batch: pa.RecordBatch, *, temporary: bool = False
) -> None:
    """COPY a batch; cut it in halves where PostgreSQL refuses it, and reject single rows."""
    if not batch.num_rows:
        return
    try:
        with target.savepoint():
            target.copy(table, batch, temporary=temporary)
    except DataFault as fault:
        if batch.num_rows == 1:
            sieve.reject(batch.column(sieve.landing.key.name).to_pylist(), refusal(fault))
            return
        half = batch.num_rows // 2
        for part in (batch.slice(0, half), batch.slice(half)):
            set_down_singly(target, sieve, table, part, temporary=temporary)


def refusal(fault: DataFault) -> Reason:
    """The reason of a row that only PostgreSQL could know."""
    return Reason("refused", None, f"{fault} (SQLSTATE {fault.sqlstate})")


def make_stage(target: Target, landing: Landing) -> None:
    """An empty temporary table with the columns, NOT NULL and CHECKs of the table."""
    target.run(
        f"CREATE TEMPORARY TABLE {STAGE} (LIKE {quoted(landing.name)} INCLUDING CONSTRAINTS)"
        " ON COMMIT DROP"
    )


def drop_orphans(target: Target, sieve: Sieve, table: str) -> int:
    """Take rows whose parent is not in the target out of a table, and reject them."""
    landing, removed = sieve.landing, 0
    key = quoted(landing.key.name)
    for column, parent in landing.parents:
        name = quoted(column.name)
        parent_key = quoted(next(iter(parent.primary_key.columns)).name)
        found = target.arrow(
            f"DELETE FROM {table} AS r WHERE {name} IS NOT NULL AND NOT EXISTS (SELECT"
            f" FROM {quoted(parent.name)} AS p WHERE p.{parent_key} = r.{name}) RETURNING r.{key}"
        )
        message = f"refers to a row of {parent.name} that is not in the target"
        if found.num_rows:
            sieve.reject(found.column(0).to_pylist(), Reason("held", column.name, message))
        removed += found.num_rows
    return removed


def build(target: Target, sieve: Sieve, statements: Iterable[str], *, on_fault: str) -> None:
    """Run DDL over the rows; take out the rows that stand in its way.

    Args:
        target: the session.
        sieve: where rejected rows are noted.
        statements: each adds one constraint or index.
        on_fault: "orphans" when rows may lack a parent, "long" when indexed text may be too
            long for a B-tree.
    """
    for statement in statements:
        try:
            with target.savepoint():
                target.run(statement)
        except DataFault as fault:
            if on_fault == "orphans" and fault.sqlstate == "23503":
                drop_orphans(target, sieve, quoted(sieve.landing.name))
                target.run(statement)
            elif on_fault == "long" and fault.sqlstate == _TOO_LONG:
                _build_around_long_rows(target, sieve, statement)
            else:
                raise


def _build_around_long_rows(target: Target, sieve: Sieve, statement: str) -> None:
    landing = sieve.landing
    name = quoted(landing.name)
    texts = " + ".join(
        f"coalesce(octet_length({quoted(column.name)}), 0)"
        for column in {c.name: c for index in landing.table.indexes for c in index.columns}.values()
        if landing.casts[column.name].raw == pa.string()
    )
    make_stage(target, landing)
    target.run(
        f"WITH long AS (DELETE FROM {name} WHERE {texts} > {_INDEXABLE_BYTES} RETURNING *)"
        f" INSERT INTO {STAGE} SELECT * FROM long",
        statement,
    )
    merge_stage(target, sieve)
    target.run(f"DROP TABLE {STAGE}")


def merge_stage(target: Target, sieve: Sieve) -> None:
    """Insert or update the table's rows from staging; reject what PostgreSQL refuses."""
    key = quoted(sieve.landing.key.name)
    order = sieve.landing.key.name
    staged = target.arrow(f"SELECT {key} FROM {STAGE} ORDER BY {key}{_collation(sieve.landing)}")
    keys = staged.column(order).to_pylist()
    if keys:
        _merge_between(target, sieve, keys)


def _merge_between(target: Target, sieve: Sieve, keys: list[Any]) -> None:
    landing = sieve.landing
    key = quoted(landing.key.name)
    columns = [quoted(column.name) for column in landing.columns]
    updates = ", ".join(f"{c} = EXCLUDED.{c}" for c in columns if c != key)
    collation = _collation(landing)
    try:
        with target.savepoint():
            target.rows(
                f"INSERT INTO {quoted(landing.name)} ({', '.join(columns)})"
                f" SELECT {', '.join(columns)} FROM {STAGE}"
                f" WHERE {key}{collation} BETWEEN $1 AND $2"
                f" ON CONFLICT ({key}) DO UPDATE SET {updates}",
                (keys[0], keys[-1]),
            )
    except DataFault as fault:
        if len(keys) == 1:
            sieve.reject(keys, refusal(fault))
            return
        half = len(keys) // 2
        _merge_between(target, sieve, keys[:half])
        _merge_between(target, sieve, keys[half:])


def _collation(landing: Landing) -> str:
    return ' COLLATE "C"' if landing.casts[landing.key.name].raw == pa.string() else ""
