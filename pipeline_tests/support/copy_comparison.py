"""A copy beside its source, compared row by row and constraint by constraint.

Nothing here is the product's: ``sqlite3`` and ``psycopg2`` read both sides, and each side is
described by its own catalog. What differs has to be named by the copy as not carried.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, time
from pathlib import Path
from typing import Any, Protocol

import psycopg2

from pipeline_tests.support import copy_conditions
from pipeline_tests.support.copy_shapes import Shape, shape_of, tables_of
from pipeline_tests.support.copy_values import TEXTS, base_of, loose, ours, theirs


class Named(Protocol):
    """Something that was not carried."""

    @property
    def kind(self) -> str:
        """Such as ``check``."""

    @property
    def table(self) -> str:
        """Its table, if it has one."""

    @property
    def name(self) -> str:
        """Its name, or its text."""


@dataclass
class Both:
    """Both sides, and what was found.

    Attributes:
        named: what the copy says it did not carry: kind, table and name.
        problems: differences that the copy did not name.
    """

    source: sqlite3.Connection
    target: Any
    schema: str
    named: Sequence[Named]
    problems: list[str] = field(default_factory=list)

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the target."""
        with self.target.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall())

    def names(self, kind: str, table: str, part: str = "") -> bool:
        """Whether the copy named something of a table; ``part`` is in its name."""
        return any(
            each.kind == kind and each.table == table and part.lower() in each.name.lower()
            for each in self.named
        )

    def expect(self, good: bool, problem: str) -> None:
        """Note a problem unless something holds."""
        if not good:
            self.problems.append(problem)


def differences(
    source: Path,
    target: str,
    *,
    named: Sequence[Named],
    schema: str = "public",
    collations: Sequence[str] = (),
    functions: Mapping[str, Callable[..., Any]] | None = None,
) -> list[str]:
    """What a copy changed without saying so.

    Args:
        named: what the copy says it did not carry.
        collations: those of the application.
        functions: those of the application, by name, for views and CHECKs.
    """
    uri = f"{source.absolute().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(uri, uri=True)) as here,
        closing(psycopg2.connect(target)) as there,
    ):
        for name in collations:
            here.create_collation(name, lambda one, other: (one > other) - (one < other))
        for name, function in (functions or {}).items():
            here.create_function(name, -1, function)
        there.set_session(readonly=False)
        with there.cursor() as cursor:
            cursor.execute(f"SET search_path = {_quoted(schema)}; SET TIME ZONE 'UTC'")
        both = Both(here, there, schema, named)
        for table in tables_of(here):
            _table(both, shape_of(here, table))
        _views(both)
        copy_conditions.compare(both, tables_of(here))
        _others(both)
        there.rollback()
        return both.problems


def _table(both: Both, shape: Shape) -> None:
    table = shape.table
    columns = both.rows(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated,"
        " a.attidentity, pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute AS a"
        " LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
        " WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT attisdropped"
        " ORDER BY a.attnum",
        _quoted(table),
    )
    if [name for name, *_ in columns] != [_name_there(column.name) for column in shape.columns]:
        both.problems.append(f"{table}: columns {[name for name, *_ in columns]}")
        return
    _rows(both, shape, [kind for _, kind, *_ in columns])
    _columns(both, shape, columns)
    _keys(both, shape)
    _references(both, shape)
    _indexes(both, shape)


def _name_there(column: str) -> str:
    """PostgreSQL keeps this name for itself."""
    return f"{column}_" if column == "ctid" else column


def _rows(both: Both, shape: Shape, kinds: list[str]) -> None:
    names = ", ".join(_quoted(column.name) for column in shape.columns)
    here = both.source.execute(f"SELECT {names} FROM {_quoted(shape.table)} NOT INDEXED")
    plain = [TEXTS.get(base_of(kind), "") for kind in kinds]
    outputs = ", ".join(
        f"{_quoted(_name_there(c.name))}{p}" for c, p in zip(shape.columns, plain, strict=True)
    )
    with both.target.cursor() as cursor:
        cursor.execute(f"SELECT {outputs} FROM {_quoted(shape.table)}")
        there = Counter(
            tuple(theirs(value, kind) for value, kind in zip(row, kinds, strict=True))
            for row in cursor
        )
    counted = Counter(
        tuple(ours(value, kind) for value, kind in zip(row, kinds, strict=True)) for row in here
    )
    lost, new = counted - there, there - counted
    if lost or new:
        example = next(iter(lost), None), next(iter(new), None)
        both.problems.append(
            f"{shape.table}: {lost.total()} rows lost, {new.total()} new {example}"
        )


def _columns(both: Both, shape: Shape, columns: list[tuple[Any, ...]]) -> None:
    table = shape.table
    for here, (name, kind, required, generated, identity, default) in zip(
        shape.columns, columns, strict=True
    ):
        what = f"{table}.{name}"
        both.expect(
            bool(required) == here.required
            or both.names("not null" if not here.key else "primary key", table, name),
            f"{what}: NOT NULL is {required}",
        )
        if here.generated:
            both.expect(
                bool(generated) or both.names("generated column", table, name),
                f"{what}: is not generated",
            )
        elif here.default is None or here.default.upper() == "NULL":
            both.expect(default is None, f"{what}: has the default {default}")
        elif default is None:
            both.expect(both.names("default", table, name), f"{what}: lost {here.default}")
        else:
            _default(both, shape, here.name, kind, default)
        if here.is_row_id:
            named = both.names("identity", table, name)
            both.expect(identity == "d" or named, f"{what}: has no identity")
            _identity(both, shape, name)


def _default(both: Both, shape: Shape, name: str, kind: str, default: str) -> None:
    """The values that both sides fill in."""
    column = next(each for each in shape.columns if each.name == name)
    with closing(sqlite3.connect(":memory:")) as empty:
        empty.execute(
            f"CREATE TABLE d (x {_quoted_type(column.declared)}"
            f" DEFAULT {_in_parentheses(column.default)}, y)"
        )
        empty.execute("INSERT INTO d (y) VALUES (1)")
        (here,) = empty.execute("SELECT x FROM d").fetchone()
    (there,) = both.rows(f"SELECT ({default}){TEXTS.get(base_of(kind), '')}")[0]
    if re.search(r"now\(\)|current_|random", default, re.IGNORECASE):
        one, other = ours(here, kind), theirs(there, kind)
        if isinstance(one, datetime) and isinstance(other, datetime):
            both.expect(abs((one - other).total_seconds()) < 60, f"{shape.table}.{name}: {default}")
        elif not isinstance(one, time):
            both.expect(len(str(one)) == len(str(other)), f"{shape.table}.{name}: {default}")
        return
    both.expect(
        ours(here, kind) == theirs(there, kind),
        f"{shape.table}.{name}: default {there!r} instead of {here!r}",
    )


def _in_parentheses(default: str | None) -> str:
    """A default as a statement writes it; SQLite takes a name in quotation marks only without."""
    return f"{default}" if f"{default}".startswith('"') else f"({default})"


def _identity(both: Both, shape: Shape, name: str) -> None:
    """The next id is larger than every id that was ever given."""
    ((sequence,),) = both.rows("SELECT pg_get_serial_sequence(%s, %s)", _quoted(shape.table), name)
    if sequence is None:
        return
    ((following,),) = both.rows(
        f"SELECT last_value + CASE WHEN is_called THEN 1 ELSE 0 END FROM {sequence}"
    )
    both.expect(following > shape.last_id, f"{shape.table}.{name}: goes on with {following}")


def _keys(both: Both, shape: Shape) -> None:
    """Primary key and uniques."""
    there = both.rows(
        "SELECT contype::text, (SELECT array_agg(attname::text ORDER BY n) FROM"
        " unnest(conkey) WITH ORDINALITY AS k(num, n) JOIN pg_attribute ON attnum = num"
        " AND attrelid = conrelid) FROM pg_constraint WHERE contype IN ('p', 'u')"
        " AND conrelid = to_regclass(%s)",
        _quoted(shape.table),
    )
    keys = [tuple(columns) for kind, columns in there if kind == "p"]
    uniques = Counter(tuple(columns) for kind, columns in there if kind == "u")
    if shape.key and keys != [shape.key]:
        named = both.names("primary key", shape.table)
        both.expect(named, f"{shape.table}: primary key {keys} instead of {shape.key}")
        uniques[shape.key] -= 1
    both.expect(bool(shape.key) or not keys, f"{shape.table}: a primary key {keys}")
    lost = Counter(shape.uniques) - uniques
    for columns in lost:
        as_index = [i for i in _indexes_there(both, shape.table).values() if i.unique]
        found = any(len(columns) == i.columns and "lower(" in i.sql.lower() for i in as_index)
        named = both.names("unique", shape.table) or both.names("index", shape.table)
        both.expect(found or named, f"{shape.table}: UNIQUE {columns} is not there")


def _references(both: Both, shape: Shape) -> None:
    actions = {
        "a": "NO ACTION",
        "r": "RESTRICT",
        "c": "CASCADE",
        "n": "SET NULL",
        "d": "SET DEFAULT",
    }
    names = (
        "(SELECT array_agg(attname::text ORDER BY n) FROM unnest({0}) WITH ORDINALITY AS k(num, n)"
        " JOIN pg_attribute ON attnum = num AND attrelid = {1})"
    )
    found = both.rows(
        f"SELECT {names.format('conkey', 'conrelid')}, relname::text,"
        f" {names.format('confkey', 'confrelid')}, confdeltype::text, confupdtype::text,"
        " condeferred FROM pg_constraint JOIN pg_class AS c ON c.oid = confrelid"
        " WHERE contype = 'f' AND conrelid = to_regclass(%s)",
        _quoted(shape.table),
    )
    there = Counter(
        (tuple(columns), parent, tuple(parents), actions[delete], actions[update])
        for columns, parent, parents, delete, update, _ in found
    )
    here = Counter(shape.references)
    both.expect(not there - here, f"{shape.table}: new references {there - here}")
    lost = here - there
    named = sum(e.kind == "foreign key" and e.table == shape.table for e in both.named)
    both.expect(lost.total() <= named, f"{shape.table}: lost references {lost}")
    deferred = sum(bool(late) for *_, late in found)
    both.expect(
        shape.deferred - named <= deferred <= shape.deferred,
        f"{shape.table}: {deferred} references are deferred, not {shape.deferred}",
    )


@dataclass(frozen=True)
class _Index:
    unique: bool
    columns: int
    partial: bool
    sql: str


def _indexes_there(both: Both, table: str) -> dict[str, _Index]:
    found = both.rows(
        "SELECT c.relname::text, indisunique, indnkeyatts, indpred IS NOT NULL,"
        " pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid"
        " WHERE indrelid = to_regclass(%s)",
        _quoted(table),
    )
    return {name: _Index(*rest) for name, *rest in found}


def _indexes(both: Both, shape: Shape) -> None:
    there = _indexes_there(both, shape.table)
    for name, unique, columns, partial in shape.indexes:
        if both.names("index", shape.table, name):
            continue
        fits = len(name.encode()) <= 63
        found = [
            index
            for known, index in there.items()
            if known == name or (not fits and len(known) == 63 and name.startswith(known[:54]))
        ]
        wanted = (unique, columns, partial)
        same = any((each.unique, each.columns, each.partial) == wanted for each in found)
        both.expect(same, f"{shape.table}: index {name} is {found}")


def _views(both: Both) -> None:
    there = {
        name
        for (name,) in both.rows(
            "SELECT relname::text FROM pg_class WHERE relkind = 'v'"
            " AND relnamespace = %s::regnamespace",
            both.schema,
        )
    }
    for (name,) in both.source.execute("SELECT name FROM sqlite_master WHERE type = 'view'"):
        if name not in there:
            both.expect(both.names("view", "", name), f"view {name} is lost")
            continue
        with both.target.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {_quoted(name)}")
            found = Counter(tuple(map(loose, row)) for row in cursor)
        rows = both.source.execute(f"SELECT * FROM {_quoted(name)}")
        expected = Counter(tuple(map(loose, row)) for row in rows)
        both.expect(
            found == expected,
            f"view {name}: lost {list(expected - found)[:1]} new {list(found - expected)[:1]}",
        )


def _others(both: Both) -> None:
    """Triggers and virtual tables have to be named."""
    for name, table in both.source.execute(
        "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"
    ):
        exact = next(t for t in [*tables_of(both.source), table] if t.lower() == table.lower())
        both.expect(both.names("trigger", exact, name), f"trigger {name} is not named")
    for (name,) in both.source.execute(
        "SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE%'"
    ):
        both.expect(
            any(both.names("virtual table", table, name) for table in (name, "")),
            f"virtual table {name} is not named",
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted_type(declared: str) -> str:
    return declared if re.fullmatch(r"[\w ]*(\([\d ,]*\))?", declared) else _quoted(declared)
