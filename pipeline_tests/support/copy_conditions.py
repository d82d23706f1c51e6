"""CHECKs of a copy, by what they do: rows that SQLite refuses, the target has to refuse as well."""

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg2

from pipeline_tests.support.copy_shapes import Shape, shape_of

if TYPE_CHECKING:
    from pipeline_tests.support.copy_comparison import Both

_CANDIDATES: tuple[object, ...] = (0, 1, -1, 7, 1000000, 0.5, -0.5, "", "x", "zzz", "Ü", None)
_ROWS = 2


def compare(both: "Both", tables: list[str]) -> None:
    """Count CHECKs, and change rows on both sides."""
    with closing(sqlite3.connect(":memory:")) as trial:
        both.source.backup(trial)
        trial.execute("PRAGMA foreign_keys = OFF")
        triggers = trial.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            trial.execute(f"DROP TRIGGER {_quoted(name)}")
        trial.commit()
        trial.isolation_level = None
        for table in tables:
            shape = shape_of(both.source, table)
            if shape.checks:
                _count(both, shape)
                _change(both, trial, shape)


def _count(both: "Both", shape: Shape) -> None:
    ((there,),) = both.rows(
        "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conrelid = to_regclass(%s)",
        _quoted(shape.table),
    )
    named = sum(e.kind == "check" and e.table == shape.table for e in both.named)
    # The type of the column guarantees these.
    by_type = len(
        re.findall(r"json_valid\s*\(|typeof\s*\(|\bIN\s*\(\s*0\s*,\s*1\s*\)", shape.sql, re.I)
    )
    both.expect(
        shape.checks - by_type <= there + named <= shape.checks,
        f"{shape.table}: {there} CHECKs and {named} named, of {shape.checks}",
    )


def _change(both: "Both", trial: sqlite3.Connection, shape: Shape) -> None:
    """Write values into rows that are the same on both sides."""
    if both.names("check", shape.table) or not shape.key:
        return
    keys = [column for column in shape.columns if column.name in shape.key]
    where = " AND ".join(f"{_quoted(c.name)} = ?" for c in keys)
    rows = trial.execute(
        f"SELECT {', '.join(_quoted(c.name) for c in keys)} FROM {_quoted(shape.table)}"
        f" LIMIT {_ROWS}"
    ).fetchall()
    for key in rows:
        if None in key or bytes in map(type, key):
            continue
        for column in shape.columns:
            if column.generated or column.key:
                continue
            for value in _CANDIDATES:
                here = _here(trial, shape, column.name, value, where, key)
                there = _there(both, shape, column.name, value, where, key)
                what = f"{shape.table}.{column.name} = {value!r} where {key}: {there}"
                if here == "refused":
                    both.expect(there != "done", what)
                elif here == "done":
                    both.expect(there != "23514", what)


def _here(
    trial: sqlite3.Connection, shape: Shape, column: str, value: object, where: str, key: Any
) -> str:
    trial.execute("SAVEPOINT change")
    try:
        trial.execute(
            f"UPDATE {_quoted(shape.table)} SET {_quoted(column)} = ? WHERE {where}", (value, *key)
        )
    except sqlite3.IntegrityError as error:
        return "refused" if "CHECK" in str(error) else "other"
    except sqlite3.OperationalError:
        return "other"
    else:
        return "done"
    finally:
        trial.execute("ROLLBACK TO change")
        trial.execute("RELEASE change")


def _there(both: "Both", shape: Shape, column: str, value: object, where: str, key: Any) -> str:
    with both.target.cursor() as cursor:
        cursor.execute("SAVEPOINT change")
        try:
            cursor.execute(
                f"UPDATE {_quoted(shape.table)} SET {_quoted(column)} = %s"
                f" WHERE {where.replace('%', '%%').replace('?', '%s')}",
                (str(value) if isinstance(value, int | float) else value, *key),
            )
        except psycopg2.Error as error:
            return str(error.pgcode)
        else:
            return "done" if cursor.rowcount else "none"
        finally:
            cursor.execute("ROLLBACK TO SAVEPOINT change")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
