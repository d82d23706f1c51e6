"""Both sides of a migration read and compared, by code that shares nothing with the pipeline."""

import json
import re
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import psycopg2

from pipeline_tests.support.sources import PARENTS

DATES = ("created_at", "updated_at", "last_review_at")
JSONS = ("tags", "content_metadata", "fragment_metadata", "asset_metadata")
NUMBERS = ("id", "difficulty_level", "learning_content_id", "fragment_id", "asset_id")
LONGEST = {
    "title": 200,
    "content_type": 50,
    "language": 10,
    "fragment_type": 50,
    "asset_type": 20,
    "created_by": 100,
    "assessed_by": 100,
}
FORBIDDEN_NULLS = {
    "id",
    "title",
    "content_type",
    "language",
    "fragment_type",
    "body_text",
    "asset_type",
    "asset_data",
    "assessed_by",
}
FORBIDDEN_NULLS_OF = {
    "learning_content": {"native_text", "translation", "ipa"},
    "content_fragments": {"native_text"},
}
MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,6})?)(Z|[+-]\d\d:\d\d)?", re.ASCII
)

Row = dict[str, Any]
Side = dict[str, tuple[dict[int, Row], Counter[str | None]]]
"""By table: rows by id, and the keys of those in quarantine."""

EMPTY: Side = {table: ({}, Counter()) for table in PARENTS}
"""A target without rows."""


def moment_of(text: Any) -> datetime | None:
    """The moment that a text names; None if it names none."""
    found = MOMENT.fullmatch(text) if isinstance(text, str) else None
    if not found:
        return None
    day, clock, zone = found.groups()
    zone = "+00:00" if zone in (None, "Z") else zone
    try:
        return datetime.fromisoformat(f"{day} {clock}{zone}").astimezone(UTC)
    except ValueError:
        return None


def is_json(text: Any) -> bool:
    """Whether a text is JSON that PostgreSQL can keep."""
    try:
        json.loads(text)
    except (TypeError, ValueError):
        return False
    return "\\u0000" not in text


def refused(table: str, row: Row) -> bool:
    """Whether a source row breaks what the target demands of it alone."""
    for name, value in row.items():
        forbidden = name in FORBIDDEN_NULLS or name in FORBIDDEN_NULLS_OF.get(table, ())
        if value is None:
            if forbidden:
                return True
        elif name in NUMBERS:
            if not isinstance(value, int) or not -(2**31) <= value < 2**31:
                return True
        elif name == "rank_score":
            if not isinstance(value, int | float) or not 0 <= value <= 5:
                return True
        elif name == "asset_data":
            if not isinstance(value, bytes):
                return True
        elif not isinstance(value, str) or "\0" in value or re.search("[\udc80-\udcff]", value):
            return True
        elif name in DATES:
            if moment_of(value) is None:
                return True
        elif name in JSONS:
            if not is_json(value):
                return True
        elif len(value) > LONGEST.get(name, len(value)):
            return True
    return table == "fragment_assets" and row["asset_type"] not in ("audio", "image", "video")


def as_it_arrives(name: str, value: Any) -> Any:
    """A source value as the target must give it back."""
    if value is None:
        return None
    if name in DATES:
        return moment_of(value)
    if name in JSONS:
        return json.loads(value)
    if name == "rank_score":
        return Decimal(repr(value)).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return value


def shown(key: Any) -> str | None:
    """A key as quarantine names it."""
    return key.decode() if isinstance(key, bytes) else None if key is None else str(key)


def expected(path: Path) -> Side:
    """What the target must hold, by what the source has committed."""
    found: Side = {}
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as live:
        live.row_factory = sqlite3.Row
        live.text_factory = lambda text: text.decode(errors="surrogateescape")
        live.execute("BEGIN")
        source = {t: [dict(row) for row in live.execute(f"SELECT * FROM {t}")] for t in PARENTS}
    for table, parents in PARENTS.items():
        times = Counter(row["id"] for row in source[table])
        rows: dict[int, Row] = {}
        aside: Counter[str | None] = Counter()
        for row in source[table]:
            lonely = any(
                row[c] is not None and row[c] not in found[p][0] for c, p in parents.items()
            )
            if lonely or times[row["id"]] > 1 or refused(table, row):
                aside[shown(row["id"])] += 1
            else:
                rows[row["id"]] = {name: as_it_arrives(name, v) for name, v in row.items()}
        found[table] = (rows, aside)
    return found


def held_by(url: str) -> Side:
    """What the target holds; a table that is missing is empty."""
    found: Side = {}
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for table in PARENTS:
            rows: dict[int, Row] = {}
            for row in _rows(cursor, table):
                if "asset_data" in row:
                    row["asset_data"] = bytes(row["asset_data"])
                assert row["id"] not in rows
                rows[row["id"]] = row
            kept = _rows(cursor, "migration.quarantine", where=f"table_name = '{table}'")
            found[table] = (rows, Counter(row["source_key"] for row in kept))
    return found


def _rows(cursor: psycopg2.extensions.cursor, table: str, *, where: str = "true") -> list[Row]:
    cursor.execute("SELECT to_regclass(%s)", (table,))
    if cursor.fetchall() == [(None,)]:
        return []
    cursor.execute(f"SELECT * FROM {table} WHERE {where}")
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, values, strict=True)) for values in cursor]


def differences(ours: Side, theirs: Side) -> list[str]:
    """Where the target is not as the source demands, in words."""
    said = []
    for table, (rows, aside) in ours.items():
        there, kept = theirs[table]
        said += [f"{table} {key} is missing" for key in sorted(rows.keys() - there.keys())]
        said += [f"{table} {key} is extra" for key in sorted(there.keys() - rows.keys())]
        for key in sorted(rows.keys() & there.keys()):
            said += [
                f"{table} {key}.{name}: {rows[key].get(name)!r} is not {there[key].get(name)!r}"
                for name in rows[key].keys() | there[key].keys()
                if rows[key].get(name) != there[key].get(name)
            ]
        if aside != kept:
            said.append(f"{table}: quarantine lacks {aside - kept} and has {kept - aside} besides")
    return said


def assert_same(source: Path, url: str) -> None:
    """Both sides say the same."""
    assert differences(expected(source), held_by(url)) == []
