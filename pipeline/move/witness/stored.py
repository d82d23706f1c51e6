"""Digests of stored values, computed by PostgreSQL: one expression per type, one digest per column.

The digest of a column over a part of a table is the MD5 of the lengths of its values (four bytes
each, -1 for NULL), followed by the MD5 of their bytes, in the order of the keys. So ``"12", "3"``
and ``"1", "23"`` differ, and a client can compute the same digest from whole columns. Functions are
called with their schema, because a function in ``public`` may match the type of a column better.
"""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.core.quoting import literal, quoted
from pipeline.declared.kinds import is_single, is_wide
from pipeline.move.witness.parts import Key, KeyRange, Part
from pipeline.move.witness.table import Table

Ask = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]
"""Executes a query in the session to be proven; all results are ASCII."""

MOST_SHOWN_BYTES = 2_000


def expression(kind: sa.types.TypeEngine[Any], column: str) -> str:
    """SQL for the hashed bytes of a value, as in ``values.encoder``.

    Args:
        column: a column, quoted.
    """
    match kind:
        case JSONB() | sa.String() | sa.Uuid():
            return _utf8(column)
        case sa.Boolean():
            return f"pg_catalog.boolsend({column})"
        case sa.Integer():
            return f"pg_catalog.int8send({column}::bigint)"
        case sa.Float() if is_single(kind):
            return f"pg_catalog.float4send({column} + 0::float4)"
        case sa.Float():
            return f"pg_catalog.float8send({column} + 0::float8)"
        case sa.Numeric() if is_wide(kind):
            return _utf8(column)
        case sa.Numeric():
            return _utf8(f"pg_catalog.round({column} * 1{'0' * (kind.scale or 0)}::numeric)")
        case sa.DateTime():
            return f"pg_catalog.timestamp{'tz' if kind.timezone else ''}_send({column})"
        case sa.Date():
            return f"pg_catalog.date_send({column})"
        case sa.Time():
            return f"pg_catalog.time_send({column})"
        case sa.LargeBinary():
            return f"pg_catalog.decode(pg_catalog.md5({column}), 'hex')"
    raise TypeError(f"{kind!r} has no form for digests")


def digests(ask: Ask, table: Table, parts: Sequence[Part]) -> list[tuple[int, list[str]]]:
    """The number of rows in the target and the digest of every column, by part."""
    outputs = "".join(f", {digest(f'c{n}')}" for n in range(len(table.columns)))
    queries, lists = [], list[object]()
    for at, part in enumerate(parts):
        rows = _rows(table, part, lists)
        queries.append(f"SELECT {at} AS part, count(*){outputs} FROM ({rows}) AS r")
    found = ask(f"{' UNION ALL '.join(queries)} ORDER BY part", lists)
    return [(int(count), list(columns)) for _, count, *columns in found]


RowDigests = list[tuple[Key | None, list[str | None]]]
"""Keys, and the MD5 of every value; without a primary key, keys may be NULL or repeat."""


def row_digests(ask: Ask, table: Table, part: Part) -> RowDigests:
    """The rows of a part."""
    lists: list[object] = []
    outputs = ", ".join(f"pg_catalog.md5(c{n})" for n in range(len(table.columns)))
    sql = f"SELECT k, {outputs} FROM ({_rows(table, part, lists)}) AS r"
    if table.text_key:
        # Text must not pass through the driver.
        sql = sql.replace("SELECT k,", f"SELECT {_hex(_utf8('k'))},", 1)
        return [(k and bytes.fromhex(k).decode(), list(md5s)) for k, *md5s in ask(sql, lists)]
    return [(k, list(md5s)) for k, *md5s in ask(sql, lists)]


def value(ask: Ask, table: Table, key: Key, at: int) -> bytes | None:
    """The bytes of one value, at most ``MOST_SHOWN_BYTES``; None for NULL."""
    lists: list[object] = []
    rows = _rows(table, KeyRange(None, None), lists, one=key)
    ((found,),) = ask(
        f"SELECT {_hex(f'pg_catalog.substr(c{at}, 1, {MOST_SHOWN_BYTES})')} FROM ({rows}) AS r"
        " LIMIT 1",
        lists,
    )
    return None if found is None else bytes.fromhex(found)


def same_json(ask: Ask, table: Table, key: Key, at: int, text: bytes) -> bool:
    """Whether a jsonb value equals a JSON text in meaning; 1.0 equals 1.00."""
    column, _ = table.columns[at]
    given = _jsonb(text)
    found = ask(
        f"SELECT {quoted(column)} = {given} FROM ONLY public.{quoted(table.name)}"
        f" WHERE {quoted(table.key)} = {_literal(key)}",
        (),
    )
    return bool(found and found[0][0])


def as_jsonb(ask: Ask, text: bytes) -> bytes:
    """The text form of jsonb for a JSON text that is nested too deeply for Python."""
    ((found,),) = ask(f"SELECT {_hex(_utf8(_jsonb(text)))}", ())
    return bytes.fromhex(found)


def digest(column: str) -> str:
    """SQL for the digest of a column of rows in the order of their column ``k``."""
    lengths = f"pg_catalog.int4send(coalesce(pg_catalog.octet_length({column}), -1))"
    return " || ".join(
        f"pg_catalog.md5(coalesce(pg_catalog.string_agg({what}, ''::bytea ORDER BY k), ''::bytea))"
        for what in (lengths, column)
    )


def _rows(table: Table, part: Part, lists: list[object], *, one: Key | None = None) -> str:
    """A query for the keys and bytes of a part; its parameters are added to ``lists``."""
    key = _key(table)
    columns = "".join(
        f", {expression(kind, quoted(name))} AS c{n}"
        for n, (name, kind) in enumerate(table.columns)
    )
    # Equality does not depend on the collation, so it uses the index.
    plain = quoted(table.key)
    conditions = [f"{plain} = {_literal(one)}"] if one is not None else []
    if isinstance(part, KeyRange):
        if part.after is not None:
            conditions.append(f"{key} > {_literal(part.after)}")
        if part.upto is not None:
            conditions.append(f"{key} <= {_literal(part.upto)}")
    else:
        conditions.append(_among(plain, part.keys, lists))
    if table.kept:
        conditions.append(f"NOT {_among(plain, table.kept, lists)}")
    where = " AND ".join(conditions) or "true"
    return f"SELECT {key} AS k{columns} FROM ONLY public.{quoted(table.name)} WHERE {where}"


def _among(key: str, keys: Sequence[Key], lists: list[object]) -> str:
    lists.append(list(keys))
    return f"{key} = ANY(${len(lists)})"


def _key(table: Table) -> str:
    return quoted(table.key) + (' COLLATE "C"' if table.text_key else "")


def _literal(key: Key) -> str:
    return str(key) if isinstance(key, int) else literal(key)


def _utf8(value: str) -> str:
    return f"pg_catalog.convert_to({value}::text, 'UTF8')"


def _hex(value: str) -> str:
    return f"pg_catalog.encode({value}, 'hex')"


def _jsonb(text: bytes) -> str:
    return f"pg_catalog.convert_from(pg_catalog.decode('{text.hex()}', 'hex'), 'UTF8')::jsonb"
