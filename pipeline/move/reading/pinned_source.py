"""The live source at one point in time, without a full copy.

One connection pins a view of the live file and copies rows from it to private files, within SQLite:
the versions of all rows (key, date of change, sizes of BLOBs), and complete rows on request. The
private files are read like any snapshot. The pinned view is a read transaction: in WAL mode it
blocks no other connection; in other modes no other connection can commit in the meantime.

A file whose texts are in UTF-16, or whose keys are in an order that only the application knows, is
copied first, and the view is one of the copy.
"""

import itertools
import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.core import private
from pipeline.core.policies import Policies
from pipeline.core.quoting import exactly, quoted
from pipeline.mapping.casts import carried
from pipeline.mapping.matching import SourceColumn
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading import census, private_tables
from pipeline.move.reading.connections import PinnedConnection, attachable
from pipeline.move.reading.private_tables import LIVE
from pipeline.move.reading.source_view import SourceView
from pipeline.sqlite import opening
from pipeline.sqlite.catalog import change_log, collations
from pipeline.sqlite.catalog.change_log import Position
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.snapshot import (
    BUSY_SECONDS,
    Snapshot,
    validate,
)
from pipeline.sqlite.tables import require_computable, require_table

VERSIONS_AT_ONCE = 4
"""The versions of this many tables can be read while those of another one are written."""

_PRIVATE = ("journal_mode = OFF", "synchronous = OFF")
"""Settings for the private files, which are written once and read once."""


class PinnedSource(SourceView):
    """A view of the live file: requested rows read like a snapshot, all rows by queries.

    Attributes:
        snapshot: the private file with complete rows.
    """

    def __init__(
        self, changes: Snapshot, versions: Sequence[SourceView], connection: sqlite3.Connection
    ) -> None:
        """Use ``pinned``."""
        super().__init__(changes, PinnedConnection(changes, connection, LIVE))
        self._versions = itertools.cycle(enumerate(versions))

    def _carried_types(
        self, table: str, columns: Sequence[SourceColumn], policies: Policies
    ) -> tuple[tuple[str, str], ...]:
        """The types of the target, without reading every row; ``carries`` checks some rows."""
        known = self.target_types.get(table, {})
        types = [(c.name, carried.existing(c.declared, known.get(c.name, ""))) for c in columns]
        found = tuple((name, kind) for name, kind in types if kind is not None)
        if len(found) == len(columns):
            return found
        return super()._carried_types(table, columns, policies)

    def carries(self, mapping: TableMapping, after: Position | None, keys: Sequence[Any]) -> bool:
        """Whether the target's types of carried columns take the values of changed rows.

        Args:
            after: the change log names the rows after this entry.
            keys: keys of further rows.
        """
        wrong = census.misfits(mapping)
        if wrong is None:
            return True
        key, each = quoted(mapping.key.name), "SELECT value FROM json_each(?)"
        rows, parameters = f"{key} IN ({each})", [json.dumps(list(keys))]
        if after is not None:
            log, found = change_log.changed_since(mapping.name, after, schema=LIVE)
            rows, parameters = f"{rows} OR {key} IN ({log})", [*parameters, *found]
        table = f"{LIVE}.{quoted(mapping.name)}"
        sql = f"SELECT 1 FROM {table} WHERE ({rows}) AND {wrong} LIMIT 1"
        return not self._row_ids(sql, tuple(parameters))

    def continues(self, after: Position) -> bool:
        """Whether the change log still has the entry that was last read."""
        with self.sqlite() as connection:
            return change_log.continues(connection, after, schema=LIVE)

    def changed_keys(self, mapping: TableMapping, after: Position) -> list[Any]:
        """Keys of rows written or deleted since; keys of a wrong type are left out."""
        return self._valid_keys(
            mapping, *change_log.changed_since(mapping.name, after, schema=LIVE)
        )

    def renumbers(self, mapping: TableMapping) -> bool:
        """Whether VACUUM may change the row ids of a table."""
        return self.has_rowid(mapping) and self.row_id_column(mapping) != quoted(mapping.key.name)

    def row_ids_changed(
        self, mapping: TableMapping, rows: Sequence[tuple[Any, str | None]], after: Position
    ) -> bool:
        """Whether row ids have changed although their rows were not written.

        Args:
            rows: row ids, and keys as text.
            after: the last entry of the change log that was read.
        """
        if not rows:
            return False
        row_id, key = self.row_id_column(mapping), quoted(mapping.key.name)
        same = "COLLATE BINARY IS w.value ->> 1"
        log, found = change_log.changed_since(mapping.name, after, schema=LIVE)
        (row_ids_changed,) = self._row_ids(
            "SELECT count(*) FROM json_each(?) AS w WHERE NOT EXISTS"
            f" (SELECT 1 FROM {LIVE}.{quoted(mapping.name)} AS r WHERE r.{row_id} = w.value ->> 0"
            f" AND CAST(r.{key} AS TEXT) {same})"
            f" AND NOT EXISTS ({log} AND CAST(key AS TEXT) {same})",
            (json.dumps(list(rows)), *found),
        )
        return bool(row_ids_changed)

    def take_versions(self, mapping: TableMapping) -> SourceView:
        """Copy of every row the columns that tell whether it has changed.

        Returns:
            A file that is reused after ``VERSIONS_AT_ONCE`` further calls.
        """
        narrow = mapping.version_mapping
        named = {column.name: mapping.in_source(column.name) for column in narrow.columns}
        outputs = {name: name for name in named.values()}
        for name in (named[each] for each in sorted(narrow.sized)):
            outputs[name] = f"CASE typeof({name}) WHEN 'blob' THEN length({name}) ELSE {name} END"
        sized = {mapping.source_name(name) for name in narrow.sized}
        names = [mapping.source_name(name) for name in narrow.casts]
        number, versions = next(self._versions)
        with self.sqlite() as connection:
            private_tables.create(self, connection, mapping, _slot(number), names, untyped=sized)
            order = f"ORDER BY {exactly(mapping.key.name)}"
            private_tables.copy_rows(self, connection, mapping, _slot(number), outputs, order)
        return versions

    def take_rows(
        self,
        mapping: TableMapping,
        *,
        keys: Sequence[Any],
        row_ids: Collection[Any],
        after: Position | None = None,
    ) -> None:
        """Copy complete rows; rows that the source does not have are skipped.

        Args:
            row_ids: row ids of further rows.
            after: also copy the rows that the change log names after this entry.
        """
        names = [column.name for column in self.columns(mapping.name)]
        outputs = {quoted(name): quoted(name) for name in names}
        key, row_id = exactly(mapping.key.name), self.row_id_column(mapping)
        copied = f"SELECT {row_id} FROM main.{quoted(mapping.name)}"
        each = "SELECT value FROM json_each(?)"
        wanted: list[tuple[str, tuple[Any, ...]]] = [
            (f"{key} IN ({each})", (json.dumps(list(keys)),)),
            (f"{row_id} IN ({each})", (json.dumps(list(row_ids)),)),
        ]
        if after is not None:
            # Keys of any type, and missing keys.
            log, found = change_log.changed_since(mapping.name, after, schema=LIVE)
            wanted.append((f"{key} IN ({log})", found))
            wanted.append((f"{key} IS NULL AND EXISTS ({log} AND key IS NULL)", found))
        with self.sqlite() as connection:
            private_tables.create(self, connection, mapping, "main", names)
            for condition, parameters in wanted:
                rest = f"WHERE {condition} AND {row_id} NOT IN ({copied})"
                private_tables.copy_rows(
                    self, connection, mapping, "main", outputs, rest, parameters
                )

    def taken_keys(self, mapping: TableMapping) -> list[Any]:
        """Keys of the requested rows; keys of a wrong type are left out."""
        key = quoted(mapping.key.name)
        return self._valid_keys(mapping, f"SELECT {key} AS key FROM main.{quoted(mapping.name)}")

    def all_keys(self, mapping: TableMapping) -> list[Any]:
        """Keys of all rows of the live source; keys of a wrong type are left out."""
        table, key = f"{LIVE}.{quoted(mapping.name)}", exactly(mapping.key.name)
        return self._valid_keys(mapping, f"SELECT {key} AS key FROM {table}")

    def taken_row_ids(self, mapping: TableMapping) -> list[Any]:
        """Row ids of the requested rows."""
        row_id = self.row_id_column(mapping)
        return self._row_ids(f"SELECT {row_id} FROM main.{quoted(mapping.name)}", ())

    def row_ids_where(
        self, mapping: TableMapping, condition: str, parameters: tuple[Any, ...]
    ) -> list[Any]:
        """Row ids of all rows of the live source that meet a condition."""
        return self._row_ids(
            f"SELECT {self.row_id_column(mapping)} FROM {LIVE}.{quoted(mapping.name)}"
            f" WHERE {condition}",
            parameters,
        )

    def live_keys_by_row_id(self, mapping: TableMapping, row_ids: Sequence[Any]) -> list[Any]:
        """Keys of rows of the live source; keys of a wrong type are left out."""
        return self._valid_keys(
            mapping,
            f"SELECT {exactly(mapping.key.name)} AS key FROM {LIVE}.{quoted(mapping.name)}"
            f" WHERE {self.row_id_column(mapping)} IN (SELECT value FROM json_each(?))",
            (json.dumps(list(row_ids)),),
        )

    def first_keys(self, mapping: TableMapping, limit: int) -> list[Any]:
        """The smallest keys of the live source; keys of a wrong type are left out."""
        key = exactly(mapping.key.name)
        return self._valid_keys(
            mapping,
            f"SELECT DISTINCT {key} AS key FROM {LIVE}.{quoted(mapping.name)}"
            f" WHERE typeof({key}) = '{mapping.casts[mapping.key.name].storage[0]}'"
            f" ORDER BY {key} LIMIT ?",
            (limit,),
        )

    def largest(self, mapping: TableMapping) -> int | None:
        """The largest integer key of the live source, if any."""
        key = quoted(mapping.key.name)
        (found,) = self._row_ids(
            f"SELECT max({key}) FROM {LIVE}.{quoted(mapping.name)} WHERE typeof({key}) = 'integer'",
            (),
        )
        return None if found is None else int(found)

    def count_without(
        self, mapping: TableMapping, *, keys: Sequence[Any], row_ids: Sequence[Any]
    ) -> int:
        """The number of rows with neither one of these keys nor one of these row ids."""
        key, row_id = exactly(mapping.key.name), self.row_id_column(mapping)
        (rows,) = self._row_ids(
            f"SELECT count(*) FROM {LIVE}.{quoted(mapping.name)}"
            f" WHERE ({key} IN (SELECT value FROM json_each(?))) IS NOT TRUE"
            f" AND ({row_id} IN (SELECT value FROM json_each(?))) IS NOT TRUE",
            (json.dumps(list(keys)), json.dumps(list(row_ids))),
        )
        return int(rows)

    def missing_keys(self, mapping: TableMapping, keys: Sequence[Any]) -> list[Any]:
        """The given keys that the live source does not have."""
        table, key = f"{LIVE}.{quoted(mapping.name)}", f"r.{quoted(mapping.key.name)}"
        return self._row_ids(
            # The table may have a column called "value".
            "SELECT w.value FROM json_each(?) AS w"
            # The first condition finds rows by the index, the second compares exactly.
            f" WHERE NOT EXISTS (SELECT 1 FROM {table} AS r"
            f" WHERE {key} = w.value AND {key} = w.value COLLATE BINARY)",
            (json.dumps(list(keys)),),
        )


@contextmanager
def pinned(
    source: Path, folder: Path, *, tables: Sequence[sa.Table], busy_seconds: float = BUSY_SECONDS
) -> Iterator[PinnedSource]:
    """Pin a view of the live file.

    Args:
        source: the live SQLite file; it is opened read-only.
        busy_seconds: how long to wait for a locked source.

    Raises:
        SourceError: the file is missing, empty, encrypted, not a database, truncated or locked, or
            it lacks one of the tables.
    """
    validate(source)
    private.folder(folder)
    taken = attachable(source, folder, tables, busy_seconds)
    changes = replace(taken, path=folder / "changes.db")
    versions = [
        replace(taken, path=folder / f"{_slot(number)}.db") for number in range(VERSIONS_AT_ONCE)
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
            # Threads use the connection one at a time.
            check_same_thread=False,
        )
    ) as connection:
        try:
            for number, own in enumerate(versions):
                connection.execute(f"ATTACH ? AS {_slot(number)}", (own.path.absolute().as_uri(),))
            for schema in ("main", *map(_slot, range(VERSIONS_AT_ONCE))):
                for setting in _PRIVATE:
                    connection.execute(f"PRAGMA {schema}.{setting}")
            live = f"{taken.path.absolute().as_uri()}?mode=ro"
            connection.execute(f"ATTACH ? AS {LIVE}", (live,))
            # An unfinished statement keeps its view of the live file, even across transactions that
            # write to the private files.
            pin = connection.execute(f"SELECT 1 FROM {LIVE}.sqlite_master UNION ALL SELECT 2")
            pin.fetchone()
            collations.stand_in(connection, schema=LIVE)
            for table in tables:
                require_table(connection, table, source, schema=LIVE)
                require_computable(
                    connection,
                    table,
                    source,
                    schema=LIVE,
                    path=taken.path,
                    busy_seconds=busy_seconds,
                )
        except opening.UNREADABLE as error:
            raise unreadable(source, error, copy=changes.path) from error
        try:
            yield PinnedSource(changes, [SourceView(each) for each in versions], connection)
        finally:
            pin.close()


def _slot(number: int) -> str:
    """The schema name of a file with versions."""
    return f"versions{number}"
