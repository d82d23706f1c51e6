"""The plan of a move: what it would do, without changing anything.

The plan reads the source as a move does, and only inspects the target. Only the move itself finds
what PostgreSQL alone can detect: an index entry that is too long, a character that jsonb refuses.
"""

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.core.errors import ShapeError
from pipeline.core.findings import Drift, Lossy, Quarantined
from pipeline.core.policies import DEFAULT, Policies
from pipeline.core.quoting import quoted
from pipeline.mapping import secret
from pipeline.mapping.contract import Rejected, forbidden_loss
from pipeline.mapping.json_texts import mask_repeated_names
from pipeline.mapping.table_mapping import TableMapping
from pipeline.mapping.types import type_name
from pipeline.move.ledger import unmanaged_rows
from pipeline.move.reading.batch_converter import BatchConverter, ConvertedBatch
from pipeline.move.reading.prepare import Prepared, prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.run.disk_space import NOTHING_NEEDED, DiskNeed
from pipeline.postgres import schema
from pipeline.postgres.target import Target

_EXAMPLES = 5
_PROBE_BYTES = 2 * 2**20
_SECONDS_PER_ROW = 3e-6
"""Approximate time for keys and indexes per row; measured on two cores."""


@dataclass(frozen=True)
class ColumnPlan:
    """The contents and types of a column.

    Attributes:
        source_type: the type declared in the source, "" if there is none.
        storage: number of values by SQLite storage class.
        date_formats: number of texts by date format; empty for other types.
    """

    name: str
    source_type: str
    target_type: str
    storage: dict[str, int]
    date_formats: dict[str, int]


@dataclass(frozen=True)
class TablePlan:
    """What a move of one table would do.

    Attributes:
        rejections: the reasons; a row counts once per reason.
        lossy: values that would be converted with a loss; their originals would be kept.
        target_rows: rows of the target now; None if it has no such table.
        obstacle: why the move would stop immediately, if it would.
        seconds: estimated duration, proof included.
        room: what the target's disk needs, estimated.
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


def plan_tables(
    tables: Iterable[sa.Table], *, source: SourceView, target: Target, policies: Policies = DEFAULT
) -> tuple[TablePlan, ...]:
    """Plan tables in this order, parents first.

    Raises:
        SourceError: the source lacks what a table needs, or cannot be read.
        TargetError: the target does not answer.
    """
    bytes_per_second = _throughput(target)
    rejected: dict[str, set[str]] = {}
    return tuple(
        _plan_table(prepare(table, source, policies), source, target, bytes_per_second, rejected)
        for table in tables
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
        columns = tuple(_profile(connection, mapping, result.date_formats))
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
        mapping.drift,
        target_rows,
        target_only,
        result.forbidden or obstacle,
        2 * (reading + survey.bytes / bytes_per_second) + survey.rows * _SECONDS_PER_ROW,
        DiskNeed.of_table(
            mapping.table, rows=survey.rows, size=survey.bytes, existing=target_rows or 0
        ),
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
        schema.check_shape(mapping, present)
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
                if name in secret.columns(mapping.table):
                    raw = kept = pa.array([secret.SHOWN] * len(keys))
                self._add_loss(name, lossy, keys, raw, kept)
            if isinstance(column.type, sa.DateTime):
                self.date_formats.setdefault(name, Counter()).update(_date_formats(raw))

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
                self.date_formats.setdefault(column.name, Counter())[_date_format(text)] += 1

    def rejections(self, table: str) -> tuple[Quarantined, ...]:
        """The reasons of rejections, the most frequent first."""
        return tuple(
            Quarantined(table, message, column, rows, tuple(self.offenders[message, column]))
            for (message, column), rows in sorted(
                self.reasons.items(), key=lambda item: (-item[1], str(item))
            )
        )

    def _add_loss(
        self, name: str, where: pa.Array, keys: pa.Array, originals: pa.Array, kept: pa.Array
    ) -> None:
        count = pc.sum(where).as_py() or 0
        self.lossy[name] += count
        shown = self.examples.setdefault(name, [])
        room = _EXAMPLES - len(shown)
        if count and room > 0:
            columns = (column.filter(where).slice(0, room) for column in (keys, originals, kept))
            texts = (column.cast(pa.string()).to_pylist() for column in columns)
            shown += zip(*texts, strict=True)

    def losses(self, table: str) -> tuple[Lossy, ...]:
        """Columns with values that would be converted with a loss."""
        return tuple(
            Lossy(table, name, count, tuple(self.examples[name]))
            for name, count in self.lossy.items()
            if count
        )


def _date_formats(texts: pa.Array) -> Counter[str]:
    """Number of texts by format, such as ``YYYY-MM-DD HH:MM:SS.ffffff``.

    Texts with the same length and the same characters at significant positions are counted
    together.
    """
    marks = [pc.binary_length(texts)]
    marks += [pc.utf8_slice_codeunits(texts, start, start + 1) for start in (10, 16, 19)]
    ends = ((-7, -6), (-6, -5), (-1, None))
    marks += [pc.utf8_slice_codeunits(texts, start, stop) for start, stop in ends]
    names = [str(number) for number in range(len(marks))]
    grouped = pa.table([*marks, texts], names=[*names, "text"]).group_by(names)
    counted = grouped.aggregate([("text", "min"), ("text", "count")])
    formats: Counter[str] = Counter()
    for text, count in zip(
        counted.column("text_min").to_pylist(),
        counted.column("text_count").to_pylist(),
        strict=True,
    ):
        if text is not None:
            formats[_date_format(text)] += count
    return formats


_FORMAT = re.compile(
    r"\d{4}-\d\d-\d\d(?:(?P<between>[ T])\d\d:\d\d(?P<seconds>:\d\d)?(?:\.(?P<fraction>\d+))?)?"
    r"(?P<blank> *)(?P<zone>Z|[+-]\d\d:\d\d)?"
)


def _date_format(text: str) -> str:
    found = _FORMAT.fullmatch(text)
    if found is None:
        return "no date"
    result = "YYYY-MM-DD"
    if found["between"]:
        result += f"{found['between']}HH:MM" + (":SS" if found["seconds"] else "")
    if found["fraction"]:
        result += "." + "f" * len(found["fraction"])
    zone = found["zone"] or ""
    return result + found["blank"] + ("+HH:MM" if len(zone) > 1 else zone)


_CLASSES = ("null", "integer", "real", "text", "blob")


def _profile(
    connection: sqlite3.Connection, mapping: TableMapping, date_formats: dict[str, Counter[str]]
) -> Iterator[ColumnPlan]:
    """The contents of all columns; one scan counts their storage classes."""
    sums = ", ".join(
        f"sum(typeof({quoted(column.name)}) = '{storage}')"
        for column in mapping.columns
        for storage in _CLASSES
    )
    counts = connection.execute(f"SELECT {sums} FROM {quoted(mapping.name)}").fetchone()
    for number, column in enumerate(mapping.columns):
        column_counts = counts[number * len(_CLASSES) : (number + 1) * len(_CLASSES)]
        yield ColumnPlan(
            column.name,
            mapping.declared[column.name],
            type_name(column.type),
            {storage: n for storage, n in zip(_CLASSES, column_counts, strict=True) if n},
            dict(date_formats.get(column.name, Counter()).most_common()),
        )
