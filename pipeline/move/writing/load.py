"""Load rows into the target, inside the table's transaction.

``load_batches`` copies rows into a table without keys. A ``Stage`` collects rows in a temporary
table and merges them into a table with keys. If PostgreSQL refuses a batch, both bisect it, reject
the single rows that cause the error, and continue.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.mapping.contract import Reason
from pipeline.mapping.row_key import RowKey
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading.batch_converter import BatchConverter, ConvertedBatch
from pipeline.move.writing import rejections
from pipeline.postgres import schema
from pipeline.postgres.driver import refusals
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.driver.statements import Question
from pipeline.postgres.target import Target

STAGE = "pg_temp.pipeline_stage"
_TEMPORARY = STAGE.partition(".")[2]
"""The name of the stage for the driver, which adds the schema itself."""

INDEXABLE_BYTES = 2_500
"""Rows with shorter indexed texts always fit into a B-tree, whose limit is 2,704 bytes."""

_NO_PARENT = "23503"


class Stage:
    """A temporary table with the columns, defaults, NOT NULL and CHECKs of the moved one."""

    def __init__(self, target: Target, converter: BatchConverter) -> None:
        """Create no table yet."""
        self.target = target
        self.converter = converter
        self._made = False

    def make(self) -> None:
        """Create the temporary table, unless it exists."""
        if not self._made:
            # Defaults and generated values fill the columns that only the target has.
            self.target.defer(
                f"CREATE TEMPORARY TABLE {STAGE} (LIKE {quoted(self.converter.mapping.name)}"
                " INCLUDING CONSTRAINTS INCLUDING DEFAULTS INCLUDING GENERATED"
                " INCLUDING IDENTITY) ON COMMIT DROP"
            )
            self._made = True

    def add(self, batch: pa.RecordBatch, converted: ConvertedBatch) -> None:
        """Stage rows of a converted range; reject rows that are not clean."""
        self.make()
        try:
            with self.target.savepoint():
                _copy(self.target, self.converter.mapping, _TEMPORARY, batch, temporary=True)
        except DataFault:
            if not converted.contract_checked:
                key = self.converter.mapping.key.name
                clean = self.converter.convert(converted.part, check_contract=True).batch.column(
                    key
                )
                batch = batch.filter(pc.is_in(batch.column(key), clean))
            _copy_bisecting(self.target, self.converter, _TEMPORARY, batch, temporary=True)

    def merge(self) -> int:
        """Insert or update the table's rows from the stage; reject rows that PostgreSQL refuses.

        Returns:
            The number of staged rows.
        """
        if not self._made:
            return 0
        mapping = self.converter.mapping
        key = quoted(mapping.key.name)
        staged = self.target.arrow(f"SELECT {key} FROM {STAGE} ORDER BY {key}{_collation(mapping)}")
        keys = staged.column(mapping.key.name).to_pylist()
        if keys:
            _merge_between(self.target, self.converter, keys)
        self.target.defer(f"DROP TABLE {STAGE}")
        self._made = False
        return len(keys)


def load_batches(
    stage: Stage, batches: Iterable[ConvertedBatch], *, on_batch: Callable[[ConvertedBatch], None]
) -> None:
    """Copy batches into a table without keys; stage rows that may not fit into an index."""
    for converted in batches:
        _load(stage, converted)
        on_batch(converted)


def _load(stage: Stage, converted: ConvertedBatch) -> None:
    target, converter = stage.target, stage.converter
    indexable = _indexable(converter.mapping, converted.batch)
    short = converted.batch if indexable is None else converted.batch.filter(indexable)
    try:
        with target.savepoint():
            _copy(target, converter.mapping, converter.mapping.name, short)
    except DataFault as fault:
        _require_row_fault(target, fault, converter.mapping)
        if not converted.contract_checked:
            _load(stage, converter.convert(converted.part, check_contract=True))
            return
        _copy_bisecting(target, converter, converter.mapping.name, short)
    if indexable is not None:
        stage.add(converted.batch.filter(pc.invert(indexable)), converted)


def _indexable(mapping: TableMapping, batch: pa.RecordBatch) -> pa.Array | None:
    """The mask of rows that certainly fit into every B-tree, None for all.

    An index build also covers rows deleted in the same transaction. Rows with long texts are
    therefore staged until the indexes exist.
    """
    columns = {column.name for index in mapping.table.indexes for column in index.columns}
    for unique in schema.unique_constraints(mapping.table):
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
    if size is None or (pc.max(size).as_py() or 0) <= INDEXABLE_BYTES:
        return None
    return pc.less_equal(size, INDEXABLE_BYTES)


def _copy_bisecting(
    target: Target,
    converter: BatchConverter,
    table: str,
    batch: pa.RecordBatch,
    *,
    temporary: bool = False,
) -> None:
    """COPY a batch; if PostgreSQL refuses it, bisect it and reject single rows."""
    if not batch.num_rows:
        return
    try:
        with target.savepoint():
            _copy(target, converter.mapping, table, batch, temporary=temporary)
    except DataFault as fault:
        _require_row_fault(target, fault, converter.mapping)
        if batch.num_rows == 1:
            keys = batch.column(converter.mapping.key.name).to_pylist()
            found = rejections.reason(target, fault, converter.mapping, key=keys[0])
            converter.reject(keys, found)
            return
        half = batch.num_rows // 2
        for part in (batch.slice(0, half), batch.slice(half)):
            _copy_bisecting(target, converter, table, part, temporary=temporary)


def _copy(
    target: Target,
    mapping: TableMapping,
    table: str,
    batch: pa.RecordBatch,
    *,
    temporary: bool = False,
) -> None:
    """COPY a batch without the columns that the server computes."""
    if mapping.computed:
        batch = batch.select(mapping.written)
    target.copy(table, batch, temporary=temporary)


def _require_row_fault(target: Target, fault: DataFault, mapping: TableMapping) -> None:
    """Raise a fault that no single row causes: a broken function, or a statement-level trigger."""
    if not fault.value_refused:
        raise fault
    if fault.context.functions:
        found = refusals.calling_triggers(target.rows, fault.context, table=mapping.name)
        if found and not any(trigger.for_each_row for trigger in found):
            raise fault


def drop_orphans(
    target: Target,
    converter: BatchConverter,
    table: str,
    *,
    on_found: Callable[[list[Any]], None] = lambda _: None,
) -> int:
    """Delete rows whose parent is not in the target, and reject them; returns how many.

    Args:
        table: the table or the stage, quoted.
        on_found: called with the keys of such rows before they are deleted.
    """
    mapping, dropped = converter.mapping, 0
    refers_to_itself = any(parent is mapping.table for _, parent in mapping.parents)
    # Without its parent, a row cannot be the parent of others.
    while removed := _drop_orphans(target, converter, table, on_found):
        dropped += removed
        if not refers_to_itself:
            break
    return dropped


def _drop_orphans(
    target: Target,
    converter: BatchConverter,
    table: str,
    on_found: Callable[[list[Any]], None],
) -> int:
    mapping, removed = converter.mapping, set[Any]()
    key = quoted(mapping.key.name)
    asked = [
        _orphans_question(mapping, table, column, parent) for column, parent in mapping.parents
    ]
    with target.prefetched(*asked):
        for (column, parent), question in zip(mapping.parents, asked, strict=True):
            keys = [found for found in target.answer(question) if found not in removed]
            if keys:
                on_found(keys)
                target.defer(f"DELETE FROM {table} WHERE {key} = ANY($1)", (keys,))
                message = f"refers to a row of {parent.name} that is not in the target"
                converter.reject(keys, Reason("held", column.name, message))
            removed.update(keys)
    return len(removed)


def _orphans_question(
    mapping: TableMapping, table: str, column: sa.Column[Any], parent: sa.Table
) -> Question[list[Any]]:
    name, parent_key = quoted(column.name), RowKey.of(parent).sql
    places = [quoted(parent.name)]
    if parent is mapping.table and table != places[0]:
        places.append(table)
    absent = " AND ".join(
        f"NOT EXISTS (SELECT FROM {place} AS p WHERE p.{parent_key} = r.{name})" for place in places
    )
    return Question(
        f"SELECT {quoted(mapping.key.name)} FROM {table} AS r WHERE {name} IS NOT NULL"
        f" AND {absent}",
        (),
        lambda rows: [key for (key,) in rows],
    )


def build_foreign_keys(
    target: Target,
    converter: BatchConverter,
    statements: Iterable[str],
    *,
    on_orphans: Callable[[list[Any]], None],
) -> None:
    """Add foreign keys; delete and reject rows without a parent."""
    for statement in statements:
        try:
            with target.savepoint():
                target.run(statement)
        except DataFault as fault:
            if fault.sqlstate != _NO_PARENT:
                raise
            drop_orphans(target, converter, quoted(converter.mapping.name), on_found=on_orphans)
            target.run(statement)


def _merge_between(target: Target, converter: BatchConverter, keys: list[Any]) -> None:
    mapping = converter.mapping
    key = quoted(mapping.key.name)
    columns = [quoted(name) for name in mapping.written]
    updates = ", ".join(
        f"{quoted(column.name)} = {_updated_value(mapping, column)}"
        for column in mapping.columns
        if column is not mapping.key and column.name not in mapping.computed
    )
    collation = _collation(mapping)
    # A table may have no column besides its key.
    action = f"UPDATE SET {updates}" if updates else "NOTHING"
    try:
        with target.savepoint():
            target.rows(
                # Ids come from the source, even if the target's are GENERATED ALWAYS.
                f"INSERT INTO {quoted(mapping.name)} ({', '.join(columns)})"
                f" OVERRIDING SYSTEM VALUE SELECT {', '.join(columns)} FROM {STAGE}"
                f" WHERE {key}{collation} BETWEEN $1 AND $2"
                f" ON CONFLICT ({key}) DO {action}",
                (keys[0], keys[-1]),
            )
    except DataFault as fault:
        _require_row_fault(target, fault, mapping)
        if len(keys) == 1:
            found = rejections.reason(target, fault, mapping, key=keys[0], stage=STAGE)
            converter.reject(keys, found)
            return
        half = len(keys) // 2
        _merge_between(target, converter, keys[:half])
        _merge_between(target, converter, keys[half:])


def _updated_value(mapping: TableMapping, column: sa.Column[Any]) -> str:
    """SQL for the new value of a column; an unchanged BLOB is not written again."""
    name = quoted(column.name)
    if not isinstance(column.type, sa.LargeBinary):
        return f"EXCLUDED.{name}"
    old = f"{quoted(mapping.name)}.{name}"
    return f"CASE WHEN {old} IS DISTINCT FROM EXCLUDED.{name} THEN EXCLUDED.{name} ELSE {old} END"


def _collation(mapping: TableMapping) -> str:
    return ' COLLATE "C"' if mapping.casts[mapping.key.name].raw == pa.string() else ""
