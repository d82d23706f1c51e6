"""Databases of other programs, and one with everything that SQLite allows."""

import lzma
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pandas as pd
import pyproj
from anki.collection import Collection

from pipeline_tests.support.old_world import FIXTURES

COMMITTED = ("oscar", "fossil", "fossil_checkout", "svn", "mlflow", "trac", "geopackage")
CALIBRE = Path("/usr/share/calibre/metadata_sqlite.sql")
"""Where Debian's package has it; its licence does not allow a copy here."""
_SHARE = 40


def exactly(one: str, other: str) -> int:
    """A collation of an application."""
    return (one > other) - (one < other)


def committed(name: str) -> Callable[[Path], Path]:
    """A database of the fixtures."""

    def make(folder: Path) -> Path:
        path = folder / f"{name}.db"
        path.write_bytes(lzma.decompress((FIXTURES / "databases" / f"{name}.db.xz").read_bytes()))
        return path

    return make


def proj(folder: Path) -> Path:
    """The registry of coordinate systems that pyproj brings."""
    path = folder / "proj.db"
    path.write_bytes((Path(pyproj.datadir.get_data_dir()) / "proj.db").read_bytes())
    return path


def part_of_proj(folder: Path) -> Path:
    """The same with few rows in tables that no other table refers to."""
    path = proj(folder)
    with closing(sqlite3.connect(path)) as connection:
        tables = [
            n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        parents = {
            key[2]
            for name in tables
            for key in connection.execute(f"PRAGMA foreign_key_list({name})").fetchall()
        }
        for name in set(tables) - parents - {"metadata"}:
            (without_rowid,) = connection.execute(
                "SELECT wr FROM pragma_table_list WHERE name = ?", (name,)
            ).fetchone()
            if not without_rowid:
                connection.execute(f"DELETE FROM {name} WHERE rowid % {_SHARE} > 0")
        connection.commit()
        connection.execute("VACUUM")
    return path


def anki(folder: Path) -> Path:
    """A collection with notes, reviews and deleted notes."""
    path = folder / "collection.anki2"
    collection = Collection(str(path))
    try:
        kind = collection.models.by_name("Basic")
        deck = collection.decks.id("ไทย::ü")
        for number in range(20):
            note = collection.new_note(kind)
            note["Front"], note["Back"], note.tags = f"front {number} ü", "<b>x</b>", ["a", "b::c"]
            collection.add_note(note, deck)
        collection.decks.select(deck)
        for _ in range(3):
            card = collection.sched.getCard()
            card.start_timer()
            collection.sched.answerCard(card, 3)
        collection.remove_notes(list(collection.find_notes("front"))[:2])
    finally:
        collection.close()
    return path


def calibre(folder: Path) -> Path:
    """A library in calibre's schema."""
    path = folder / "metadata.db"
    with closing(sqlite3.connect(path)) as connection:
        for name in ("title_sort", "books_list_filter"):
            connection.create_function(name, 1, lambda value: value)
        numbers = iter(range(1000))
        connection.create_function("uuid4", 0, lambda: f"{next(numbers):032}")
        connection.executescript(CALIBRE.read_text())
        for number in range(1, 30):
            values = (f"Büch {number}", f"A, {number % 7}", f"A/B ({number})", number / 2)
            connection.execute(
                "INSERT INTO books (title, author_sort, path, series_index) VALUES (?, ?, ?, ?)",
                values,
            )
            connection.execute("INSERT INTO authors (name, sort) VALUES (?, 'x')", (f"A {number}",))
            connection.execute(
                "INSERT INTO books_authors_link (book, author) VALUES (?, ?)", (number, number)
            )
            connection.execute(
                "INSERT INTO data (book, format, uncompressed_size, name)"
                " VALUES (?, 'EPUB', 9, 'b')",
                (number,),
            )
        connection.commit()
    return path


def flights(rows: int) -> Callable[[Path], Path]:
    """Tables without keys, as ``pandas.to_sql`` makes them, with the columns of nycflights13."""

    def make(folder: Path) -> Path:
        chance, path = random.Random(13), folder / "flights.db"
        whole = ("year", "month", "day", "sched_dep_time", "sched_arr_time", "flight", "distance")
        fractions = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")
        columns: dict[str, list[object]] = {
            **{name: [chance.randrange(3000) for _ in range(rows)] for name in whole},
            **{name: [float(chance.randrange(900)) for _ in range(rows)] for name in fractions},
            **{name: [chance.randrange(24) for _ in range(rows)] for name in ("hour", "minute")},
        }
        for name in fractions:
            columns[name] = [None if chance.random() < 0.03 else each for each in columns[name]]
        for name, words in (
            ("carrier", ("UA", "AA", "B6")),
            ("tailnum", ("N14228", None, "N24211")),
            ("origin", ("EWR", "LGA", "JFK")),
            ("dest", ("IAH", "MIA", "BQN")),
            ("time_hour", ("2013-01-01T10:00:00Z", "2013-06-30T23:00:00Z")),
        ):
            columns[name] = [chance.choice(words) for _ in range(rows)]
        with closing(sqlite3.connect(path)) as connection:
            pd.DataFrame(columns).to_sql("flights", connection, index=False)
            pd.DataFrame({"carrier": ["UA", "AA", "B6"], "name": ["x", "y", "z"]}).to_sql(
                "airlines", connection, index=True
            )
            connection.commit()
        return path

    return make
