"""SQLite to Arrow record batches, sized by bytes.

A survey looks once at every row, in key order, without reading what is in its BLOBs: it judges
the row by the contract, finds duplicate keys and cuts the table into ranges of keys whose rows
fit into one batch. A read delivers one range as one batch, with the Arrow types that the casts
expect; rejected rows are left out.
"""

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import adbc_driver_manager
import adbc_driver_sqlite
import adbc_driver_sqlite.dbapi as adbc_sqlite
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from pipeline.core.errors import SourceError
from pipeline.core.findings import Overridden
from pipeline.core.quoting import quoted
from pipeline.mapping.contract import Contract, Reason, is_utf8
from pipeline.mapping.table_mapping import SourceColumn, TableMapping
from pipeline.sqlite import opening, tracking
from pipeline.sqlite.snapshot import Snapshot, unreadable
from pipeline.sqlite.tracking import Position

BATCH_BYTES = 8 * 2**20
BATCH_ROWS = 65_536
_VALUE_BYTES = 8
_ROW_BYTES = 4
"""No row takes less room in a file; pages that point at each other give more of them for ever."""
_HIDDEN = 1
"""What ``table_xinfo`` says of a column that is no data; a computed column is data."""

DUPLICATE = Reason("duplicate_key", None, "shares its primary key with another row")


@dataclass(frozen=True)
class Range:
    """Rows of one batch: their keys lie between ``first`` and ``last``, both included."""

    first: Any
    last: Any
    rows: int
    bytes: int


@dataclass(frozen=True)
class Survey:
    """What one look at a table found.

    Attributes:
        rows: all rows of the source table, rejected ones included.
        bytes: their values, as stored.
        ranges: keys in ascending order, cut so that a range fits into one batch.
        rejected: row ids of the rows that break the contract, ascending.
        duplicates: those of them that share their key.
    """

    rows: int
    bytes: int
    ranges: tuple[Range, ...]
    rejected: tuple[Any, ...]
    duplicates: frozenset[Any]


@dataclass
class _Cutter:
    """Collects the stream of a survey."""

    table: str
    most_rows: int
    largest: int
    rows: int = 0
    bytes: int = 0
    ranges: list[Range] = field(default_factory=list)
    rejected: list[Any] = field(default_factory=list)
    duplicates: set[Any] = field(default_factory=set)
    last_key: Any = None
    last_row_id: Any = None

    def take(self, keys: pa.Array, row_ids: pa.Array, sizes: Any, bad: pa.Array | None) -> None:
        self.rows += len(keys)
        self.bytes += int(sizes.sum())
        self._require_plausible(sizes)
        if bad is not None:
            self.rejected += pc.filter(row_ids, pc.equal(bad, 1)).to_pylist()
        keys = self._sound(keys, row_ids)
        if keys.null_count:
            there = keys.is_valid()
            sizes = sizes[there.to_numpy(zero_copy_only=False)]
            keys, row_ids = keys.filter(there), row_ids.filter(there)
        if not len(keys):
            return
        same = pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1)).to_numpy(zero_copy_only=False)
        for at in np.flatnonzero(same).tolist():
            self.duplicates.update((row_ids[at].as_py(), row_ids[at + 1].as_py()))
        if self.ranges and keys[0].as_py() == self.last_key:
            self.duplicates.update((self.last_row_id, row_ids[0].as_py()))
        self.last_key, self.last_row_id = keys[-1].as_py(), row_ids[-1].as_py()
        self._cut(keys, sizes)

    def _require_plausible(self, sizes: Any) -> None:
        """Go on only as long as the file can hold what is read of it."""
        if self.rows > self.most_rows:
            raise SourceError(
                f"The source is damaged: {self.table} has more rows than its file has room for",
                remedy="Restore it from a backup, or recover it with `sqlite3 FILE .recover`",
            )
        if len(sizes) and sizes.max() > self.largest:
            raise SourceError(
                f"{self.table} of the source has a row of {int(sizes.max()):,} bytes, more than"
                f" MAX_VALUE_BYTES ({self.largest:,})",
                remedy="Take it out of the source, or raise MAX_VALUE_BYTES if the memory is there",
            )

    def _sound(self, keys: pa.Array, row_ids: pa.Array) -> pa.Array:
        """Keys with NULL for those that PostgreSQL takes for no text; their rows are rejected."""
        if not pa.types.is_string(keys.type):
            return keys
        raw = keys.cast(pa.binary())
        with contextlib.suppress(pa.ArrowInvalid):
            keys.validate(full=True)
            if not pc.any(pc.match_substring(raw, b"\0")).as_py():
                return keys
        found = raw.to_pylist()
        good = [key is not None and _is_text(key) for key in found]
        self.rejected += row_ids.filter(pc.invert(pa.array(good))).to_pylist()
        texts = [key.decode() if ok else None for key, ok in zip(found, good, strict=True)]
        return pa.array(texts, pa.string())

    def _cut(self, keys: pa.Array, sizes: Any) -> None:
        ends = np.cumsum(sizes)
        start, before = 0, 0
        while start < len(keys):
            stop = int(np.searchsorted(ends, before + BATCH_BYTES, side="right"))
            stop = min(max(stop, start + 1), start + BATCH_ROWS)
            self.ranges.append(
                Range(
                    keys[start].as_py(),
                    keys[stop - 1].as_py(),
                    stop - start,
                    int(ends[stop - 1] - before),
                )
            )
            start, before = stop, int(ends[stop - 1])

    def survey(self) -> Survey:
        """What was collected."""
        rejected = sorted({*self.rejected, *self.duplicates})
        return Survey(
            self.rows,
            self.bytes,
            tuple(self.ranges),
            tuple(rejected),
            frozenset(self.duplicates),
        )


class Source:
    """Read access to one snapshot; every reader has a connection of its own.

    Attributes:
        snapshot: the file that is read.
        overrides: values of it that a person mended, by table.
        schema: the connection's name for the file that holds all rows of the source, and in which
            columns, counts and the log are looked up; rows are read from ``main``.
    """

    schema = "main"

    def __init__(self, snapshot: Snapshot) -> None:
        """Open the snapshot; nothing is read yet."""
        self.snapshot = snapshot
        self._uri = f"{snapshot.path.absolute().as_uri()}?immutable=1"
        self._row_id_columns: dict[str, str] = {}
        self._positions: dict[str, Position | None] = {}
        self.overrides: dict[str, list[Overridden]] = {}

    @property
    def everything(self) -> str:
        """Prefix of the names of tables that hold all rows of the source."""
        return f"{self.schema}."

    @property
    def path(self) -> Path:
        """The file that the application writes."""
        return self.snapshot.source

    @contextmanager
    def sqlite(self) -> Iterator[sqlite3.Connection]:
        """A connection of Python's own, for few rows: TEXT arrives as bytes."""
        try:
            with closing(opening.connect(self.snapshot.path, "immutable")) as connection:
                connection.text_factory = bytes
                yield connection
        except opening.UNREADABLE as error:
            raise unreadable(self.path, error) from error

    @contextmanager
    def writable(self, tables: Iterable[sa.Table]) -> Iterator[sqlite3.Connection]:
        """A connection that changes tables of the private copy, without triggers and CHECKs."""
        for table in tables:
            # Where the log ends is known only while the triggers are there.
            self.position(table)
        try:
            with closing(opening.connect(self.snapshot.path, "rw")) as connection:
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("PRAGMA ignore_check_constraints = ON")
                triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                for (name,) in connection.execute(triggers).fetchall():
                    connection.execute(f"DROP TRIGGER {quoted(name)}")
                connection.text_factory = bytes
                yield connection
                connection.commit()
        except opening.UNREADABLE as error:
            raise unreadable(self.path, error) from error

    def columns(self, table: str) -> tuple[SourceColumn, ...]:
        """The columns of a table, as the source declares them."""
        with self.sqlite() as connection:
            connection.text_factory = str
            return tuple(
                SourceColumn(name, declared)
                for _, name, declared, _, _, _, hidden in connection.execute(
                    f"PRAGMA {self.schema}.table_xinfo({quoted(table)})"
                )
                if hidden != _HIDDEN
            )

    def position(self, table: sa.Table) -> Position | None:
        """Where the log of changes ends; None where the table is not tracked."""
        if table.name not in self._positions:
            with self.sqlite() as connection:
                found = tracking.position(connection, table, schema=self.schema)
            self._positions[table.name] = found
        return self._positions[table.name]

    def row_id_column(self, mapping: TableMapping) -> str:
        """SQL for what names a row for certain: the rowid, or the key where there is none.

        It is the same in the live file and in the private ones.
        """
        if mapping.name not in self._row_id_columns:
            self._row_id_columns[mapping.name] = self._find_row_id_column(mapping)
        return self._row_id_columns[mapping.name]

    def _find_row_id_column(self, mapping: TableMapping) -> str:
        name, schema = quoted(mapping.name), self.schema
        with self.sqlite() as connection:
            connection.text_factory = str
            info = list(connection.execute(f"PRAGMA {schema}.table_info({name})"))
            without_rowid = any(
                row[2] == "table" and row[4]
                for row in connection.execute(f"PRAGMA {schema}.table_list({name})")
            )
        key = mapping.key.name
        names = {row[1].lower() for row in info}
        primary = [row for row in info if row[5]]
        is_rowid = len(primary) == 1 and primary[0][1] == key and primary[0][2].upper() == "INTEGER"
        if is_rowid and not without_rowid:
            return quoted(key)
        if without_rowid:
            # Its key is all it has, and that may be of any storage class.
            return f"(typeof({quoted(key)}) || ':' || hex({quoted(key)}))"
        free = [name for name in ("rowid", "_rowid_", "oid") if name not in names]
        if not free:
            raise SourceError(
                f"{mapping.name} of the source has columns rowid, _rowid_ and oid, so that nothing"
                " names its rows",
                remedy="Rename one of these columns",
            )
        return free[0]

    def count(self, mapping: TableMapping) -> int:
        """All rows of a table of the source, as SQLite counts them."""
        table = f"{self.everything}{quoted(mapping.name)}"
        (rows,) = self._row_ids(f"SELECT count(*) FROM {table}", ())
        return int(rows)

    def survey(self, mapping: TableMapping, contract: Contract) -> Survey:
        """Look once at every row of a table."""
        key = quoted(mapping.key.name)
        cast = mapping.casts[mapping.key.name]
        sizes = " + ".join(
            f"ifnull(octet_length({quoted(column.name)}), 0)"
            for column in mapping.columns
            if mapping.casts[column.name].raw in (pa.string(), pa.binary())
        )
        fixed = _VALUE_BYTES * len(mapping.columns)
        row_id = self.row_id_column(mapping)
        row_id_is_key = row_id == key
        # A key that is the row id cannot be of another type; all others are read with care.
        outputs = [f"{fixed} + {sizes or '0'}", key]
        first = ["0", cast.sentinel]
        broken = contract.violated(always=True)
        if not row_id_is_key:
            outputs[1:] = [cast.guarded_read(key), row_id]
            first.append("''" if self._row_id_is_text(mapping) else "0")
            broken = f"{broken} OR {key} IS NULL OR {cast.storage_rule(key, '').violated}"
        if broken != "0":
            outputs.append(broken)
            first.append("0")
        sql = (
            f"SELECT {', '.join(first)} UNION ALL SELECT * FROM (SELECT {', '.join(outputs)}"
            f" FROM {quoted(mapping.name)} ORDER BY {key} LIMIT -1)"
        )
        size = self.snapshot.path.stat().st_size
        cutter = _Cutter(mapping.name, size // _ROW_BYTES, largest=mapping.policies.max_value_bytes)
        with self._reader(BATCH_ROWS) as cursor:
            cursor.execute(sql)
            start = 1
            for batch in cursor.fetch_record_batch():
                sizes_, keys, *more = batch.slice(start).columns
                bad = more.pop() if broken != "0" else None
                cutter.take(keys, more[0] if more else keys, sizes_.to_numpy(), bad)
                start = 0
        return cutter.survey()

    def cut(self, mapping: TableMapping) -> Survey:
        """Cut a table of small rows, whose row id is their key, without looking at the rows."""
        table, key = quoted(mapping.name), quoted(mapping.key.name)
        size = _VALUE_BYTES * len(mapping.columns)
        ranges: list[Range] = []
        with self.sqlite() as connection:
            while True:
                after = f"WHERE {key} > {ranges[-1].last}" if ranges else ""
                first, last, rows = connection.execute(
                    f"SELECT min(k), max(k), count(*) FROM (SELECT {key} AS k FROM {table} {after}"
                    f" ORDER BY {key} LIMIT {BATCH_ROWS})"
                ).fetchone()
                if not rows:
                    break
                ranges.append(Range(first, last, rows, rows * size))
        counted = sum(part.rows for part in ranges)
        return Survey(counted, counted * size, tuple(ranges), (), frozenset())

    def read(
        self, mapping: TableMapping, part: Range, *, without: Collection[Any] = ()
    ) -> pa.RecordBatch:
        """Deliver one range, raw: SQLite's values in the casts' ``raw`` types.

        Args:
            mapping: the table.
            part: what to read.
            without: row ids of rows to leave out.

        Raises:
            pa.ArrowInvalid: a value is of another storage class than its column accepts.
        """
        casts = mapping.casts
        key, row_id = quoted(mapping.key.name), self.row_id_column(mapping)
        sentinels = [f"{casts[c.name].sentinel} AS {quoted(c.name)}" for c in mapping.columns]
        outputs = [casts[c.name].read(quoted(c.name)) for c in mapping.columns]
        where, bounds = f"{key} BETWEEN ? AND ?", [part.first, part.last]
        if without:
            where += f" AND {row_id} NOT IN (SELECT value FROM json_each(?))"
            bounds.append(json.dumps(list(without)))
        sql = (
            f"SELECT {', '.join(sentinels)} UNION ALL SELECT * FROM (SELECT {', '.join(outputs)}"
            f" FROM {quoted(mapping.name)} WHERE {where} ORDER BY {key} LIMIT -1)"
        )
        with self._reader(part.rows + 1) as cursor:
            cursor.execute(sql, bounds)
            batch = _one_batch(cursor.fetch_arrow_table().slice(1))
        self._check_types(mapping, batch)
        return batch

    def judge(
        self, mapping: TableMapping, contract: Contract, part: Range, *, cast: bool = True
    ) -> list[Any]:
        """Handles of the rows of a range that break the contract; ``cast`` as in ``violated``."""
        key, row_id = quoted(mapping.key.name), self.row_id_column(mapping)
        sql = (
            f"SELECT {row_id} FROM {quoted(mapping.name)}"
            f" WHERE {key} BETWEEN ? AND ? AND {contract.violated(cast=cast)}"
        )
        return self._row_ids(sql, (part.first, part.last))

    def row_ids_of(self, mapping: TableMapping, keys: Sequence[Any]) -> list[Any]:
        """Handles of the rows with these keys."""
        key, row_id = quoted(mapping.key.name), self.row_id_column(mapping)
        return self._row_ids(
            f"SELECT {row_id} FROM {quoted(mapping.name)}"
            f" WHERE {key} IN (SELECT value FROM json_each(?)) ORDER BY {row_id}",
            (json.dumps(list(keys)),),
        )

    def keys_of(self, mapping: TableMapping, row_ids: Sequence[Any]) -> list[Any]:
        """Keys of these rows, as far as they are of the type that a key must have."""
        key, row_id = quoted(mapping.key.name), self.row_id_column(mapping)
        return self._sound_keys(
            mapping,
            f"SELECT {key} AS key FROM {quoted(mapping.name)}"
            f" WHERE {row_id} IN (SELECT value FROM json_each(?))",
            (json.dumps(list(row_ids)),),
        )

    def _sound_keys(
        self, mapping: TableMapping, query: str, parameters: tuple[Any, ...] = ()
    ) -> list[Any]:
        """Each ``key`` of a query once, as far as it is of the type that a key must have."""
        storage = mapping.casts[mapping.key.name].storage[0]
        with self.sqlite() as connection:
            found = connection.execute(
                f"SELECT DISTINCT key FROM ({query}) WHERE typeof(key) = '{storage}'", parameters
            ).fetchall()
        keys = [key for (key,) in found]
        return [key.decode() for key in keys if _is_text(key)] if storage == "text" else keys

    def row_id_from(self, mapping: TableMapping, text: str) -> Any:
        """A row id as the source knows it, from how the ledger writes it.

        That of a source which named its rows otherwise stays a text, and names none.
        """
        number = text.removeprefix("-").isdecimal()
        return int(text) if number and not self._row_id_is_text(mapping) else text

    def _row_id_is_text(self, mapping: TableMapping) -> bool:
        return self.row_id_column(mapping).startswith("(")

    def _row_ids(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        with self.sqlite() as connection:
            connection.text_factory = str
            return [row_id for (row_id,) in connection.execute(sql, parameters)]

    def _check_types(self, mapping: TableMapping, batch: pa.RecordBatch) -> None:
        for column, name in zip(batch.columns, batch.schema.names, strict=True):
            expected = mapping.casts[name].raw
            if column.type != expected:
                raise pa.ArrowInvalid(f"{name} holds {column.type} instead of {expected}")

    @contextmanager
    def _reader(self, rows: int) -> Iterator[Any]:
        try:
            with (
                adbc_sqlite.connect(self._uri) as connection,
                connection.cursor() as cursor,
            ):
                cursor.adbc_statement.set_options(
                    **{adbc_driver_sqlite.StatementOptions.BATCH_ROWS.value: str(rows)}
                )
                cursor.execute("PRAGMA trusted_schema = OFF")
                cursor.execute("PRAGMA cell_size_check = ON")
                yield cursor
        except adbc_driver_manager.Error as error:
            raise unreadable(self.path, error) from error


def _is_text(key: bytes) -> bool:
    """Whether PostgreSQL has a text for a key."""
    return is_utf8(key) and b"\0" not in key


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    if batches:
        return batches[0]
    return pa.RecordBatch.from_pylist([], schema=table.schema)
