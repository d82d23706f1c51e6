"""Read SQLite into Arrow record batches, sized by bytes.

A survey reads every row once, in key order, without the contents of its BLOBs: it evaluates the
contract, finds duplicate keys and divides the table into ranges of keys whose rows fit into one
batch. A read returns one range as one batch without rejected rows, in the Arrow types that the
casts expect.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import adbc_driver_manager
import adbc_driver_sqlite
import adbc_driver_sqlite.dbapi as adbc_sqlite
import pyarrow as pa
import sqlalchemy as sa

from pipeline.core.findings import Overridden
from pipeline.core.policies import DEFAULT, Policies
from pipeline.core.quoting import quoted
from pipeline.mapping.contract import Contract
from pipeline.mapping.matching import SourceColumn, extra_columns, folded, match
from pipeline.mapping.row_key import RowKey
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading import census, surveys
from pipeline.move.reading.connections import Connections, FileConnections
from pipeline.move.reading.surveys import Range, Survey, SurveyCollector, is_text
from pipeline.sqlite.catalog import change_log, row_ids
from pipeline.sqlite.catalog.change_log import Position
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.snapshot import Snapshot
from pipeline.sqlite.tables import unique_columns

_VALUE_BYTES = 8
_ROW_BYTES = 4
"""The minimum size of a row in a file; a page loop of a damaged file returns rows without end."""
_HIDDEN = 1
"""The value of ``hidden`` in ``table_xinfo`` for columns without data; generated ones have data."""


class SourceView:
    """Read access to the rows of a source at one point in time.

    Attributes:
        snapshot: the private file with the rows that can be read.
        overrides: manual corrections of its values, by table.
        target_types: types of the target's existing columns, by table.
        schema: as in ``Connections``.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        connections: Connections | None = None,
        *,
        target_types: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Open nothing yet; without ``connections`` the snapshot holds all rows of the source."""
        self.snapshot = snapshot
        self._connections = FileConnections(snapshot) if connections is None else connections
        self.schema = self._connections.schema
        self._uri = f"{snapshot.path.absolute().as_uri()}?immutable=1"
        self._row_id_columns: dict[str, str] = {}
        self._positions: dict[str, Position | None] = dict(snapshot.positions)
        self.overrides: dict[str, list[Overridden]] = {}
        self.target_types = target_types or {}
        self._carried: dict[tuple[Any, ...], tuple[tuple[str, str], ...]] = {}

    @property
    def path(self) -> Path:
        """The file that the application writes."""
        return self.snapshot.source

    def sqlite(self) -> AbstractContextManager[sqlite3.Connection]:
        """A connection for few rows; TEXT is returned as bytes."""
        return self._connections.reading()

    def writable(self, tables: Iterable[sa.Table]) -> AbstractContextManager[sqlite3.Connection]:
        """A connection that changes the private copy, without triggers and CHECKs."""
        for table in tables:
            # The position in the change log is only known as long as the triggers exist.
            self.position(table)
        return self._connections.writing()

    def columns(self, table: str) -> tuple[SourceColumn, ...]:
        """The columns of a table as declared in the source."""
        with self.sqlite() as connection:
            connection.text_factory = str
            unique = unique_columns(connection, table, schema=self.schema)
            return tuple(
                SourceColumn(name, declared, default or "", name in unique)
                for _, name, declared, _, default, _, hidden in connection.execute(
                    f"PRAGMA {self.schema}.table_xinfo({quoted(table)})"
                )
                if hidden != _HIDDEN
            )

    def match(self, table: sa.Table, policies: Policies = DEFAULT) -> TableMapping:
        """Match a declared table with the source.

        Raises:
            SourceError: the source lacks a column, or has columns that the policy forbids.
            SettingsError: a policy is not suitable for the table.
        """
        columns = self.columns(table.name)
        extra = extra_columns(table, columns, policies)
        if not extra or policies.extra_columns != "carry":
            return match(table, columns, policies)
        key = (table.name, *extra, policies.naive_zone)
        types = self._carried.get(key) or self._carried_types(table.name, extra, policies)
        self._carried[key] = types
        return match(table, columns, policies, types=types)

    def _carried_types(
        self, table: str, columns: Sequence[SourceColumn], policies: Policies
    ) -> tuple[tuple[str, str], ...]:
        place, known = f"{self.schema}.{quoted(table)}", self.target_types.get(table, {})
        zone = policies.naive_zone
        with self.sqlite() as connection:
            return census.carried_types(connection, place, columns, known, naive_zone=zone)

    def collations(self, mapping: TableMapping) -> dict[str, str | None]:
        """The collations of the keys of parent tables in the source, None for BINARY."""
        declared = self.snapshot.collations
        return {
            parent.name: declared.get(parent.name, {}).get(folded(RowKey.of(parent).name))
            for _, parent in mapping.parents
        }

    def position(self, table: sa.Table) -> Position | None:
        """The end of the change log; None if the table is not tracked."""
        if table.name not in self._positions:
            with self.sqlite() as connection:
                found = change_log.position(connection, table, schema=self.schema)
            self._positions[table.name] = found
        return self._positions[table.name]

    def row_id_column(self, mapping: TableMapping) -> str:
        """SQL for the row id: the rowid, or the key of a table WITHOUT ROWID.

        It is the same in the live file and in the private files.
        """
        if mapping.name not in self._row_id_columns:
            with self.sqlite() as connection:
                found = row_ids.column(connection, mapping.table, schema=self.schema)
            self._row_id_columns[mapping.name] = found
        return self._row_id_columns[mapping.name]

    def count(self, mapping: TableMapping) -> int:
        """The number of all rows of a table of the source."""
        table = f"{self.schema}.{quoted(mapping.name)}"
        (rows,) = self._row_ids(f"SELECT count(*) FROM {table}", ())
        return int(rows)

    def last_assigned(self, table: str) -> int:
        """The largest id that AUTOINCREMENT ever assigned in a table of the source; 0 if none."""
        with self.sqlite() as connection:
            if not connection.execute(
                f"SELECT 1 FROM {self.schema}.sqlite_master WHERE name = 'sqlite_sequence'"
            ).fetchone():
                return 0
            (found,) = connection.execute(
                f"SELECT max(CAST(seq AS INTEGER)) FROM {self.schema}.sqlite_sequence"
                " WHERE name = ? COLLATE NOCASE",
                (table,),
            ).fetchone()
        return max(found or 0, 0)

    def survey(self, mapping: TableMapping, contract: Contract) -> Survey:
        """Read every row of a table once."""
        key = quoted(mapping.key.name)
        cast = mapping.casts[mapping.key.name]
        sizes = " + ".join(
            f"ifnull(octet_length({mapping.in_source(column.name)}), 0)"
            for column in mapping.columns
            if mapping.casts[column.name].raw in (pa.string(), pa.binary())
        )
        fixed = _VALUE_BYTES * len(mapping.columns)
        row_id = self.row_id_column(mapping)
        row_id_is_key = row_id == key
        # A key that is the row id is always an integer; other keys may have a wrong type.
        outputs = [f"{fixed} + {sizes or '0'}", key]
        first = ["0", cast.sentinel]
        broken = contract.violated(always=True)
        if not row_id_is_key:
            outputs[1:] = [cast.guarded_read(key), row_id]
            first.append("0" if self.has_rowid(mapping) else "''")
            broken = f"{broken} OR {key} IS NULL OR {cast.storage_rule(key, '').violated}"
        if broken != "0":
            outputs.append(broken)
            first.append("0")
        sql = (
            f"SELECT {', '.join(first)} UNION ALL SELECT * FROM (SELECT {', '.join(outputs)}"
            f" FROM {quoted(mapping.name)} ORDER BY {key} LIMIT -1)"
        )
        size = self.snapshot.path.stat().st_size
        collector = SurveyCollector(
            mapping.name, size // _ROW_BYTES, largest=mapping.policies.max_value_bytes
        )
        with self._reader(surveys.BATCH_ROWS) as cursor:
            cursor.execute(sql)
            start = 1
            for batch in cursor.fetch_record_batch():
                sizes_, keys, *more = batch.slice(start).columns
                bad = more.pop() if broken != "0" else None
                collector.add(keys, more[0] if more else keys, sizes_.to_numpy(), bad)
                start = 0
        return collector.survey()

    def cut(self, mapping: TableMapping) -> Survey:
        """Divide a table of small rows, whose row id is their key, into ranges by counting."""
        table, key = quoted(mapping.name), quoted(mapping.key.name)
        size = _VALUE_BYTES * len(mapping.columns)
        ranges: list[Range] = []
        with self.sqlite() as connection:
            while True:
                after = f"WHERE {key} > {ranges[-1].last}" if ranges else ""
                first, last, rows = connection.execute(
                    f"SELECT min(k), max(k), count(*) FROM (SELECT {key} AS k FROM {table} {after}"
                    f" ORDER BY {key} LIMIT {surveys.BATCH_ROWS})"
                ).fetchone()
                if not rows:
                    break
                ranges.append(Range(first, last, rows, rows * size))
        counted = sum(part.rows for part in ranges)
        return Survey(counted, counted * size, tuple(ranges), (), frozenset())

    def read(
        self, mapping: TableMapping, part: Range, *, without: Collection[Any] = ()
    ) -> pa.RecordBatch:
        """Read one range: SQLite's values in the ``raw`` types of the casts.

        Args:
            without: row ids of rows to leave out.

        Raises:
            pa.ArrowInvalid: a value has a storage class that its column does not accept.
        """
        casts = mapping.casts
        key, row_id = quoted(mapping.key.name), self.row_id_column(mapping)
        sentinels = [f"{casts[c.name].sentinel} AS {quoted(c.name)}" for c in mapping.columns]
        outputs = [casts[c.name].read(mapping.in_source(c.name)) for c in mapping.columns]
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

    def violating_row_ids(
        self, mapping: TableMapping, contract: Contract, part: Range, *, cast: bool = True
    ) -> list[Any]:
        """Row ids in a range that violate the contract; ``cast`` as in ``Contract.violated``."""
        key, row_id = quoted(mapping.key.name), self.row_id_column(mapping)
        sql = (
            f"SELECT {row_id} FROM {quoted(mapping.name)}"
            f" WHERE {key} BETWEEN ? AND ? AND {contract.violated(cast=cast)}"
        )
        return self._row_ids(sql, (part.first, part.last))

    def row_ids_by_key(self, mapping: TableMapping, keys: Sequence[Any]) -> list[Any]:
        """Row ids of the rows with these keys."""
        key, row_id = quoted(mapping.key.name), self.row_id_column(mapping)
        return self._row_ids(
            f"SELECT {row_id} FROM {quoted(mapping.name)}"
            f" WHERE {key} IN (SELECT value FROM json_each(?)) ORDER BY {row_id}",
            (json.dumps(list(keys)),),
        )

    def keys_by_row_id(self, mapping: TableMapping, row_ids: Sequence[Any]) -> list[Any]:
        """Keys of these rows; keys of a wrong type are left out."""
        key, row_id = quoted(mapping.key.name), self.row_id_column(mapping)
        return self._valid_keys(
            mapping,
            f"SELECT {key} AS key FROM {quoted(mapping.name)}"
            f" WHERE {row_id} IN (SELECT value FROM json_each(?))",
            (json.dumps(list(row_ids)),),
        )

    def _valid_keys(
        self, mapping: TableMapping, query: str, parameters: tuple[Any, ...] = ()
    ) -> list[Any]:
        """Each ``key`` of a query once; keys of a wrong type are left out."""
        storage = mapping.casts[mapping.key.name].storage[0]
        with self.sqlite() as connection:
            found = connection.execute(
                f"SELECT DISTINCT key FROM ({query}) WHERE typeof(key) = '{storage}'", parameters
            ).fetchall()
        keys = [key for (key,) in found]
        return [key.decode() for key in keys if is_text(key)] if storage == "text" else keys

    def row_id_from(self, mapping: TableMapping, text: str) -> Any:
        """A row id of the source from its text in the ledger.

        A row id of another form, from an earlier source, stays a text that matches no row.
        """
        number = text.removeprefix("-").isdecimal()
        return int(text) if number and self.has_rowid(mapping) else text

    def has_rowid(self, mapping: TableMapping) -> bool:
        """Whether a table has rowids; a table WITHOUT ROWID has row ids that are texts."""
        return not self.row_id_column(mapping).startswith("(")

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


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    if batches:
        return batches[0]
    return pa.RecordBatch.from_pylist([], schema=table.schema)
