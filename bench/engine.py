"""The engine alone: the first move of a source, then the move again with nothing changed.

usage: python -m bench.engine SOURCE URL

Prints one line of JSON. ``load_seconds`` is the whole of the first move but its proof:
``proof_seconds`` is what re-reading and comparing both sides took inside the transactions.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from bench.memory import peak_mib
from pipeline.move.extract import Source
from pipeline.move.mover import Move, move_table
from pipeline.move.prepare import Preparer
from pipeline.move.snapshot import take_snapshot
from pipeline.move.target import Target
from pipeline.tables.content import metadata


def move_all(source: Path, url: str, folder: Path) -> tuple[float, float, list[Move]]:
    """Move every table; returns seconds of the snapshot, seconds of the moves, and the moves."""
    tables = metadata.sorted_tables
    snapshot = take_snapshot(source, folder / "snapshot.db", tables=tables)
    started = time.perf_counter()
    moves = []
    opened = Source(snapshot)
    with Preparer.over(opened) as preparer, Target.connect(url, shown="bench") as target:
        for at, table in enumerate(tables):
            prepared = preparer.prepared(table, upcoming=tables[at + 1 :])
            moves.append(move_table(prepared, source=opened, target=target, run_id="bench"))
    return snapshot.seconds, time.perf_counter() - started, moves


def main() -> None:
    """Measure and print."""
    source, url = Path(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        snapshot, first, moves = move_all(source, url, Path(folder))
        again_snapshot, again, _ = move_all(source, url, Path(folder))
    proof = sum(move.seconds["prove"] for move in moves)
    print(
        json.dumps(
            {
                "snapshot_seconds": snapshot,
                "load_seconds": first - proof,
                "proof_seconds": proof,
                "again_snapshot_seconds": again_snapshot,
                "again_seconds": again,
                "peak_mib": peak_mib(),
            }
        )
    )


if __name__ == "__main__":
    main()
