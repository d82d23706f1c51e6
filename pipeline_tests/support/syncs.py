"""What the tests of syncs need: two modes, one sync after the other, both sides compared."""

import json
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2

from pipeline.core.findings import CheckResult
from pipeline.core.policies import DEFAULT, Policies
from pipeline.migrations.content import metadata
from pipeline.move.engine import Engine
from pipeline.move.reading.pinned_source import pinned
from pipeline.move.run.scope import ChangesOnly
from pipeline.move.run.sync import reason_for_full_comparison
from pipeline.move.run.transaction import MoveResult
from pipeline.postgres import schema
from pipeline.postgres.target import Target
from pipeline_tests.support.first_moves import first_move
from pipeline_tests.support.moves import move_all, moving, sync_all
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.targets import query

TABLES = metadata.sorted_tables
NAMES = [table.name for table in TABLES]

FIRST = "2025-08-06 03:07:13.716509"
"""The date of change of every sound row."""

OLDER, LATER, LATEST = "2019-01-01 00:00:00", "2025-09-01 00:00:00", "2026-01-01 00:00:00"
FREE = Policies()


def begin(source: SourceFile, url: str, mode: str) -> dict[str, MoveResult]:
    """Make the first move, which is always whole."""
    return first_move(source, url, tracked=mode == "tracked")


def sync(source: SourceFile, url: str, **options: Any) -> dict[str, MoveResult]:
    return sync_all(source.path, url, **{"delete_share": 1.0, **options})


def did(moves: dict[str, MoveResult]) -> dict[str, tuple[int, int, int]]:
    """What was written, deleted and had gone along, of the tables where that is anything."""
    found = {
        name: (move.written_rows, move.deleted_rows, move.cascaded_rows)
        for name, move in moves.items()
    }
    return {name: counts for name, counts in found.items() if any(counts)}


def whole(path: Path, url: str, policies: Policies = DEFAULT) -> dict[str, MoveResult]:
    """Move everything, under policies."""
    return move_all(path, url, run_id="w", delete_share=1, policies=policies)


def reason_for_a_whole_move(path: Path, url: str, policies: Policies = DEFAULT) -> str | None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Target.connect(url, shown="the target") as target,
        pinned(path, Path(folder), tables=TABLES, busy_seconds=2) as live,
    ):
        schema.make_ledger(target)
        return reason_for_full_comparison(TABLES, live=live, target=target, policies=policies)


def syncing(source: SourceFile, url: str, share: float = 1.0) -> AbstractContextManager[Engine]:
    """A run that moves as many tables as a test wants, and is then broken off."""
    changes = ChangesOnly(or_everything=False)
    return moving(source.path, url, changes, run_id="broken off", delete_share=share)


def check(move: MoveResult, name: str) -> CheckResult:
    (found,) = (check for check in move.checks if check.name == name)
    return found


def conflicts(url: str) -> list[tuple[Any, ...]]:
    return query(
        url,
        "SELECT table_name, source_key, column_name, source_value, target_value"
        " FROM migration.conflicts ORDER BY 1, 2, 3",
    )


def versions(url: str, table: str) -> dict[int, tuple[str, str]]:
    return {k: (x, c) for k, x, c in query(url, f"SELECT id, xmin::text, ctid::text FROM {table}")}


def touched(before: dict[int, Any], after: dict[int, Any]) -> set[int]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    ledger = ("quarantine", "quarantine_values", "conversions", "conflicts", "cascaded")
    names = [*NAMES, *(f"migration.{name}" for name in (*ledger, "watermarks"))]
    return {name: query(url, f"SELECT t::text FROM {name} t ORDER BY 1") for name in names}


def age(*paths: Path, seconds: float = 3600.0) -> None:
    """Let files look as if they had been written some time ago."""
    for path in paths:
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))


def plain_source(column: str, value: Any) -> Any:
    """A sound value of the source as the target must have it."""
    if value is None:
        return None
    if column.endswith("_at"):
        date = datetime.fromisoformat(value)
        return date.replace(tzinfo=date.tzinfo or UTC)
    if column in ("tags", "content_metadata", "fragment_metadata", "asset_metadata"):
        return json.loads(value)
    if column == "rank_score":
        return Decimal(str(value)).quantize(Decimal("0.01"))
    return value


def assert_sides_agree(
    source: SourceFile, url: str, *, rowid: str = "rowid", except_keys: Sequence[int] = ()
) -> None:
    """Every source row is in the target, value by value, or in quarantine, and nothing else is."""
    with closing(sqlite3.connect(source.path)) as ours, closing(psycopg2.connect(url)) as theirs:
        ours.row_factory = sqlite3.Row
        ours.text_factory = lambda raw: raw.decode(errors="replace")
        for table in NAMES:
            cursor = theirs.cursor()
            cursor.execute(
                "SELECT row_id FROM migration.quarantine WHERE table_name = %s", (table,)
            )
            aside = {row_id for (row_id,) in cursor}
            rows = {
                str(row["row_id"]): dict(row)
                for row in ours.execute(f"SELECT {rowid} AS row_id, * FROM {table}")
            }
            assert aside <= rows.keys(), f"quarantine of {table} holds rows that are gone"
            expected = {
                row["id"]: {c: plain_source(c, v) for c, v in row.items() if c != "row_id"}
                for row_id, row in rows.items()
                if row_id not in aside
            }
            cursor.execute(f"SELECT * FROM {table}")
            names = [column.name for column in cursor.description or ()]
            found = {
                values[names.index("id")]: {
                    name: bytes(value) if isinstance(value, memoryview) else value
                    for name, value in zip(names, values, strict=True)
                }
                for values in cursor
            }
            for key in except_keys:
                expected.pop(key, None)
                found.pop(key, None)
            assert found == expected, table
            cursor.execute(
                "SELECT source_key FROM migration.conversions WHERE table_name = %s", (table,)
            )
            there = {str(key) for key in found}
            assert {key for (key,) in cursor} <= there, f"conversions of {table} are outdated"
    assert query(url, "SELECT count(*) FROM migration.cascaded") == [(0,)]


def plain_key_source(path: Path, key: str = "id INT") -> SourceFile:
    return SourceFile.make(path, CONTENT_DDL.replace("id INTEGER NOT NULL PRIMARY KEY", key))
