"""Copies of databases that a test makes, and a comparison that shares nothing with the product."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.copy import plan, run
from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.interface.results import CopyResult, TableResult
from pipeline.copy.source.prepare import prepared
from pipeline.postgres.target import Target
from pipeline.sqlite import origin
from pipeline_tests.support.targets import query

_runs = iter(range(10**9))


def database(path: Path, *statements: str) -> Path:
    """A SQLite file after these statements; it is created if need be."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return path


def copied(
    path: Path,
    url: str,
    *,
    home: Path | None = None,
    casts: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    schema: str = "public",
    delete_share: float = 1.0,
    verify: bool = False,
    lock_seconds: float = 30.0,
    on_table: Callable[[TableResult], None] = lambda _: None,
) -> CopyResult:
    """Copy a file as the command does, in this process."""
    options = CopyOptions(
        run_id=f"copy-{next(_runs)}",
        schema=schema,
        casts=casts or {},
        exclude=frozenset(exclude),
        delete_share=delete_share,
        verify=verify,
        lock_seconds=lock_seconds,
    )
    found = origin.parse(f"sqlite:///{path}", token=None, name="The source")
    with prepared(found, home=home or path.parent / "home") as source:
        return run.run(
            plan.plan(source, options),
            lambda: Target.connect(url, shown="the target", application_name="pipeline copy"),
            options,
            shown="the target",
            on_table=on_table,
        )


def table(result: CopyResult, label: str) -> TableResult:
    """What happened to one table."""
    return next(each for each in result.tables if each.table == label)


def outcomes(result: CopyResult) -> dict[str, str]:
    """What happened to all tables."""
    return {each.table: each.outcome for each in result.tables}


def left(result: CopyResult) -> list[str]:
    """What was not carried."""
    return [each.sentence for each in result.all_left]


def rows_of(path: Path, name: str) -> Counter[tuple[Any, ...]]:
    """The rows of a table of the source, as often as they are there."""
    with closing(sqlite3.connect(path)) as connection:
        return Counter(connection.execute(f"SELECT * FROM {_quoted(name)}"))


def stored(url: str, name: str, schema: str = "public") -> Counter[tuple[Any, ...]]:
    """The rows of a table of the target, as often as they are there."""
    found = query(url, f"SELECT * FROM {_quoted(schema)}.{_quoted(name)}")
    return Counter(
        tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in found
    )


def assert_same(path: Path, url: str, *names: str) -> None:
    """Both databases have the same rows in these tables."""
    for name in names:
        assert stored(url, name) == rows_of(path, name), name


def constraints(url: str, name: str) -> dict[str, str]:
    """The constraints and indexes of a table of the target, by name."""
    return dict(
        query(
            url,
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE conrelid = to_regclass(%s) AND contype <> 'n' UNION"
            " SELECT c.relname, pg_get_indexdef(i.indexrelid) FROM pg_index i"
            " JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass(%s)"
            " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)",
            (_quoted(name), _quoted(name)),
        )
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
