"""What the tests of subsets need: a move of one, and who belongs to it, told by other means."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from pipeline.core.progress import OnProgress
from pipeline.move.run.scope import Subset
from pipeline.move.run.transaction import MoveResult
from pipeline_tests.support.moves import move_in
from pipeline_tests.support.sources import PARENTS, SourceFile
from pipeline_tests.support.syncs import NAMES, TABLES, plain_source
from pipeline_tests.support.targets import query


def move_subset(
    source: SourceFile,
    url: str,
    *keys: int,
    limit: int | None = None,
    delete_share: float = 1.0,
    tables: Sequence[sa.Table] = TABLES,
    on_progress: OnProgress = lambda _: None,
) -> dict[str, MoveResult]:
    """Move a subset as one run does, without Dagster; by table name."""
    subset = Subset.of(keys, limit)
    assert subset is not None
    share, told = delete_share, on_progress
    return move_in(
        subset,
        source.path,
        url,
        tables=tables,
        on_progress=told,
        delete_share=share,
        run_id="subset",
    )


def counts(moves: dict[str, MoveResult]) -> dict[str, tuple[int, int, int, int]]:
    """Rows of the source = moved + quarantined + excluded."""
    found = {}
    for name, move in moves.items():
        found[name] = (
            move.source_rows,
            move.moved_rows,
            move.quarantined_rows,
            move.excluded_rows,
        )
        assert move.source_rows == sum(found[name][1:])
        assert all(check.passed for check in move.checks if check.blocking)
    return found


def rows_of(source: SourceFile, table: str) -> dict[int, dict[str, Any]]:
    with closing(sqlite3.connect(source.path)) as connection:
        connection.row_factory = sqlite3.Row
        return {row["id"]: dict(row) for row in connection.execute(f"SELECT * FROM {table}")}


def belonging(source: SourceFile, *keys: int) -> dict[str, set[int]]:
    """Ids of the source's rows that belong to some contents, row by row."""
    found = {"learning_content": set(keys)}
    for table in NAMES[1:]:
        found[table] = set()
        for key, row in rows_of(source, table).items():
            given = [(row[c], parent) for c, parent in PARENTS[table].items() if row[c] is not None]
            if given and all(value in found[parent] for value, parent in given):
                found[table].add(key)
    return found


def ids(url: str) -> dict[str, set[int]]:
    """Ids of each table of the target."""
    return {name: {key for (key,) in query(url, f"SELECT id FROM {name}")} for name in NAMES}


def assert_as_in_source(source: SourceFile, url: str, expected: dict[str, set[int]]) -> None:
    """The target holds these rows, value by value as the source has them, and no others."""
    assert ids(url) == expected
    for table in NAMES:
        ours = rows_of(source, table)
        names = list(next(iter(ours.values()), {}))
        for values in query(url, f"SELECT {', '.join(names) or 'id'} FROM {table}"):
            row = dict(zip(names, values, strict=True))
            plain = {n: bytes(v) if isinstance(v, memoryview) else v for n, v in row.items()}
            assert plain == {n: plain_source(n, v) for n, v in ours[row["id"]].items()}, table
