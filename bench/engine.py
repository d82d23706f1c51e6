"""The engine alone: the first move of a source, the move again, and syncs of what changed.

usage: python -m bench.engine load|engine|sync|cutover SOURCE URL

Prints one line of JSON, seconds by what they were spent on. ``engine`` moves as a run does, moves
again, and checks what is committed as ``verify`` does.
``load`` fills no table ahead, so that the seconds of the proof can be left out of it: what remains
is the whole of the first move but re-reading and comparing both sides.
``sync`` moves a copy of the source, then lets the target follow: nothing changed, then a thousand
rows, a quarter in each table; by dates and sizes, and then the same with the source tracked.
``cutover`` moves a copy of the source, cuts over while a thousand rows are written until it is
frozen, writes a thousand rows to the target, and goes back.
"""

import json
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bench.memory import peak_mib
from pipeline.core.place import PUBLIC
from pipeline.cutover.rollback import roll_back
from pipeline.cutover.steps import Site, go_live
from pipeline.declared.rules import TableRules
from pipeline.migrations.content import metadata
from pipeline.move import engine
from pipeline.move.context.options import MoveOptions
from pipeline.move.proof.verification import Sample, verify_table
from pipeline.move.reading.extract import Source
from pipeline.move.reading.prepare import prepare
from pipeline.move.run.mover import Mover
from pipeline.move.run.scope import Changes, Everything, Scope
from pipeline.move.run.transaction import Move
from pipeline.move.run.views import SourceViews
from pipeline.postgres import session
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking
from pipeline.sqlite.snapshot import take_snapshot


class InTurn(Mover):
    """A mover that fills no table before its turn."""

    def _begin(self, *_: object) -> None:
        return None


def move_all(source: Path, url: str, folder: Path) -> tuple[float, float, list[Move]]:
    """Move every table; returns seconds of the snapshot, seconds of the moves, and the moves."""
    started = time.perf_counter()
    with (
        Target.connect(url, shown="bench") as target,
        SourceViews(lambda: source, folder / "runs", name="bench") as views,
    ):
        snapshot = views.copy(metadata.sorted_tables, target=target).snapshot
        moves = list(_run(views, target, Everything()))
    return snapshot.seconds, time.perf_counter() - started - snapshot.seconds, moves


def _run(views: SourceViews, target: Target, scope: Scope) -> Iterator[Move]:
    tables, options = metadata.sorted_tables, MoveOptions("bench")
    return engine.run(tables, views, target, PUBLIC, scope, options)


def verify_all(source: Path, url: str, folder: Path) -> float:
    """Check every value of what is committed; returns seconds, those of the snapshot aside."""
    tables = metadata.sorted_tables
    opened = Source(take_snapshot(source, folder / "snapshot.db", tables=tables))
    everything = Sample(bytes=2**62, seed=0)
    started = time.perf_counter()
    with Target.connect(url, shown="bench") as target:
        for table in tables:
            with target.read_only():
                found = verify_table(
                    prepare(table, opened), source=opened, target=target, sample=everything
                )
            failed = [check.name for check in found if check.blocking and not check.passed]
            if failed:
                raise SystemExit(f"{table.name}: {', '.join(failed)} failed")
    return time.perf_counter() - started


def sync_after(source: Path, url: str, folder: Path) -> dict[str, float]:
    """Seconds of syncs, connecting included."""
    tables = metadata.sorted_tables
    copy = folder / "source.db"
    found = {}
    for way, tracked in (("sync", False), ("sync, tracked", True)):
        shutil.copyfile(source, copy)
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        if tracked:
            tracking.switch_on(copy, tables)
        move_all(copy, url, folder)
        _settle(url)
        _sync(copy, url, folder)
        found[f"{way}, nothing changed"] = _sync(copy, url, folder)
        _change(copy, rows=1_000)
        found[f"{way}, 1,000 changes"] = _sync(copy, url, folder)
    return found


class _Views(SourceViews):
    """Views of the source; the application writes until the last moment before it is frozen."""

    before_freeze = True

    def release(self) -> None:
        """Let the source go, and then write, once the live file had been pinned."""
        asked = self._live is not None
        super().release()
        if asked and self.before_freeze:
            self.before_freeze = False
            _change(self._locate(), rows=1_000)


def cut_over(source: Path, url: str, folder: Path) -> dict[str, float]:
    """Seconds of a cut-over, of which nobody could write, and of the way back."""
    copy, tables = folder / "source.db", metadata.sorted_tables
    shutil.copyfile(source, copy)
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    move_all(copy, url, folder)
    _settle(url)
    with Target.connect(url, shown="bench") as target, target.lock():
        site = Site(
            copy,
            _Views(lambda: copy, folder / "runs", name="cutover"),
            target,
            "content",
            tables,
            MoveOptions("bench", delete_share=1),
            log=lambda _: None,
        )
        started = time.perf_counter()
        outcome = go_live(site, outside=())
        whole = time.perf_counter() - started
        if outcome.state != "live" or outcome.caught_up != 1_000:
            raise SystemExit(f"it is {outcome.state}, {outcome.caught_up} rows were caught up")
        with target.transaction():
            for table in tables:
                target.run(
                    f"UPDATE {table.name} SET {TableRules.of(table).changed_by} = now() WHERE id IN"
                    f" (SELECT id FROM {table.name} ORDER BY md5(id::text) LIMIT 250)"
                )
        started = time.perf_counter()
        returned = roll_back(site, folder)
        back = time.perf_counter() - started
        if sum(table.updated for table in returned) != 1_000:
            raise SystemExit(f"{sum(table.updated for table in returned)} rows came back")
    return {
        "cut-over, 1,000 changes": whole,
        "cut-over, writes blocked": outcome.blocked_seconds or 0.0,
        "way back, 1,000 changes": back,
    }


def _settle(url: str) -> None:
    """Wait until a write would show in the file's time, and what was moved is on the disk."""
    with closing(session.connect(url, shown="the target")) as connection:
        connection.cursor().execute("CHECKPOINT")
    time.sleep(1.1)


def _change(source: Path, *, rows: int) -> None:
    """Date rows anew, as many in each table, spread evenly over the keys."""
    tables = metadata.sorted_tables
    with closing(sqlite3.connect(source)) as connection, connection:
        for table in tables:
            (last,) = connection.execute(f"SELECT max(id) FROM {table.name}").fetchone()
            step = max(1, last // (rows // len(tables)))
            keys = [(key,) for key in range(1, last + 1, step)][: rows // len(tables)]
            connection.executemany(
                f"UPDATE {table.name} SET {TableRules.of(table).changed_by} ="
                " '2030-01-01 00:00:00.000001' WHERE id = ?",
                keys,
            )


def _sync(source: Path, url: str, folder: Path) -> float:
    started = time.perf_counter()
    with (
        Target.connect(url, shown="bench") as target,
        SourceViews(lambda: source, folder / "runs", name="sync") as views,
    ):
        list(_run(views, target, Changes(or_everything=False)))
    return time.perf_counter() - started


def main(way: str, source: Path, url: str) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=source.parent) as name:
        folder = Path(name)
        if way == "load":
            setattr(engine, "Mover", InTurn)  # noqa: B010
            _, first, moves = move_all(source, url, folder)
            found = {"engine, load": first - sum(move.seconds["prove"] for move in moves)}
        elif way == "sync":
            found = sync_after(source, url, folder)
        elif way == "cutover":
            found = cut_over(source, url, folder)
        else:
            snapshot, first, _ = move_all(source, url, folder)
            again_snapshot, again, _ = move_all(source, url, folder)
            verified = verify_all(source, url, folder)
            found = {
                "snapshot": snapshot,
                "engine, load and proof": first,
                "snapshot, again": again_snapshot,
                "engine, again": again,
                "verify": verified,
            }
    print(json.dumps(found | {"peak_mib": peak_mib()}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
