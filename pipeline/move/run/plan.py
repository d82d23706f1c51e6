"""The plan of a move: what it would do, without changing anything.

The plan reads the source as a move does, and only inspects the target. Only the move itself finds
what PostgreSQL alone can detect: an index entry that is too long, half of a surrogate pair in JSON.
"""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.core.errors import ShapeError
from pipeline.core.findings import Drift, Lossy, Quarantined
from pipeline.core.policies import DEFAULT, Policies
from pipeline.core.quoting import quoted
from pipeline.declared.forms import EpochMoment
from pipeline.mapping import secret
from pipeline.mapping.casts import epochs
from pipeline.mapping.casts.cast import Cast
from pipeline.mapping.casts.json_texts import mask_repeated_names
from pipeline.mapping.contract import Rejected, forbidden_loss
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.context.options import QUARANTINE_SHARE
from pipeline.move.ledger import unmanaged_rows
from pipeline.move.reading import recognition
from pipeline.move.reading.batch_converter import BatchConverter, ConvertedBatch
from pipeline.move.reading.prepare import Prepared, prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.run.column_plan import ColumnPlan, date_format, date_formats, profile
from pipeline.move.run.disk_space import NOTHING_NEEDED, DiskNeed
from pipeline.move.run.quarantine_share import is_too_large
from pipeline.postgres import schema
from pipeline.postgres.target import Target

_EXAMPLES = 5
_SHOWN_BYTES = 20
_PROBE_BYTES = 2 * 2**20
_SECONDS_PER_ROW = 3e-6
"""Approximate time for keys and indexes per row; measured on two cores."""


@dataclass(frozen=True)
class TablePlan:
    """What a move of one table would do.

    Attributes:
        rejections: the reasons; a row counts once per reason.
        lossy: values that would be converted with a loss; their originals would be kept.
        target_rows: rows of the target now; None if it has no such table.
        obstacle: why the move would stop immediately, if it would.
        seconds: estimated duration, proof included.
        disk_need: what the target's disk needs, estimated.
        proposals: forms in which rejected values can be read.
    """

    table: str
    rows: int
    bytes: int
    columns: tuple[ColumnPlan, ...]
    rejected_rows: int
    rejections: tuple[Quarantined, ...]
    lossy: tuple[Lossy, ...]
    drift: tuple[Drift, ...]
    target_rows: int | None
    target_only: tuple[str, ...]
    obstacle: str | None
    seconds: float
    disk_need: DiskNeed = NOTHING_NEEDED
    proposals: tuple[recognition.FormProposal, ...] = ()


def plan_tables(
    tables: Iterable[sa.Table],
    *,
    source: SourceView,
    target: Target,
    policies: Policies = DEFAULT,
    quarantine_share: float = QUARANTINE_SHARE,
) -> tuple[TablePlan, ...]:
    """Plan tables in this order, parents first.

    Raises:
        SourceError: the source lacks what a table needs, or cannot be read.
        TargetError: the target does not answer.
    """
    bytes_per_second = _throughput(target)
    rejected: dict[str, set[str]] = {}
    return tuple(
        _require_share(
            _plan_table(
                prepare(table, source, policies), source, target, bytes_per_second, rejected
            ),
            quarantine_share,
        )
        for table in tables
    )


def _require_share(plan: TablePlan, share: float) -> TablePlan:
    """Name it as an obstacle if the move would leave too many rows in quarantine."""
    if plan.obstacle or not is_too_large(
        plan.rows, plan.rejected_rows, share=share, recognized=bool(plan.proposals)
    ):
        return plan
    return replace(
        plan,
        obstacle=f"{plan.rejected_rows:,} of {plan.rows:,} rows would be in quarantine, more than"
        f" MAX_QUARANTINE_SHARE ({share:.0%})",
    )


def _plan_table(
    prepared: Prepared,
    source: SourceView,
    target: Target,
    bytes_per_second: float,
    rejected_keys: dict[str, set[str]],
) -> TablePlan:
    mapping, survey = prepared.mapping, prepared.survey
    converter = BatchConverter(source, mapping, prepared.contract, survey)
    held = {parent.name: rejected_keys.get(parent.name, set()) for _, parent in mapping.parents}
    row_id = source.row_id_column(mapping)
    result = _Readout()
    with source.sqlite() as connection:
        orphans = prepared.contract.rows_without_parent(connection, row_id_column=row_id, held=held)
        converter.rejected |= {each: None for each in orphans if each not in converter.rejected}
        started = time.perf_counter()
        for part in survey.ranges:
            # Violations of the other rules are found when the range is converted.
            for each in source.violating_row_ids(mapping, prepared.contract, part, cast=False):
                converter.rejected.setdefault(each, None)
            result.add(mapping, converter.convert(part))
        reading = time.perf_counter() - started
        known = {str(h): reason for h, reason in converter.rejected.items() if reason is not None}
        for row in prepared.contract.explain(
            connection,
            sorted(converter.rejected),
            row_id_column=row_id,
            held=held,
            known=known,
            collations=source.collations(mapping),
        ):
            result.reject(mapping, row)
        columns = tuple(profile(connection, mapping, result.date_formats))
        proposals = recognition.proposals(connection, mapping, schema=source.schema)
        doubts = tuple(recognition.doubts(connection, mapping, schema=source.schema))
    rejected_keys[mapping.name] = _only_rejected(source, converter, result.rejected_keys)
    target_rows, target_only, obstacle = _inspect_target(target, mapping)
    return TablePlan(
        mapping.name,
        survey.rows,
        survey.bytes,
        columns,
        result.rejected,
        result.rejections(mapping.name),
        result.losses(mapping.name),
        (*mapping.drift, *doubts),
        target_rows,
        target_only,
        result.forbidden or obstacle,
        2 * (reading + survey.bytes / bytes_per_second) + survey.rows * _SECONDS_PER_ROW,
        DiskNeed.of_table(
            mapping.table, rows=survey.rows, size=survey.bytes, existing=target_rows or 0
        ),
        proposals,
    )


def _only_rejected(source: SourceView, converter: BatchConverter, keys: set[str]) -> set[str]:
    """Keys as text, without those that a clean row of another storage class has as well."""
    mapping, rejected = converter.mapping, converter.rejected
    found = source.row_ids_by_key(mapping, sorted(keys)) if keys else []
    clean = [row_id for row_id in found if row_id not in rejected]
    return keys - {str(key) for key in source.keys_by_row_id(mapping, clean)} if clean else keys


def _inspect_target(
    target: Target, mapping: TableMapping
) -> tuple[int | None, tuple[str, ...], str | None]:
    """Rows of the target's table, columns that only it has, and the obstacle of a move."""
    rows: int | None = None
    only: tuple[str, ...] = ()
    try:
        present = schema.inspect(target, mapping.name)
        if present.exists:
            rows = target.value(f"SELECT count(*) FROM {quoted(mapping.name)}")
            schema.inspect_for_writing(target, mapping)
        only = tuple(sorted(set(present.types or {}) - {c.name for c in mapping.table.columns}))
        schema.check_shape(mapping, present, widening=True)
        if rows and not mapping.policies.adopt_target:
            unmanaged_rows.require_own(target.rows, [mapping.table])
    except ShapeError as error:
        return rows, only, str(error)
    return rows, only, None


def _throughput(target: Target) -> float:
    """Bytes per second that the target receives, measured with a value that is not stored."""
    probe = b"\0" * _PROBE_BYTES
    target.bound("SELECT octet_length($1::bytea)", (b"\0",))
    started = time.perf_counter()
    target.bound("SELECT octet_length($1::bytea)", (probe,))
    return _PROBE_BYTES / max(time.perf_counter() - started, 1e-6)


@dataclass
class _Readout:
    """The result of reading all rows.

    Attributes:
        reasons: number of rows by reason.
        offenders: examples of their keys, by reason.
        forbidden: why the move would stop, if it would.
        lossy: number of values that would be converted with a loss, by column.
        examples: examples of them, as (key, source value, target value).
        date_formats: number of texts by column and date format.
    """

    rejected: int = 0
    rejected_keys: set[str] = field(default_factory=set)
    reasons: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    offenders: dict[tuple[str, str | None], list[str]] = field(default_factory=dict)
    forbidden: str | None = None
    lossy: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    date_formats: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, mapping: TableMapping, converted: ConvertedBatch) -> None:
        keys = converted.batch.column(mapping.key.name)
        for column in mapping.columns:
            name, raw = column.name, converted.raw.column(column.name)
            lossy, kept = converted.lossy.get(name), converted.batch.column(name)
            if isinstance(column.type, JSONB):
                repeats = mask_repeated_names(kept.storage)
                kept = pc.if_else(repeats, "the last of each name", kept.storage)
                lossy = repeats if lossy is None else pc.or_(lossy, repeats)
            if lossy is not None:
                hidden = name in secret.columns(mapping.table)
                self._add_loss(mapping.casts[name], name, lossy, (keys, raw, kept), hidden=hidden)
            if isinstance(column.type, EpochMoment):
                raw = epochs.shown(raw)
            if isinstance(column.type, sa.DateTime):
                self.date_formats.setdefault(name, Counter()).update(date_formats(raw))

    def reject(self, mapping: TableMapping, row: Rejected) -> None:
        """Count a row that would be rejected."""
        self.rejected += 1
        if row.key is not None:
            self.rejected_keys.add(row.key)
        for reason in row.reasons:
            why = (reason.message, reason.column)
            self.reasons[why] += 1
            if self.reasons[why] <= _EXAMPLES:
                self.offenders.setdefault(why, []).append(row.key or row.row_id)
        self.forbidden = self.forbidden or forbidden_loss(mapping, row)
        for column, value in zip(mapping.columns, row.values, strict=True):
            if isinstance(column.type, sa.DateTime) and value.storage == "text":
                text = (value.value or b"").decode("utf-8", "replace")
                self.date_formats.setdefault(column.name, Counter())[date_format(text)] += 1

    def rejections(self, table: str) -> tuple[Quarantined, ...]:
        """The reasons of rejections, the most frequent first."""
        return tuple(
            Quarantined(table, message, column, rows, tuple(self.offenders[message, column]))
            for (message, column), rows in sorted(
                self.reasons.items(), key=lambda item: (-item[1], str(item))
            )
        )

    def _add_loss(
        self,
        cast: Cast,
        name: str,
        where: pa.Array,
        columns: tuple[pa.Array, pa.Array, pa.Array],
        *,
        hidden: bool,
    ) -> None:
        """Count the values that lose information, and keep examples.

        Args:
            columns: keys, raw values and converted values.
        """
        count = pc.sum(where).as_py() or 0
        self.lossy[name] += count
        shown = self.examples.setdefault(name, [])
        room = _EXAMPLES - len(shown)
        if count and room > 0:
            keys, raw, kept = (column.filter(where).slice(0, room) for column in columns)
            pairs = [[secret.SHOWN] * len(keys)] * 2
            if not hidden:
                pairs = [_texts(cast.originals(raw).texts), _texts(kept)]
            shown += zip(_texts(keys), *pairs, strict=True)

    def losses(self, table: str) -> tuple[Lossy, ...]:
        """Columns with values that would be converted with a loss."""
        return tuple(
            Lossy(table, name, count, tuple(self.examples[name]))
            for name, count in self.lossy.items()
            if count
        )


def _texts(values: pa.Array) -> list[str]:
    """Values for people."""
    if pa.types.is_binary(values.type):
        return [value[:_SHOWN_BYTES].hex() for value in values.to_pylist()]
    return [str(text) for text in values.cast(pa.string()).to_pylist()]
