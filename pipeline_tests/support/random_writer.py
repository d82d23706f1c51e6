"""Applications that write a source at random; a seed decides every statement and every value.

SOAK_SEEDS (default 1) says how many seeds the tests of random moments take.
"""

import json
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.sqlite import tracking
from pipeline_tests.support.comparison import Row, assert_same, refused
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import CHANGED_BY, CONTENT_DDL, PARENTS, SourceFile
from pipeline_tests.support.syncs import TABLES

MODES = ("dates", "tracked")
SEEDS = [
    pytest.param(seed, marks=[pytest.mark.slow] if seed else [])
    for seed in range(int(os.environ.get("SOAK_SEEDS", "1")))
]
KEYS = ("INTEGER NOT NULL PRIMARY KEY", "INT PRIMARY KEY", "INTEGER", "INTEGER PRIMARY KEY DESC")
"""How a source may declare its keys; under the second and third a row's number may change."""


def ddl_with(key: str) -> str:
    """The application's schema, with keys declared in another way."""
    return CONTENT_DDL.replace("id INTEGER NOT NULL PRIMARY KEY", f"id {key}")


@dataclass
class Writer:
    """An application that writes the source at random.

    Attributes:
        path: the source.
        rng: decides everything.
        tracked: whether updates may leave every date as it is.
        key: how the keys are declared.
        said: what was written since the last tick, to be told when it was not followed.
    """

    path: Path
    rng: random.Random
    tracked: bool
    key: str = KEYS[0]
    said: list[str] = field(default_factory=list)
    _clock: datetime = datetime(2025, 8, 6, 3, 7, 13, tzinfo=UTC)
    _ids: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARENTS, 0))
    _had: dict[tuple[str, Any], set[Any]] = field(default_factory=dict)
    _live: sqlite3.Connection = field(init=False, repr=False)

    @contextmanager
    def opened(self, *, timeout: float = 30) -> Iterator[None]:
        """Hold a connection with the source."""
        with closing(
            sqlite3.connect(self.path, timeout=timeout, isolation_level=None)
        ) as self._live:
            yield

    def do(self, sql: str, *parameters: Any) -> None:
        """Execute one statement."""
        shown = [p if not isinstance(p, bytes) else f"{len(p)} bytes" for p in parameters]
        self.said.append(f"{sql} {shown}")
        self._live.execute(sql, parameters)

    def fill(self, contents: int = 10) -> None:
        """A source to begin with."""
        self._live.execute("BEGIN")
        for table, rows in zip(PARENTS, (1, 2, 2, 4), strict=True):
            for _ in range(rows * contents):
                self.insert(table)
        self._live.execute("COMMIT")
        self.said.clear()

    def transaction(self, *, ends: bool = True) -> None:
        """Several statements that are committed or rolled back; or left open."""
        self.do("BEGIN IMMEDIATE")
        for _ in range(self.rng.randint(1, 5)):
            self.statement()
        if ends:
            self.end()

    def end(self) -> None:
        """Commit, or now and then not."""
        self.do("ROLLBACK" if self.rng.random() < 0.2 else "COMMIT")

    def statement(self) -> None:
        """One change of one table."""
        self._clock += timedelta(seconds=self.rng.randint(-3, 60))
        if self.rng.random() < 0.05:
            self._clock -= timedelta(hours=self.rng.randint(1, 48))
        table = self.rng.choice(list(PARENTS))
        changes: list[tuple[float, Callable[[str], None]]] = [
            (5, self.insert),
            (6, self.update),
            (3, self.delete),
            (2, self.break_one),
            (3, self.repair),
            (1, self.move_key),
            (1.5, self.refer_elsewhere),
            (1, self.update_many),
        ]
        if self.key != "INTEGER":
            changes.append((1.5, self.replace))
        if table == "fragment_assets":
            changes.append((4, self.regenerate))
        weights, functions = zip(*changes, strict=True)
        self.rng.choices(functions, weights)[0](table)

    def insert(self, table: str) -> None:
        """A new row; now and then with the id of one that has gone, or one of many."""
        self._ids[table] += self.rng.choice([1, 1, 1, 2, 50])
        key: Any = self._ids[table]
        if self.rng.random() < 0.2:
            key = self.rng.randint(1, self._ids[table])
        if self.key in KEYS[1:3] and self.rng.random() < 0.05:
            key = self.rng.choice([None, "no number", 1.5, b"no number"])
        there = self._live.execute(f"SELECT 1 FROM {table} WHERE id = ?", (key,)).fetchone()
        if there and self.key != "INTEGER":
            return
        row = self._row(table, key)
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        self.do(f"INSERT INTO {table} ({names}) VALUES ({marks})", *row.values())

    def update(self, table: str) -> None:
        """Other values for some columns of a row."""
        key = self._some_id(table)
        if key is not None:
            row = self._row(table, key)
            row.pop("id")
            names = self.rng.sample(list(row), self.rng.randint(1, 3))
            self._set(table, key, {name: row[name] for name in names})

    def update_many(self, table: str) -> None:
        """The same new date for several rows at once, the date of none of them before."""
        keys = [key for key in (self._some_id(table) for _ in range(4)) if key is not None]
        if keys:
            moment = self._moment(*((table, key) for key in keys), fresh=True)
            marks = ", ".join("?" * len(keys))
            also = {"rankings": ", assessment_notes = hex(randomblob(3))"}.get(table, "")
            # Random values are the database's own here; the seed need not know them.
            self.do(
                f"UPDATE {table} SET {CHANGED_BY[table]} = ?{also} WHERE id IN ({marks})",
                moment,
                *keys,
            )

    def delete(self, table: str) -> None:
        """A row goes; what refers to it may stay, as an orphan."""
        key = self._some_id(table)
        if key is not None and (table == "rankings" or self.rng.random() < 0.4):
            self.do(f"DELETE FROM {table} WHERE id = ?", key)

    def replace(self, table: str) -> None:
        """A row in the place of another one."""
        key = self._some_id(table)
        if key is not None:
            row = self._row(table, key)
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            self.do(f"REPLACE INTO {table} ({names}) VALUES ({marks})", *row.values())

    def break_one(self, table: str) -> None:
        """A value that the target refuses."""
        key = self._some_id(table)
        if key is None:
            return
        name, value = self.rng.choice(BROKEN[table])
        if name == CHANGED_BY[table]:
            self.do(f"UPDATE {table} SET {name} = {value} WHERE id = ?", key)
        else:
            self._set(table, key, {}, also=f"{name} = {value}")

    def repair(self, table: str) -> None:
        """Sound values for a row that the target refuses."""
        live = self._live
        live.row_factory = sqlite3.Row
        live.text_factory = lambda text: text.decode(errors="surrogateescape")
        rows = [dict(row) for row in live.execute(f"SELECT * FROM {table} ORDER BY id, 2")]
        live.row_factory, live.text_factory = None, str  # type: ignore[assignment]
        broken = [row["id"] for row in rows if refused(table, row)]
        if broken:
            key = self.rng.choice(broken)
            row = self._row(table, key)
            if not isinstance(key, int):
                self.do(f"DELETE FROM {table} WHERE id IS ?", key)
                return
            row.pop("id")
            self._set(table, key, row, dated=True)

    def move_key(self, table: str) -> None:
        """Another id for a row."""
        key = self._some_id(table)
        if key is not None:
            self._ids[table] += 1
            self._set(table, key, {"id": self._ids[table]})

    def refer_elsewhere(self, table: str) -> None:
        """Another parent for a row, or one that is not there."""
        key = self._some_id(table)
        if key is not None and PARENTS[table]:
            column, parent = self.rng.choice(list(PARENTS[table].items()))
            other = self._some_id(parent) if self.rng.random() < 0.8 else 10**6
            if other is not None:
                self._set(table, key, {column: other})

    def regenerate(self, table: str) -> None:
        """Another file; its size is new, or its date has moved."""
        key = self._some_id(table)
        if key is None:
            return
        if self.rng.random() < 0.4:
            sizes = self._had.setdefault(("sizes", key), set())
            size = 5000 + len(sizes)
            sizes.add(size)
            self.do(f"UPDATE {table} SET asset_data = ? WHERE id = ?", self._bytes(size), key)
        else:
            old = self._live.execute(
                f"SELECT length(asset_data) FROM {table} WHERE id = ?", (key,)
            ).fetchone()[0]
            self._set(table, key, {"asset_data": self._bytes(old or 9)})

    def shake(self) -> None:
        """What an administrator does; it changes no value."""
        self.do(self.rng.choice(["VACUUM", "REINDEX", "ANALYZE", "PRAGMA wal_checkpoint"]))

    def _set(
        self, table: str, key: Any, values: Row, *, also: str = "", dated: bool = False
    ) -> None:
        """Update a row; without tracking its date of change always becomes another one."""
        column = CHANGED_BY[table]
        values = {name: value for name, value in values.items() if name != column}
        if not self.tracked or dated or self.rng.random() < 0.3 or not (values or also):
            values[column] = self._moment((table, key), (table, values.get("id", key)))
        sets = [f"{name} = ?" for name in values] + ([also] if also else [])
        self.do(f"UPDATE {table} SET {', '.join(sets)} WHERE id = ?", *values.values(), key)

    def _some_id(self, table: str) -> Any:
        found = self._live.execute(
            f"SELECT DISTINCT id FROM {table} WHERE typeof(id) = 'integer' ORDER BY id"
        ).fetchall()
        return self.rng.choice(found)[0] if found else None

    def _moment(self, *rows: tuple[str, Any], fresh: bool = False) -> str | None:
        """A date that none of these rows had before: new, late, another row's or none at all."""
        while True:
            at: datetime | None = self._clock
            chance = self.rng.random()
            others = sorted(d for known in self._had.values() for d in known if _is_date(d))
            if fresh:
                at = self._clock + timedelta(microseconds=self.rng.randrange(10**6))
            elif chance < 0.3 and others:
                at = self.rng.choice(others)
            elif chance < 0.5:
                at = self._clock - timedelta(microseconds=self.rng.randrange(10**11))
            elif chance < 0.55:
                at = None
            if all(at not in self._had.get(row, ()) for row in rows):
                for row in rows:
                    self._had.setdefault(row, set()).add(at)
                return None if at is None else self._written(at)
            self._clock += timedelta(microseconds=1)

    def _written(self, at: datetime) -> str:
        """A date in one of the notations that applications use."""
        plain = at.replace(tzinfo=None)
        zone = at.astimezone(datetime.strptime("+0700", "%z").tzinfo)
        return self.rng.choice(
            [str(plain), str(plain), plain.isoformat(), f"{plain}+00:00", str(zone)]
        )

    def _text(self, longest: int = 60) -> str:
        words = ["กิน", "ข้าว", "to eat", "", "'", '"', "\\", "😀", "\n", "ð", "NULL", "x" * 40]
        return " ".join(self.rng.choices(words, k=self.rng.randint(0, 5)))[:longest]

    def _json(self) -> str | None:
        value = self.rng.choice(
            [["food"], {"a": self._text()}, {}, [], None, [1, 2.5, -3e10, True], {"ก": [{}]}, "x"]
        )
        return self.rng.choice([json.dumps(value), json.dumps(value, ensure_ascii=False), None])

    def _bytes(self, size: int) -> bytes:
        return self.rng.randbytes(size)

    def _row(self, table: str, key: Any) -> Row:
        """A sound row."""
        rng, created = self.rng, self._written(self._clock)
        changed = self._moment((table, key))
        match table:
            case "learning_content":
                return {
                    "id": key,
                    "title": f"{self._text()} {key} {rng.randrange(10**9)}",
                    "content_type": "vocabulary",
                    "language": "thai",
                    "native_text": self._text(),
                    "translation": self._text(),
                    "ipa": self._text(),
                    "difficulty_level": rng.choice([None, 1, -5, 2**31 - 1]),
                    "tags": self._json(),
                    "content_metadata": self._json(),
                    "created_at": created,
                    "updated_at": changed,
                    "last_review_at": rng.choice([None, created]),
                }
            case "content_fragments":
                return {
                    "id": key,
                    "native_text": self._text(),
                    "body_text": self._text(500),
                    "ipa": rng.choice([None, self._text()]),
                    "extra": rng.choice([None, self._text()]),
                    "fragment_type": "usage_tip",
                    "fragment_metadata": self._json(),
                    "created_at": created,
                    "updated_at": changed,
                    "learning_content_id": self._some_id("learning_content") or 1,
                }
            case "fragment_assets":
                return {
                    "id": key,
                    "fragment_id": self._some_id("content_fragments") or 1,
                    "asset_type": rng.choice(["audio", "image", "video"]),
                    "asset_data": self._bytes(rng.choice([0, 1, 5, 5, 3000])),
                    "asset_metadata": self._json(),
                    "created_at": changed,
                    "created_by": rng.choice([None, "somchai"]),
                }
        return {
            "id": key,
            "fragment_id": rng.choice([None, self._some_id("content_fragments")]),
            "asset_id": rng.choice([None, self._some_id("fragment_assets")]),
            "rank_score": rng.choice([None, 0, 5, 4.5, 3.333, 0.126, 2.25]),
            "assessed_by": rng.choice(["malee", "somchai"]),
            "assessment_notes": rng.choice([None, self._text()]),
            "created_at": created,
            "updated_at": changed,
        }


def _is_date(value: Any) -> bool:
    return isinstance(value, datetime)


BROKEN = {
    "learning_content": [
        ("tags", "'[''food'']'"),
        ("title", "printf('%.201c', 'x')"),
        ("native_text", "'a' || char(0) || 'b'"),
        ("translation", "CAST(x'ff' AS TEXT)"),
        ("difficulty_level", "'hard'"),
        ("updated_at", "'yesterday'"),
        ("content_metadata", '\'{"a": "\\u0000"}\''),
    ],
    "content_fragments": [
        ("body_text", "'a' || char(0) || 'b'"),
        ("created_at", "'2025-02-30 00:00:00'"),
        ("updated_at", "12345"),
        ("learning_content_id", "999999"),
    ],
    "fragment_assets": [
        ("asset_data", "NULL"),
        ("asset_data", "'no bytes'"),
        ("asset_type", "'pdf'"),
        ("created_at", "'soon'"),
    ],
    "rankings": [
        ("rank_score", "9"),
        ("rank_score", "'good'"),
        ("assessed_by", "NULL"),
        ("assessed_by", "printf('%.101c', 'x')"),
        ("asset_id", "999999"),
    ],
}
"""By table: columns, and SQL of values that the target refuses."""


def age(path: Path, at: int) -> None:
    """Make the file look as if it had been written long ago, and not at the same time as ever."""
    for each in (path, path.with_name(f"{path.name}-wal")):
        if each.exists():
            os.utime(each, ns=(at * 10**9, at * 10**9))


def begin(path: Path, url: str, rng: random.Random, *, tracked: bool, key: str) -> Writer:
    """A source with rows, moved once."""
    SourceFile.make(path, ddl_with(key))
    writer = Writer(path, rng, tracked, key)
    with writer.opened():
        writer.do(f"PRAGMA journal_mode = {rng.choice(['WAL', 'DELETE'])}")
        writer.fill()
    if tracked:
        tracking.switch_on(path, TABLES)
    move_all(path, url, delete_share=1.0)
    assert_same(path, url)
    return writer


def tick(writer: Writer, url: str, number: int) -> None:
    """Write at random, sync, and hold both sides against each other."""
    rng = writer.rng
    with writer.opened():
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            writer.transaction()
        if rng.random() < 0.05:
            writer.shake()
        left_open = rng.random() < 0.15
        if left_open:
            writer.transaction(ends=False)
        elif rng.random() < 0.4:
            age(writer.path, 1_600_000_000 + number)
        if rng.random() < 0.04:
            move_all(writer.path, url, delete_share=1.0)
        else:
            sync_all(writer.path, url, delete_share=1.0)
        assert_same(writer.path, url)
        if left_open:
            writer.end()


def write_source(source: SourceFile, rng: random.Random) -> None:
    """Some 4,000 rows; in every table a few that the target refuses."""

    def moment() -> str:
        day, part = rng.randint(1, 28), rng.randrange(10**6)
        return f"2025-{rng.randint(1, 12):02}-{day:02} 03:07:13.{part:06}"

    contents = [
        (i, f"คำ {i}", "vocabulary", "thai", "กิน", "to eat", "kin", '["food"]', moment())
        for i in range(1, 251)
    ]
    fragments = [
        (i, "ผมกินข้าว", f"I eat {i}", "usage_tip", moment(), rng.randint(1, 250))
        for i in range(1, 1001)
    ]
    assets = [
        (i, rng.randint(1, 1000), "audio", rng.randbytes(rng.randrange(2000)), moment())
        for i in range(1, 601)
    ]
    rankings = [
        (i, rng.randint(1, 1000), rng.choice([None, rng.randint(1, 600)]), rng.randint(0, 20) / 4)
        for i in range(1, 2001)
    ]
    with closing(sqlite3.connect(source.path)) as live, live:
        for into, rows in (
            (
                "learning_content (id, title, content_type, language, native_text, translation,"
                " ipa, tags, created_at)",
                contents,
            ),
            (
                "content_fragments (id, native_text, body_text, fragment_type, created_at,"
                " learning_content_id)",
                fragments,
            ),
            ("fragment_assets (id, fragment_id, asset_type, asset_data, created_at)", assets),
            ("rankings (id, fragment_id, asset_id, rank_score)", rankings),
        ):
            live.executemany(f"INSERT INTO {into} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        live.execute("UPDATE rankings SET assessed_by = 'malee'")
    break_some(source, rng)


def break_some(source: SourceFile, rng: random.Random) -> None:
    """Give a few rows of every table a value that the target refuses."""
    for table, change, rows in (
        ("learning_content", "tags = '[''food'']'", 250),
        ("content_fragments", "body_text = 'a' || char(0) || 'b'", 1000),
        ("fragment_assets", "asset_data = NULL", 600),
        ("rankings", "rank_score = 9", 2000),
    ):
        for _ in range(3):
            source.run(f"UPDATE {table} SET {change} WHERE id = ?", [rng.randint(1, rows)])


def change_some(source: SourceFile, rng: random.Random) -> None:
    """Repair what was broken, break others; update, delete and insert some rows."""
    source.run("UPDATE learning_content SET tags = '[\"food\"]' WHERE NOT json_valid(tags)")
    source.run("UPDATE rankings SET rank_score = 5 WHERE rank_score > 5")
    break_some(source, rng)
    third = rng.randrange(3)
    source.run(
        "UPDATE content_fragments SET body_text = body_text || '!' WHERE id % 3 = ?", [third]
    )
    source.run("UPDATE fragment_assets SET asset_data = randomblob(99) WHERE id % 9 = ?", [third])
    source.run("DELETE FROM rankings WHERE id IN (SELECT id FROM rankings ORDER BY id LIMIT 50)")
    source.run(
        "INSERT INTO rankings (fragment_id, rank_score, assessed_by)"
        " SELECT id, 2.25, 'new' FROM content_fragments WHERE id % 40 = ?",
        [rng.randrange(40)],
    )
