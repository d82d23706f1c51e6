"""The live source, seen as it was at one moment, without a copy of all of it.

One connection pins a view of the live file and carries rows from it into private files, within
SQLite: the versions of all rows (key, date of change, sizes of BLOBs), and the whole of those rows
that are asked for. The private files are read like any snapshot. The pinned view is a read
transaction: in WAL mode it blocks nobody, in another mode nobody can commit while it lasts.
"""

import itertools
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.core import private
from pipeline.core.quoting import quoted
from pipeline.mapping.table_mapping import TableMapping
from pipeline.mapping.types import affinity
from pipeline.move.reading.extract import Source
from pipeline.sqlite import opening, tracking
from pipeline.sqlite.snapshot import (
    BUSY_SECONDS,
    Snapshot,
    fingerprint_of,
    require_computable,
    require_table,
    unreadable,
    validate,
)
from pipeline.sqlite.tracking import Position

VERSIONS_AT_ONCE = 4
"""So many tables' versions can be read while those of a further one are written."""

_LIVE = "live"
_PRIVATE = ("journal_mode = OFF", "synchronous = OFF")
"""Settings of the private files, which are written once and read once."""


class LiveSource(Source):
    """Rows that were asked for, readable like a snapshot; parents are looked up in the live file.

    Attributes:
        snapshot: the private file of whole rows.
    """

    schema = _LIVE

    def __init__(
        self, changes: Snapshot, versions: Sequence[Source], connection: sqlite3.Connection
    ) -> None:
        """Use ``pinned``."""
        super().__init__(changes)
        self._connection = connection
        self._versions = itertools.cycle(enumerate(versions))

    @contextmanager
    def sqlite(self) -> Iterator[sqlite3.Connection]:
        """The pinned connection; unqualified names are those of the rows that were asked for."""
        before = self._connection.text_factory
        self._connection.text_factory = bytes
        try:
            yield self._connection
        except opening.UNREADABLE as error:
            raise unreadable(self.path, error, copy=self.snapshot.path) from error
        finally:
            self._connection.text_factory = before

    @contextmanager
    def writable(self, tables: Iterable[sa.Table]) -> Iterator[sqlite3.Connection]:  # noqa: ARG002
        """The pinned connection too: another one could not write while it holds its view."""
        with self.sqlite() as connection:
            yield connection

    def continues(self, after: Position) -> bool:
        """Whether the log still holds the entry that was read last."""
        with self.sqlite() as connection:
            return tracking.continues(connection, after, schema=_LIVE)

    def changed_keys(self, mapping: TableMapping, after: Position) -> list[Any]:
        """Keys of rows that were written or deleted since, as far as they are of a key's type."""
        return self._sound_keys(mapping, *tracking.changed_since(mapping.name, after, schema=_LIVE))

    def renumbers(self, mapping: TableMapping) -> bool:
        """Whether VACUUM may give rows of a table other row ids."""
        return self._has_rowid(mapping) and self.row_id_column(mapping) != quoted(mapping.key.name)

    def strayed(
        self, mapping: TableMapping, rows: Sequence[tuple[Any, str | None]], after: Position
    ) -> bool:
        """Whether row ids do not name their rows any more, although nobody wrote these.

        Args:
            mapping: the table.
            rows: row ids, and keys as text.
            after: the entry of the log that was read last.
        """
        if not rows:
            return False
        row_id, key = self.row_id_column(mapping), quoted(mapping.key.name)
        log, found = tracking.changed_since(mapping.name, after, schema=_LIVE)
        (strayed,) = self._row_ids(
            "SELECT count(*) FROM json_each(?) AS w WHERE NOT EXISTS"
            f" (SELECT 1 FROM {_LIVE}.{quoted(mapping.name)} AS r WHERE r.{row_id} = w.value ->> 0"
            f" AND CAST(r.{key} AS TEXT) IS w.value ->> 1)"
            f" AND NOT EXISTS ({log} AND CAST(key AS TEXT) IS w.value ->> 1)",
            (json.dumps(list(rows)), *found),
        )
        return bool(strayed)

    def take_versions(self, mapping: TableMapping) -> Source:
        """Copy key, date of change and sizes of every row.

        Returns:
            A file that is not written again before so many further tables have been asked for.
        """
        narrow = mapping.of_versions
        outputs = {quoted(column.name): quoted(column.name) for column in narrow.columns}
        for name in map(quoted, sorted(narrow.sized)):
            outputs[name] = f"CASE typeof({name}) WHEN 'blob' THEN length({name}) ELSE {name} END"
        at, versions = next(self._versions)
        with self.sqlite():
            self._make(mapping, _slot(at), list(narrow.casts), untyped=narrow.sized)
            self._fill(mapping, _slot(at), outputs, f"ORDER BY {quoted(mapping.key.name)}")
        return versions

    def take_rows(
        self,
        mapping: TableMapping,
        *,
        keys: Sequence[Any],
        row_ids: Collection[Any],
        after: Position | None = None,
    ) -> None:
        """Copy whole rows; those that the source does not have are left out.

        Args:
            mapping: the table.
            keys: keys of rows.
            row_ids: what names further ones.
            after: further ones are those that the log names after this entry.
        """
        names = [column.name for column in self.columns(mapping.name)]
        outputs = {quoted(name): quoted(name) for name in names}
        key, row_id = quoted(mapping.key.name), self.row_id_column(mapping)
        there = f"SELECT {row_id} FROM main.{quoted(mapping.name)}"
        each = "SELECT value FROM json_each(?)"
        wanted: list[tuple[str, tuple[Any, ...]]] = [
            (f"{key} IN ({each})", (json.dumps(list(keys)),)),
            (f"{row_id} IN ({each})", (json.dumps(list(row_ids)),)),
        ]
        if after is not None:
            # A key of any type, and none at all.
            log, found = tracking.changed_since(mapping.name, after, schema=_LIVE)
            wanted.append((f"{key} IN ({log})", found))
            wanted.append((f"{key} IS NULL AND EXISTS ({log} AND key IS NULL)", found))
        with self.sqlite():
            self._make(mapping, "main", names)
            for condition, parameters in wanted:
                rest = f"WHERE {condition} AND {row_id} NOT IN ({there})"
                self._fill(mapping, "main", outputs, rest, parameters)

    def taken_keys(self, mapping: TableMapping) -> list[Any]:
        """Keys of the rows that were asked for, as far as they are of a key's type."""
        key = quoted(mapping.key.name)
        return self._sound_keys(mapping, f"SELECT {key} AS key FROM main.{quoted(mapping.name)}")

    def all_keys(self, mapping: TableMapping) -> list[Any]:
        """Keys of all rows of the live source, as far as they are of a key's type."""
        table, key = f"{_LIVE}.{quoted(mapping.name)}", quoted(mapping.key.name)
        return self._sound_keys(mapping, f"SELECT {key} AS key FROM {table}")

    def taken_row_ids(self, mapping: TableMapping) -> list[Any]:
        """What names the rows that were asked for."""
        row_id = self.row_id_column(mapping)
        return self._row_ids(f"SELECT {row_id} FROM main.{quoted(mapping.name)}", ())

    def row_ids_where(
        self, mapping: TableMapping, condition: str, parameters: tuple[Any, ...]
    ) -> list[Any]:
        """What names those of all rows for which a condition holds."""
        return self._row_ids(
            f"SELECT {self.row_id_column(mapping)} FROM {_LIVE}.{quoted(mapping.name)}"
            f" WHERE {condition}",
            parameters,
        )

    def keys_with(self, mapping: TableMapping, row_ids: Sequence[Any]) -> list[Any]:
        """Keys of those of all rows, as far as they are of a key's type."""
        return self._sound_keys(
            mapping,
            f"SELECT {quoted(mapping.key.name)} AS key FROM {_LIVE}.{quoted(mapping.name)}"
            f" WHERE {self.row_id_column(mapping)} IN (SELECT value FROM json_each(?))",
            (json.dumps(list(row_ids)),),
        )

    def first_keys(self, mapping: TableMapping, limit: int) -> list[Any]:
        """The smallest keys of all rows, as far as they are of a key's type."""
        key = quoted(mapping.key.name)
        return self._sound_keys(
            mapping,
            f"SELECT DISTINCT {key} AS key FROM {_LIVE}.{quoted(mapping.name)}"
            f" WHERE typeof({key}) = '{mapping.casts[mapping.key.name].storage[0]}'"
            f" ORDER BY {key} LIMIT ?",
            (limit,),
        )

    def largest(self, mapping: TableMapping) -> int | None:
        """The largest key of all rows, None where none is a number."""
        key = quoted(mapping.key.name)
        (found,) = self._row_ids(
            f"SELECT max({key}) FROM {_LIVE}.{quoted(mapping.name)}"
            f" WHERE typeof({key}) = 'integer'",
            (),
        )
        return None if found is None else int(found)

    def count_without(
        self, mapping: TableMapping, *, keys: Sequence[Any], row_ids: Sequence[Any]
    ) -> int:
        """The rows of a table that neither these keys nor these row ids name."""
        key, row_id = quoted(mapping.key.name), self.row_id_column(mapping)
        (rows,) = self._row_ids(
            f"SELECT count(*) FROM {_LIVE}.{quoted(mapping.name)}"
            f" WHERE ({key} IN (SELECT value FROM json_each(?))) IS NOT TRUE"
            f" AND ({row_id} IN (SELECT value FROM json_each(?))) IS NOT TRUE",
            (json.dumps(list(keys)), json.dumps(list(row_ids))),
        )
        return int(rows)

    def lacking(self, mapping: TableMapping, keys: Sequence[Any]) -> list[Any]:
        """Those of some keys that the live source does not have."""
        table, key = f"{_LIVE}.{quoted(mapping.name)}", quoted(mapping.key.name)
        return self._row_ids(
            # A table may have a column "value" of its own.
            "SELECT w.value FROM json_each(?) AS w"
            f" WHERE NOT EXISTS (SELECT 1 FROM {table} AS r WHERE r.{key} = w.value)",
            (json.dumps(list(keys)),),
        )

    def _make(
        self,
        mapping: TableMapping,
        schema: str,
        names: Iterable[str],
        *,
        untyped: Collection[str] = (),
    ) -> None:
        """An empty private table, in which a row is named as in the live file."""
        row_id, key, table = self.row_id_column(mapping), mapping.key.name, quoted(mapping.name)
        declared = {column.name: column.declared for column in self.columns(mapping.name)}
        strict = self._is_strict(mapping)
        types = {
            name: "" if name in untyped else _type_word(declared[name], strict=strict)
            for name in names
        }
        options = ""
        if row_id == quoted(key):
            types[key] = "INTEGER PRIMARY KEY"
        elif not self._has_rowid(mapping):
            types[key] += " PRIMARY KEY"
            options = " WITHOUT ROWID"
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in types.items())
        # A table cannot be dropped while another statement of the connection reads.
        self._connection.execute(
            f"CREATE TABLE IF NOT EXISTS {schema}.{table} ({columns}){options}"
        )
        self._connection.execute(f"DELETE FROM {schema}.{table}")
        if "PRIMARY KEY" not in types[key]:
            index = f"{schema}.{quoted(f'pipeline key of {mapping.name}')}"
            self._connection.execute(
                f"CREATE INDEX IF NOT EXISTS {index} ON {table} ({quoted(key)})"
            )

    def _fill(
        self,
        mapping: TableMapping,
        schema: str,
        outputs: dict[str, str],
        rest: str,
        parameters: tuple[Any, ...] = (),
    ) -> None:
        """Carry rows into a private table; ``outputs`` are its columns and what they get."""
        row_id, table = self.row_id_column(mapping), quoted(mapping.name)
        if self._has_rowid(mapping):
            outputs = outputs | {row_id: row_id}
        self._connection.execute(
            f"INSERT INTO {schema}.{table} ({', '.join(outputs)})"
            f" SELECT {', '.join(outputs.values())} FROM {_LIVE}.{table} {rest}",
            parameters,
        )

    def _is_strict(self, mapping: TableMapping) -> bool:
        found = self._connection.execute(
            f"PRAGMA {_LIVE}.table_list({quoted(mapping.name)})"
        ).fetchall()
        return any(row[5] for row in found)

    def _has_rowid(self, mapping: TableMapping) -> bool:
        return not self._row_id_is_text(mapping)


@contextmanager
def pinned(
    source: Path, folder: Path, *, tables: Sequence[sa.Table], busy_seconds: float = BUSY_SECONDS
) -> Iterator[LiveSource]:
    """Hold a view of the live file.

    Args:
        source: the live SQLite file; it is opened read-only.
        folder: where the private files are made.
        tables: the tables that will be read.
        busy_seconds: how long a locked source is waited for.

    Raises:
        SourceError: the file is missing, empty, encrypted, no database, truncated, locked, or
            lacks one of the tables.
    """
    validate(source)
    fingerprint = fingerprint_of(source)
    private.folder(folder)
    changes = Snapshot(folder / "changes.db", source, 0, 0.0, fingerprint)
    versions = [
        Snapshot(folder / f"{_slot(at)}.db", source, 0, 0.0, fingerprint)
        for at in range(VERSIONS_AT_ONCE)
    ]
    for own in (changes, *versions):
        own.path.unlink(missing_ok=True)
        private.create(own.path)
    with closing(
        opening.connect(
            changes.path,
            "rwc",
            timeout=busy_seconds,
            isolation_level=None,
            # Threads take turns; none asks while another one does.
            check_same_thread=False,
        )
    ) as connection:
        try:
            # Files of one connection are all in one encoding.
            connection.execute(f"PRAGMA encoding = '{_encoding(source, busy_seconds)}'")
            for at, own in enumerate(versions):
                connection.execute(f"ATTACH ? AS {_slot(at)}", (own.path.absolute().as_uri(),))
            for schema in ("main", *map(_slot, range(VERSIONS_AT_ONCE))):
                for setting in _PRIVATE:
                    connection.execute(f"PRAGMA {schema}.{setting}")
            connection.execute(f"ATTACH ? AS {_LIVE}", (f"{source.absolute().as_uri()}?mode=ro",))
            # A statement that has not ended keeps its view of the file, across transactions that
            # write the private ones.
            pin = connection.execute(f"SELECT 1 FROM {_LIVE}.sqlite_master UNION ALL SELECT 2")
            pin.fetchone()
            for table in tables:
                require_table(connection, table, source, schema=_LIVE)
                require_computable(
                    connection, table, source, schema=_LIVE, busy_seconds=busy_seconds
                )
        except opening.UNREADABLE as error:
            raise unreadable(source, error, copy=changes.path) from error
        try:
            yield LiveSource(changes, [Source(each) for each in versions], connection)
        finally:
            pin.close()


def _encoding(source: Path, busy_seconds: float) -> str:
    with closing(opening.connect(source, "ro", timeout=busy_seconds)) as live:
        (found,) = live.execute("PRAGMA encoding").fetchone()
    return str(found)


def _slot(at: int) -> str:
    """The name by which the connection knows one of the files of versions."""
    return f"versions{at}"


def _type_word(declared: str, *, strict: bool) -> str:
    """The affinity of a declared type, as DDL; what the live table has stored stays as it is.

    ANY converts nothing in a STRICT table, and what looks like a number in all others.
    """
    return "" if strict and declared.upper() == "ANY" else affinity(declared)
