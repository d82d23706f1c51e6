"""Both sides' digests, part by part; where they differ, the values that do are named."""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy.dialects.postgresql import JSONB

from pipeline.move.witness import stored
from pipeline.move.witness.parts import Key, Part
from pipeline.move.witness.source import Stretch, plain
from pipeline.move.witness.stored import Ask
from pipeline.move.witness.table import Table
from pipeline.move.witness.values import Encode, Impossible, Real, Unjudged, shown

MOST_NAMED = 20
"""So many differences of a part are named; each costs a question to the server."""


@dataclass(frozen=True)
class Difference:
    """A value that is not what the source has, or a row that only one side has.

    Attributes:
        key: the row.
        column: the column; None where the whole row is missing or extra.
        source: the source's value, for people; of a row, whether it is there.
        target: the same of the target.
    """

    key: Key | None
    column: str | None
    source: Any
    target: Any


@dataclass(frozen=True)
class Compared:
    """One part as both sides have it.

    Attributes:
        part: which rows.
        rows: how many the source has.
        target: the server's digest of every column.
        differences: what differs, named up to a limit.
    """

    part: Part
    rows: int
    target: list[str]
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Expected:
    """What the target has to hold of one part.

    Attributes:
        stretch: the rows, as the source has them.
        digests: the digest of every column.
    """

    stretch: Stretch
    digests: list[str]


def expected(ask: Ask, table: Table, stretch: Stretch) -> Expected:
    """Encode and hash the rows of a stretch."""
    encoded = [_encoded(ask, table, values) for _, _, values in stretch.rows]
    columns = zip(*encoded, strict=True) if encoded else [()] * len(table.columns)
    return Expected(stretch, [_digest(column) for column in columns])


def compare(ask: Ask, table: Table, given: list[Expected]) -> Iterator[Compared]:
    """Ask the server for its digests of some parts, in one query.

    Args:
        ask: runs queries in the session that sees what is to be proven.
        table: the table.
        given: what it has to hold.
    """
    if not given:
        return
    found = stored.digests(ask, table, [each.stretch.part for each in given])
    for each, (rows, digests) in zip(given, found, strict=True):
        part, wanted = each.stretch.part, len(each.stretch.rows)
        equal = (rows, digests) == (wanted, each.digests)
        named = () if equal else tuple(islice(_named(ask, table, each.stretch), MOST_NAMED))
        yield Compared(part, wanted, digests, named)


def compare_all(ask: Ask, table: Table, given: Iterable[Expected]) -> Iterator[Compared]:
    """The same for many parts: the server hashes one while the next is read."""
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
        # The target has no place for it, so whatever is there differs.
        return Impossible(f"{value!r} ({error})".encode())


def _digest(column: Iterable[bytes | None]) -> str:
    lengths, values = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False)
    for value in column:
        lengths.update(struct.pack(">i", -1 if value is None else len(value)))
        values.update(value or b"")
    return lengths.hexdigest() + values.hexdigest()


def _named(ask: Ask, table: Table, stretch: Stretch) -> Iterator[Difference]:
    """What differs in a part, row by row; values that mean the same do not."""
    ours = {plain(key): _encoded(ask, table, values) for _, key, values in stretch.rows}
    missing = dict.fromkeys(ours)
    for key, theirs in stored.row_digests(ask, table, stretch.part):
        if key is None or key not in missing:
            # Not in the source, or there a second time.
            yield Difference(key, None, False, True)
            continue
        del missing[key]
        for at, (source, target) in enumerate(zip(ours[key], theirs, strict=True)):
            if _md5(source) != target and not _same(ask, table, key, at, source):
                column, kind = table.columns[at]
                there = stored.value(ask, table, key, at)
                yield Difference(key, column, shown(kind, source), shown(kind, there))
    yield from (Difference(key, None, True, False) for key in missing)


def _same(ask: Ask, table: Table, key: Key, at: int, source: bytes | None) -> bool:
    if source is None or isinstance(source, Impossible):
        return False
    if isinstance(source, Real):
        there = stored.value(ask, table, key, at)
        return there is not None and _as_double(there) == float(source)
    json = isinstance(table.columns[at][1], JSONB)
    return json and stored.same_json(ask, table, key, at, source)


def _as_double(json: bytes) -> float | None:
    try:
        return float(json)
    except ValueError:
        return None


def _md5(value: bytes | None) -> str | None:
    return None if value is None else hashlib.md5(value, usedforsecurity=False).hexdigest()
