"""Benchmark notes for 10,000 contents with audio: `python -m bench.anki`, part of `make bench`.

One run measures, on one machine: the limit, which writes the same notes and files to an empty
collection without any proof; the first sync into an empty collection; a sync without changes; and
a sync of 100 changes, half of them texts, half recordings. SCALE multiplies the contents.
"""

import json
import os
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.memory import peak_mib
from bench.server import bench_server
from pipeline.anki import contents
from pipeline.anki.outcomes import Options, Report
from pipeline.anki.rendering import Renderer
from pipeline.anki.store.collection import CollectionFile, make_collection
from pipeline.anki.store.notes import NewNote, content_tag
from pipeline.anki.sync import sync
from pipeline.application import anki_tables
from pipeline.application.manager import HybridDatabaseManager
from pipeline.migrations.content import metadata
from pipeline.postgres.session import connect

CONTENTS = 10_000
CHANGES = 100
DECK = "bench"
OUT = Path(__file__).parent / "anki.json"

_FILL = """
ALTER TABLE fragment_assets ALTER asset_data SET STORAGE EXTERNAL;
INSERT INTO learning_content (id, title, content_type, native_text, translation, ipa)
  SELECT i, 'word ' || i, 'vocabulary', 'คำที่ ' || i, 'word ' || i, 'kʰam tʰîː ' || i
  FROM generate_series(1, {n}) AS i;
INSERT INTO content_fragments (id, native_text, body_text, ipa, fragment_type, learning_content_id)
  SELECT 4 * i + j, 'ประโยคที่ ' || j || ' ของคำที่ ' || i, 'sentence ' || j || ' of ' || i, 'prà.jòːk',
    CASE j WHEN 0 THEN 'target_learning_item' ELSE 'real_life_example' END, i
  FROM generate_series(1, {n}) AS i, generate_series(0, 3) AS j;
INSERT INTO fragment_assets (id, fragment_id, asset_type, asset_data)
  SELECT 2 * i + j, 4 * i + j, 'audio', decode(repeat(md5((2 * i + j)::text), 960), 'hex')
  FROM generate_series(1, {n}) AS i, generate_series(0, 1) AS j;
INSERT INTO rankings (fragment_id, rank_score, assessed_by)
  SELECT id, 1 + id % 5, 'bench' FROM content_fragments WHERE id % 4 > 0;
ANALYZE;
"""
"""Four fragments for each content, each with a rating; two of them with 15 KiB of audio."""

_CHANGE = """
UPDATE learning_content SET translation = translation || ', changed' WHERE id <= {half};
UPDATE fragment_assets SET asset_data = asset_data || 'x' WHERE id IN
  (SELECT 2 * (id + {half}) FROM learning_content WHERE id <= {half});
"""


def main() -> int:
    """Measure, print a table and write the results."""
    scale = float(os.environ.get("SCALE") or 1)
    number = max(CHANGES, round(CONTENTS * scale))
    seconds: dict[str, float] = {}
    with bench_server() as fresh, tempfile.TemporaryDirectory() as name:
        folder, url = Path(name), fresh()
        sqlite = folder / "cards.db"
        _prepare(url, sqlite, number)
        with HybridDatabaseManager(sqlite, url) as manager:
            seconds["limit"] = _limit(manager, folder / "limit" / "collection.anki2")
            collection = folder / "anki" / "collection.anki2"
            make_collection(collection, decks=[DECK])
            for what, expected in (
                ("first sync", {"created": number}),
                ("nothing changed", {"skipped": number}),
            ):
                seconds[what] = _require(expected, *_sync(manager, collection))
            _run(url, _CHANGE.format(half=CHANGES // 2))
            changed = {"updated": CHANGES, "skipped": number - CHANGES}
            seconds[f"{CHANGES} changes"] = _require(changed, *_sync(manager, collection))
    _show(seconds, number)
    OUT.write_text(
        json.dumps(
            {"contents": number, "seconds": seconds, "peak_mib": round(peak_mib())}, indent=2
        )
        + "\n"
    )
    return 0


def _prepare(url: str, sqlite: Path, number: int) -> None:
    with HybridDatabaseManager(sqlite, url) as manager, manager.get_postgres_session() as session:
        metadata.create_all(session.connection())
    _run(url, _FILL.format(n=number))
    with closing(sqlite3.connect(sqlite)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    with HybridDatabaseManager(sqlite, url) as manager, manager.get_sqlite_session() as session:
        anki_tables.metadata.create_all(session.connection())


def _run(url: str, statements: str) -> None:
    with closing(connect(url, shown="the target")) as connection, connection.cursor() as cursor:
        cursor.execute(statements)


def _limit(manager: HybridDatabaseManager, path: Path) -> float:
    """Seconds to write rendered notes and their files, including reading the files."""
    make_collection(path, decks=[DECK])
    with manager.get_postgres_session(snapshot=True) as session:
        rendered = [Renderer().render(content) for content in contents.read(session)]
        sounds = [sound for each in rendered for sound in each.sounds]
        started = time.perf_counter()
        with CollectionFile(path) as collection:
            for sound, data in contents.recordings(session, sounds):
                Path(path.with_name("collection.media"), sound.file).write_bytes(data)
            collection.add(
                [
                    NewNote(
                        DECK,
                        "Basic",
                        dict(zip(("Front", "Back"), each.fields, strict=True)),
                        (content_tag(each.content_id),),
                    )
                    for each in rendered
                ]
            )
    return time.perf_counter() - started


def _sync(manager: HybridDatabaseManager, path: Path) -> tuple[Report, float]:
    started = time.perf_counter()
    with CollectionFile(path) as collection:
        report = sync(manager, collection, Renderer(), Options(DECK))
    return report, time.perf_counter() - started


def _require(expected: dict[str, int], report: Report, seconds: float) -> float:
    """The seconds, if the report is as expected."""
    found = {action: count for action, count in report.counts.items() if count}
    if found != expected:
        raise SystemExit(f"expected {expected}, got {found}")
    return seconds


def _show(seconds: dict[str, float], number: int) -> None:
    grid = Table(title=f"Anki, {number:,} contents", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("what", "seconds", "of the limit"):
        grid.add_column(column, justify="left" if column == "what" else "right")
    for what, spent in seconds.items():
        grid.add_row(what, f"{spent:.2f}", f"{spent / seconds['limit']:.2f}")
    Console().print(grid)


if __name__ == "__main__":
    sys.exit(main())
