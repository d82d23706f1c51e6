"""What SQLite says of a table, by its PRAGMAs and nothing of the product."""

import re
import sqlite3
from dataclasses import dataclass

_SHADOW = re.compile(
    r"_(?:data|idx|content|docsize|config|segments|segdir|stat|node|parent|rowid)$"
)


@dataclass(frozen=True)
class ShapeColumn:
    """A column; a key is required where SQLite or the rows say so."""

    name: str
    declared: str
    required: bool
    default: str | None
    key: bool
    generated: bool
    is_row_id: bool


@dataclass(frozen=True)
class Shape:
    """A table.

    Attributes:
        uniques: constraints, without the primary key.
        references: columns, parent, its columns, ON DELETE, ON UPDATE.
        deferred: how many of them wait for the end of a transaction.
        indexes: name, unique, number of columns, partial.
        checks: how many.
        last_id: the largest id that was ever given.
    """

    table: str
    columns: tuple[ShapeColumn, ...]
    key: tuple[str, ...]
    uniques: tuple[tuple[str, ...], ...]
    references: tuple[tuple[object, ...], ...]
    deferred: int
    indexes: tuple[tuple[str, bool, int, bool], ...]
    checks: int
    last_id: int
    sql: str


def tables_of(source: sqlite3.Connection) -> list[str]:
    """All tables that are no virtual ones and do not belong to one."""
    rows = source.execute("PRAGMA main.table_list").fetchall()
    virtual = [name for _, name, kind, *_ in rows if kind == "virtual"]
    return [
        name
        for _, name, kind, *_ in rows
        if kind == "table"
        and not name.lower().startswith("sqlite_")
        and not any(name.startswith(f"{owner}_") and _SHADOW.search(name) for owner in virtual)
    ]


def shape_of(source: sqlite3.Connection, table: str) -> Shape:
    """A table."""
    name = '"' + table.replace('"', '""') + '"'
    (sql,) = source.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
    ).fetchone()
    info = [row for row in source.execute(f"PRAGMA table_xinfo({name})") if row[6] != 1]
    listed = source.execute(f"PRAGMA index_list({name})").fetchall()
    key = tuple(column for _, column in sorted((row[5], row[1]) for row in info if row[5]))
    has_index = any(origin == "pk" for _, _, _, origin, _ in listed)
    (without_rowid,) = source.execute(
        "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?", (table,)
    ).fetchone()
    row_id = key[0] if len(key) == 1 and not has_index and not without_rowid else None
    nulls = _has_nulls(source, name, key)
    columns = tuple(
        ShapeColumn(
            column,
            declared,
            bool(required) or (bool(place) and not nulls),
            default,
            bool(place),
            hidden in (2, 3),
            column == row_id,
        )
        for _, column, declared, required, default, place, hidden in info
    )
    uniques, indexes = [], []
    for _, index, unique, origin, partial in listed:
        quoted = '"' + index.replace('"', '""') + '"'
        parts = [row for row in source.execute(f"PRAGMA index_xinfo({quoted})") if row[5]]
        if origin == "u":
            uniques.append(tuple(row[2] for row in parts))
        elif origin == "c":
            indexes.append((index, bool(unique), len(parts), bool(partial)))
    return Shape(
        table, columns, key, tuple(uniques), tuple(_references(source, name)),
        " ".join(bare(sql).upper().split()).count("INITIALLY DEFERRED"), tuple(indexes),
        checks(sql), _last_id(source, table, row_id), sql,
    )  # fmt: skip


def _has_nulls(source: sqlite3.Connection, table: str, key: tuple[str, ...]) -> bool:
    condition = " OR ".join('"' + name.replace('"', '""') + '" IS NULL' for name in key)
    if not key:
        return False
    return (
        source.execute(f"SELECT 1 FROM {table} NOT INDEXED WHERE {condition}").fetchone()
        is not None
    )


def _references(source: sqlite3.Connection, table: str) -> list[tuple[object, ...]]:
    found: dict[int, list[tuple[object, ...]]] = {}
    for number, at, parent, column, theirs, update, delete, _ in source.execute(
        f"PRAGMA foreign_key_list({table})"
    ):
        found.setdefault(number, []).append((at, column, theirs, parent, delete, update))
    references = []
    for parts in found.values():
        parts.sort()
        parent = _exact(source, str(parts[0][3]))
        theirs = tuple(part[2] for part in parts)
        if None in theirs:
            keyed = source.execute(
                f"SELECT name FROM pragma_table_info('{parent}') WHERE pk ORDER BY pk"
            )
            theirs = tuple(name for (name,) in keyed)
        else:
            known = {
                name.lower(): name
                for (name,) in source.execute(f"SELECT name FROM pragma_table_info('{parent}')")
            }
            theirs = tuple(known.get(str(name).lower(), name) for name in theirs)
        references.append(
            (tuple(part[1] for part in parts), parent, theirs, parts[0][4], parts[0][5])
        )
    return references


def _exact(source: sqlite3.Connection, table: str) -> str:
    found = source.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND lower(name) = lower(?)", (table,)
    ).fetchone()
    return str(found[0]) if found else table


def _last_id(source: sqlite3.Connection, table: str, row_id: str | None) -> int:
    if row_id is None:
        return 0
    quoted = '"' + table.replace('"', '""') + '"'
    column = '"' + row_id.replace('"', '""') + '"'
    (last,) = source.execute(f"SELECT coalesce(max({column}), 0) FROM {quoted}").fetchone()
    counters = source.execute(
        "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"
    ).fetchone()
    if counters:
        found = source.execute(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?", (table,)
        ).fetchone()
        return max(last, int(found[0]))
    return int(last)


def bare(sql: str) -> str:
    """A statement without comments, and with empty strings."""
    pieces = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/"

    def short(found: re.Match[str]) -> str:
        text = found[0]
        return "''" if text[0] == "'" else " " if text[:2] in ("--", "/*") else text

    return re.sub(pieces, short, sql, flags=re.DOTALL)


def checks(sql: str) -> int:
    """The number of CHECKs in a statement."""
    return len(
        re.findall(r"\bCHECK\s*\(", re.sub(r'"[^"]*"|`[^`]*`', "x", bare(sql)), re.IGNORECASE)
    )
