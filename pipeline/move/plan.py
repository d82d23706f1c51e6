"""What a move would do, without doing it.

The source is read as a move reads it, the target is only looked at. What only PostgreSQL can know
of a value (an index entry that is too long, a character that jsonb has no place for) is found by
the move itself.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.move import schema
from pipeline.move.contract import Rejected, quoted, repeats_a_name
from pipeline.move.errors import ShapeError
from pipeline.move.extract import Source
from pipeline.move.findings import Drift, Lossy, Quarantined
from pipeline.move.landing import Landing
from pipeline.move.policies import DEFAULT, Policies
from pipeline.move.prepare import Prepared, prepare
from pipeline.move.sift import Sieve
from pipeline.move.target import Target
from pipeline.move.types import type_name

_EXAMPLES = 5
_PROBE_BYTES = 2 * 2**20
_SECONDS_PER_ROW = 3e-6
"""What keys and indexes of a row cost a server, roughly; measured on two cores."""


@dataclass(frozen=True)
class ColumnPlan:
    """What a column holds and what becomes of it.

    Attributes:
        name: the column.
        source_type: its type as the source declares it, "" if it does not.
        target_type: its type in the target.
        storage: how many values of each SQLite storage class it holds.
        date_formats: how many of its texts have which form of a date; empty for other types.
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
        table: its name.
        rows: rows of the source.
        bytes: bytes of their values.
        columns: what each column holds.
        rejected_rows: rows that would go to quarantine.
        rejections: why, a row counting once per reason.
        lossy: values that would lose something; their originals would be kept.
        drift: where source and declaration disagree.
        target_rows: rows that the target holds now; None when it has no such table.
        target_only: columns that only the target has.
        obstacle: why the move would stop at once, None if nothing is in its way.
        seconds: roughly how long it would take, proof included.
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


def plan_tables(
    tables: Iterable[sa.Table], *, source: Source, target: Target, policies: Policies = DEFAULT
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
    source: Source,
    target: Target,
    bytes_per_second: float,
    rejected_keys: dict[str, set[str]],
) -> TablePlan:
    landing, survey = prepared.landing, prepared.survey
    sieve = Sieve(source, landing, prepared.contract, survey, judging=True)
    started = time.perf_counter()
    lossy = _lossy(sieve)
    reading = time.perf_counter() - started
    with source.sqlite() as connection:
        lossy += _repeated_names(connection, landing)
        rejected = list(_rejected(connection, sieve, rejected_keys))
        columns = tuple(_profile(connection, landing))
    rejected_keys[landing.name] = {row.key for row in rejected if row.key is not None}
    present = schema.look(target, landing.name)
    return TablePlan(
        landing.name,
        survey.rows,
        survey.bytes,
        columns,
        len(rejected),
        _counted(landing.name, rejected),
        tuple(lossy),
        landing.drift,
        _rows(target, landing) if present.exists else None,
        tuple(sorted(set(present.types or {}) - {c.name for c in landing.table.columns})),
        _obstacle(landing, present),
        2 * (reading + survey.bytes / bytes_per_second) + survey.rows * _SECONDS_PER_ROW,
    )


def _throughput(target: Target) -> float:
    """Bytes per second that the target takes, measured with a value that it only weighs."""
    probe = b"\0" * _PROBE_BYTES
    target.value("SELECT octet_length($1::bytea)", (b"\0",))
    started = time.perf_counter()
    target.value("SELECT octet_length($1::bytea)", (probe,))
    return _PROBE_BYTES / max(time.perf_counter() - started, 1e-6)


def _lossy(sieve: Sieve) -> list[Lossy]:
    counts: Counter[str] = Counter()
    examples: dict[str, list[tuple[str, str, str]]] = {}
    key = sieve.landing.key.name
    for sifted in sieve:
        for name, where in sifted.lossy.items():
            counts[name] += pc.sum(where).as_py() or 0
            shown = examples.setdefault(name, [])
            room = _EXAMPLES - len(shown)
            if room > 0:
                batches = (sifted.batch.column(key), sifted.raw.column(name))
                keys, raw = (column.filter(where).slice(0, room) for column in batches)
                kept = sifted.batch.column(name).filter(where).slice(0, room)
                texts = (column.cast(pa.string()).to_pylist() for column in (keys, raw, kept))
                shown += zip(*texts, strict=True)
    table = sieve.landing.name
    return [Lossy(table, n, count, tuple(examples[n])) for n, count in counts.items() if count]


def _repeated_names(connection: sqlite3.Connection, landing: Landing) -> list[Lossy]:
    """JSON objects that say a name twice; jsonb keeps the last."""
    found = []
    for column in landing.columns:
        if not isinstance(column.type, JSONB):
            continue
        name, key = quoted(column.name), quoted(landing.key.name)
        repeated = f" FROM {quoted(landing.name)} WHERE {repeats_a_name(name)}"
        (count,) = connection.execute(f"SELECT count(*){repeated}").fetchone()
        if count:
            rows = connection.execute(
                f"SELECT CAST({key} AS TEXT), {name}{repeated} ORDER BY {key} LIMIT {_EXAMPLES}"
            )
            examples = tuple((_text(k), _text(v), "the last of each name") for k, v in rows)
            found.append(Lossy(landing.name, column.name, count, examples))
    return found


def _rejected(
    connection: sqlite3.Connection, sieve: Sieve, rejected_keys: dict[str, set[str]]
) -> Iterator[Rejected]:
    landing = sieve.landing
    handle = sieve.source.handle_column(landing)
    held = {parent.name: rejected_keys.get(parent.name, set()) for _, parent in landing.parents}
    handles = {
        *sieve.rejected,
        *sieve.contract.without_parent(connection, handle_column=handle, held=held),
    }
    known = {str(h): reason for h, reason in sieve.rejected.items() if reason is not None}
    yield from sieve.contract.explain(
        connection, sorted(handles), handle_column=handle, held=held, known=known
    )


def _counted(table: str, rejected: Iterable[Rejected]) -> tuple[Quarantined, ...]:
    counts: Counter[tuple[str, str | None]] = Counter()
    examples: dict[tuple[str, str | None], list[str]] = {}
    for row in rejected:
        for reason in row.reasons:
            why = (reason.message, reason.column)
            counts[why] += 1
            if counts[why] <= _EXAMPLES:
                examples.setdefault(why, []).append(row.key or row.handle)
    return tuple(
        Quarantined(table, message, column, rows, tuple(examples[message, column]))
        for (message, column), rows in sorted(
            counts.items(), key=lambda item: (-item[1], str(item))
        )
    )


def _profile(connection: sqlite3.Connection, landing: Landing) -> Iterator[ColumnPlan]:
    connection.text_factory = str
    table = quoted(landing.name)
    for column in landing.columns:
        name = quoted(column.name)
        storage = dict(
            connection.execute(f"SELECT typeof({name}), count(*) FROM {table} GROUP BY 1")
        )
        formats: dict[str, int] = {}
        if isinstance(column.type, sa.DateTime):
            formats = dict(
                connection.execute(
                    f"SELECT {_date_form(name)}, count(*) FROM {table}"
                    f" WHERE typeof({name}) = 'text' GROUP BY 1 ORDER BY 2 DESC"
                )
            )
        declared = landing.declared[column.name]
        yield ColumnPlan(column.name, declared, type_name(column.type), storage, formats)


def _date_form(name: str) -> str:
    """SQL for the form of a text that may be a date, such as ``YYYY-MM-DD HH:MM:SS.ffffff``."""
    fraction = f"substr({name}, instr({name}, '.') + 1)"
    digits = f"length({fraction}) - length(ltrim({fraction}, '0123456789'))"
    return (
        f"CASE WHEN {name} NOT GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*' THEN 'no date'"
        f" WHEN length({name}) = 10 THEN 'YYYY-MM-DD' ELSE 'YYYY-MM-DD' || substr({name}, 11, 1)"
        f" || CASE WHEN substr({name}, 17, 1) = ':' THEN 'HH:MM:SS' ELSE 'HH:MM' END"
        f" || CASE WHEN instr({name}, '.') THEN '.' || substr('fffffffff', 1, {digits}) ELSE '' END"
        f" || CASE WHEN {name} GLOB '*Z' THEN 'Z' WHEN {name} GLOB"
        " '*[-+][0-9][0-9]:[0-9][0-9]' THEN '+HH:MM' ELSE '' END END"
    )


def _rows(target: Target, landing: Landing) -> int:
    return int(target.value(f"SELECT count(*) FROM {quoted(landing.name)}"))


def _obstacle(landing: Landing, present: schema.Present) -> str | None:
    try:
        schema.check_shape(landing, present)
    except ShapeError as error:
        return str(error)
    return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
