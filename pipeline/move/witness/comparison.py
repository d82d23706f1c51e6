"""Compare the digests of both sides by part, and name different values."""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy.dialects.postgresql import JSONB

from pipeline.move.witness import stored
from pipeline.move.witness.json_texts import Real, Unjudged
from pipeline.move.witness.parts import Key, Part
from pipeline.move.witness.source import Chunk, plain
from pipeline.move.witness.stored import Ask
from pipeline.move.witness.table import Table
from pipeline.move.witness.values import Encode, Impossible, shown

MOST_NAMED = 20
"""The maximum number of named differences per part; each needs a query."""


@dataclass(frozen=True)
class Difference:
    """A different value, or a row that only one side has.

    Attributes:
        column: None if the whole row is missing or extra.
        source: the source's value, for messages; for a row, whether it exists.
        target: the target's value, for messages; for a row, whether it exists.
    """

    key: Key | None
    column: str | None
    source: Any
    target: Any


@dataclass(frozen=True)
class Compared:
    """The comparison of one part."""

    part: Part
    rows: int
    target: list[str]
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Expected:
    """The expected contents of one part."""

    chunk: Chunk
    digests: list[str]


def expected(ask: Ask, table: Table, chunk: Chunk) -> Expected:
    """Encode and hash the rows of a chunk."""
    encoded = [_encoded(ask, table, values) for _, _, values in chunk.rows]
    columns = zip(*encoded, strict=True) if encoded else [()] * len(table.columns)
    return Expected(chunk, [_digest(column) for column in columns])


def compare(ask: Ask, table: Table, given: list[Expected]) -> Iterator[Compared]:
    """Compare several parts in one query."""
    if not given:
        return
    found = stored.digests(ask, table, [each.chunk.part for each in given])
    for each, (rows, digests) in zip(given, found, strict=True):
        part, wanted = each.chunk.part, len(each.chunk.rows)
        equal = (rows, digests) == (wanted, each.digests)
        named = () if equal else tuple(islice(_named(ask, table, each.chunk), MOST_NAMED))
        yield Compared(part, wanted, digests, named)


def compare_all(ask: Ask, table: Table, given: Iterable[Expected]) -> Iterator[Compared]:
    """Compare many parts; the server hashes one part while the next is read."""
    with ThreadPoolExecutor(1, thread_name_prefix="witness") as pool:
        asked: Future[list[Compared]] | None = None
        for each in given:
            coming = pool.submit(lambda part=each: list(compare(ask, table, [part])))  # type: ignore[misc]
            if asked is not None:
                yield from asked.result()
            asked = coming
        if asked is not None:
            yield from asked.result()


def _encoded(ask: Ask, table: Table, values: list[Any]) -> list[bytes | None]:
    return [
        None if value is None else _bytes(ask, encode, value)
        for encode, value in zip(table.encoders, values, strict=True)
    ]


def _bytes(ask: Ask, encode: Encode, value: Any) -> bytes:
    try:
        return encode(value)
    except Unjudged as deep:
        return stored.as_jsonb(ask, deep.text)
    except ValueError as error:
        # The target cannot store the value, so the stored one differs.
        return Impossible(f"{value!r} ({error})".encode())


def _digest(column: Iterable[bytes | None]) -> str:
    values = list(column)
    sizes = [-1 if value is None else len(value) for value in values]
    lengths = hashlib.md5(struct.pack(f">{len(sizes)}i", *sizes), usedforsecurity=False)
    joined = hashlib.md5(usedforsecurity=False)
    for value in values:
        if value:
            joined.update(value)
    return lengths.hexdigest() + joined.hexdigest()


def _named(ask: Ask, table: Table, chunk: Chunk) -> Iterator[Difference]:
    """The differences of a part, row by row, without values of the same meaning."""
    source_rows = {plain(key): _encoded(ask, table, values) for _, key, values in chunk.rows}
    missing = dict.fromkeys(source_rows)
    for key, digests in stored.row_digests(ask, table, chunk.part):
        if key is None or key not in missing:
            # Not in the source, or a repeated key.
            yield Difference(key, None, False, True)
            continue
        del missing[key]
        for number, (source, target) in enumerate(zip(source_rows[key], digests, strict=True)):
            if _md5(source) != target and not _same(ask, table, key, number, source):
                column, kind = table.columns[number]
                value = stored.value(ask, table, key, number)
                yield Difference(key, column, shown(kind, source), shown(kind, value))
    yield from (Difference(key, None, True, False) for key in missing)


def _same(ask: Ask, table: Table, key: Key, number: int, source: bytes | None) -> bool:
    if source is None or isinstance(source, Impossible):
        return False
    if isinstance(source, Real):
        value = stored.value(ask, table, key, number)
        return value is not None and _as_double(value) == float(source)
    json = isinstance(table.columns[number][1], JSONB)
    return json and stored.same_json(ask, table, key, number, source)


def _as_double(json: bytes) -> float | None:
    try:
        return float(json)
    except ValueError:
        return None


def _md5(value: bytes | None) -> str | None:
    return None if value is None else hashlib.md5(value, usedforsecurity=False).hexdigest()
