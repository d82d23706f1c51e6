"""Benchmark the engine alone: the first move of a source, a second move, syncs and a cut-over.

usage: python -m bench.engine load|engine|sync|cutover SOURCE URL

Prints seconds by operation as one line of JSON.
``engine`` moves like a run, moves again, and checks the committed rows like ``verify``.
``load`` does not fill tables ahead of their turn, so the seconds of the proof can be subtracted:
the rest is the first move without reading and comparing both sides again.
``sync`` moves a copy of the source, then syncs the target: without changes, then with a thousand
changed rows, a quarter in each table; first by dates and sizes, then with a tracked source.
``cutover`` moves a copy of the source, cuts over while a thousand rows are written before the
freeze, writes a thousand rows to the target, and rolls back.
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
from pipeline.cutover.steps import CutoverContext, go_live
from pipeline.declared.rules import TableRules
from pipeline.migrations.content import metadata
from pipeline.move import engine
from pipeline.move.context.options import MoveOptions
from pipeline.move.proof.verification import Sample, verify_table
from pipeline.move.reading.prepare import prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.run.mover import FullMover
from pipeline.move.run.scope import ChangesOnly, Everything, Scope
from pipeline.move.run.transaction import MoveResult
from pipeline.move.run.views import SourceViews
from pipeline.postgres import session
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking
from pipeline.sqlite.snapshot import take_snapshot


class InTurn(FullMover):
    """A mover that does not fill a table before its turn."""

    def _start_fill(self, *_: object) -> None:
        return None


def move_all(source: Path, url: str, folder: Path) -> tuple[float, float, list[MoveResult]]:
    """Move all tables; returns seconds of the snapshot, seconds of the moves, and the moves."""
    started = time.perf_counter()
    with (
        Target.connect(url, shown="bench") as target,
        SourceViews(lambda: source, folder / "runs", name="bench") as views,
    ):
        snapshot = views.copy(metadata.sorted_tables, target=target).snapshot
        moves = list(_run(views, target, Everything()))
    return snapshot.seconds, time.perf_counter() - started - snapshot.seconds, moves


def _run(views: SourceViews, target: Target, scope: Scope) -> Iterator[MoveResult]:
    tables, options = metadata.sorted_tables, MoveOptions("bench")
    return engine.run(tables, views, target, PUBLIC, scope, options)


def verify_all(source: Path, url: str, folder: Path) -> float:
    """Check every committed value; returns seconds without those of the snapshot."""
    tables = metadata.sorted_tables
    opened = SourceView(take_snapshot(source, folder / "snapshot.db", tables=tables))
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
    """Seconds of syncs, including the connection."""
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
        _wait_for_disk(url)
        _sync(copy, url, folder)
        found[f"{way}, nothing changed"] = _sync(copy, url, folder)
        _change(copy, rows=1_000)
        found[f"{way}, 1,000 changes"] = _sync(copy, url, folder)
    return found


class _Views(SourceViews):
    """Views of the source; an application writes to it just before the freeze."""

    before_freeze = True

    def release(self) -> None:
        """Release the source; the first time that the live file was pinned, then write to it."""
        pinned = self._live is not None
        super().release()
        if pinned and self.before_freeze:
            self.before_freeze = False
            _change(self._locate(), rows=1_000)


def cut_over(source: Path, url: str, folder: Path) -> dict[str, float]:
    """Seconds of a cut-over, of blocked writes during it, and of the rollback."""
    copy, tables = folder / "source.db", metadata.sorted_tables
    shutil.copyfile(source, copy)
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    move_all(copy, url, folder)
    _wait_for_disk(url)
    with Target.connect(url, shown="bench") as target, target.lock():
        site = CutoverContext(
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
        total = time.perf_counter() - started
        if outcome.state != "live" or outcome.caught_up != 1_000:
            raise SystemExit(
                f"The cut-over ended in state {outcome.state} with {outcome.caught_up} synced rows,"
                " not in state live with 1,000"
            )
        with target.transaction():
            for table in tables:
                target.run(
                    f"UPDATE {table.name} SET {TableRules.of(table).changed_by} = now() WHERE id IN"
                    f" (SELECT id FROM {table.name} ORDER BY md5(id::text) LIMIT 250)"
                )
        started = time.perf_counter()
        returned = roll_back(site, folder)
        back = time.perf_counter() - started
        if (rows := sum(table.updated for table in returned)) != 1_000:
            raise SystemExit(f"The rollback updated {rows} rows, not 1,000")
    return {
        "cut-over, 1,000 changes": total,
        "cut-over, writes blocked": outcome.blocked_seconds or 0.0,
        "way back, 1,000 changes": back,
    }


def _wait_for_disk(url: str) -> None:
    """Wait until moved rows are on disk, and until a write would change the file's timestamp."""
    with closing(session.connect(url, shown="the target")) as connection:
        connection.cursor().execute("CHECKPOINT")
    time.sleep(1.1)


def _change(source: Path, *, rows: int) -> None:
    """Update the dates of rows, the same number in each table, evenly spread over the keys."""
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
        list(_run(views, target, ChangesOnly(or_everything=False)))
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
