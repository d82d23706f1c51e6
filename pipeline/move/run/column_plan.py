"""The contents of a column in a plan: storage classes, and formats of dates."""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.quoting import quoted
from pipeline.mapping.casts.types import type_name
from pipeline.mapping.table_mapping import TableMapping


@dataclass(frozen=True)
class ColumnPlan:
    """The contents and types of a column.

    Attributes:
        source_type: the type declared in the source, "" if there is none.
        storage: number of values by SQLite storage class.
        date_formats: number of texts by date format; empty for other types.
    """

    name: str
    source_type: str
    target_type: str
    storage: dict[str, int]
    date_formats: dict[str, int]


def date_formats(texts: pa.Array) -> Counter[str]:
    """Number of texts by format, such as ``YYYY-MM-DD HH:MM:SS.ffffff``.

    Texts with the same length and the same characters at significant positions are counted
    together.
    """
    marks = [pc.binary_length(texts)]
    marks += [pc.utf8_slice_codeunits(texts, start, start + 1) for start in (10, 16, 19)]
    ends = ((-7, -6), (-6, -5), (-1, None))
    marks += [pc.utf8_slice_codeunits(texts, start, stop) for start, stop in ends]
    names = [str(number) for number in range(len(marks))]
    grouped = pa.table([*marks, texts], names=[*names, "text"]).group_by(names)
    counted = grouped.aggregate([("text", "min"), ("text", "count")])
    formats: Counter[str] = Counter()
    for text, count in zip(
        counted.column("text_min").to_pylist(),
        counted.column("text_count").to_pylist(),
        strict=True,
    ):
        if text is not None:
            formats[date_format(text)] += count
    return formats


_FORMAT = re.compile(
    r"\d{4}-\d\d-\d\d(?:(?P<between>[ T])\d\d:\d\d(?P<seconds>:\d\d)?(?:\.(?P<fraction>\d+))?)?"
    r"(?P<blank> *)(?P<zone>Z|[+-]\d\d:\d\d)?"
)


def date_format(text: str) -> str:
    """The format of one text, ``no date`` for others."""
    found = _FORMAT.fullmatch(text)
    if found is None:
        return "no date"
    result = "YYYY-MM-DD"
    if found["between"]:
        result += f"{found['between']}HH:MM" + (":SS" if found["seconds"] else "")
    if found["fraction"]:
        result += "." + "f" * len(found["fraction"])
    zone = found["zone"] or ""
    return result + found["blank"] + ("+HH:MM" if len(zone) > 1 else zone)


_CLASSES = ("null", "integer", "real", "text", "blob")


def profile(
    connection: sqlite3.Connection, mapping: TableMapping, date_formats: dict[str, Counter[str]]
) -> Iterator[ColumnPlan]:
    """The contents of all columns; one scan counts their storage classes."""
    sums = ", ".join(
        f"sum(typeof({mapping.in_source(column.name)}) = '{storage}')"
        for column in mapping.columns
        for storage in _CLASSES
    )
    counts = connection.execute(f"SELECT {sums} FROM {quoted(mapping.name)}").fetchone()
    for number, column in enumerate(mapping.columns):
        column_counts = counts[number * len(_CLASSES) : (number + 1) * len(_CLASSES)]
        yield ColumnPlan(
            column.name,
            mapping.declared[column.name],
            type_name(column.type),
            {storage: n for storage, n in zip(_CLASSES, column_counts, strict=True) if n},
            dict(date_formats.get(column.name, Counter()).most_common()),
        )
