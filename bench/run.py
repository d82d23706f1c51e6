"""Measure every way on all workloads in one run: `python -m bench.run`, or `make bench`.

Rounds are interleaved (round 1 of all ways, then round 2 of all), so that variations of the machine
affect all equally. Each measurement has an empty database, a checkpoint just before it and its own
process, and is valid only if all rows arrived. Exit code 1 means that a way of this project failed;
if another program fails or loses rows, the report says so.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
from rich.console import Console

from bench.encoded import encode, encoded_file
from bench.report import Remark, Sample, show, show_pairs, summarize, write
from bench.server import Fresh, bench_server, server_seconds
from bench.target import TABLES
from bench.ways import Failed, Unavailable, all_tables, last_line
from bench.workloads import source_of

ROOT = Path(__file__).resolve().parent.parent
WORKLOADS = ("rows", "blobs", "schema")
LABELS = {
    "limit": "limit",
    "load": "engine, load",
    "engine": "engine, load and proof",
    "sync": "sync",
    "cutover": "cut-over",
    "migrate": "pipeline migrate",
    "copy": "pipeline copy",
    "pgloader": "pgloader",
    "pgloader-tuned": "pgloader, tuned",
    "duckdb": "duckdb",
    "orm": "orm",
}
FOREIGN_PROGRAMS = {"pgloader", "pgloader-tuned"}
ONLY_ON = {"migrate": "rows"}
WITHOUT_LIMIT = {"schema": ("copy", "pgloader")}
"""Workloads without the four tables, and the ways that move any tables."""
ONCE = {"orm"}
ORM_LARGEST_SCALE = 1.0
ENGINE = {
    "load": {"engine, load"},
    "engine": {"snapshot", "engine, load and proof", "snapshot, again", "engine, again", "verify"},
    "sync": {
        "sync, nothing changed",
        "sync, 1,000 changes",
        "sync, tracked, nothing changed",
        "sync, tracked, 1,000 changes",
    },
    "cutover": {
        "cut-over, 1,000 changes",
        "cut-over, writes blocked",
        "way back, 1,000 changes",
    },
}
"""The measurements of each way of this engine."""


class Incomplete(Exception):
    """Rows are missing although a way ended without an error."""


def main() -> int:
    """Run the benchmark, print the tables and write the results."""
    arguments = _arguments()
    console = Console()
    samples: list[Sample] = []
    remarks: list[Remark] = []
    with bench_server() as fresh:
        for workload in arguments.workload:
            console.print(f"{workload}: preparing the source", style="dim")
            source = _prepared(workload, arguments.scale, fresh)
            for entry in _rounds(source, workload, arguments, fresh):
                if isinstance(entry, Remark):
                    remarks.append(entry)
                    words = entry.reason
                else:
                    samples.append(entry)
                    words = f"{entry.seconds:.2f} s"
                console.print(f"{workload}: {entry.way}: {words}", style="dim", markup=False)
    results = summarize(samples, remarks)
    title = f"scale {arguments.scale:g}, median of {arguments.rounds}"
    show(console, results, remarks, title=title)
    show_pairs(console, samples)
    write(arguments.out, results)
    return 1 if any(remark.failed for remark in remarks) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=main.__doc__)
    scale = float(os.environ.get("SCALE") or 1)
    parser.add_argument("--scale", type=float, default=scale, help="size of the sources, or SCALE")
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument(
        "--rounds", type=int, default=3, help="of all ways except orm, which runs once"
    )
    parser.add_argument("--ways", help=f"comma-separated list of {', '.join(LABELS)}")
    parser.add_argument(
        "--skip-orm",
        action="store_true",
        help="it takes minutes; skipped above scale 1 anyway",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results.json")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.scale <= 0:
        parser.error("--rounds must be at least 1 and --scale above 0")
    too_large = arguments.scale > ORM_LARGEST_SCALE and arguments.ways is None
    arguments.ways = arguments.ways.split(",") if arguments.ways else list(LABELS)
    if unknown := set(arguments.ways) - set(LABELS):
        parser.error(f"unknown ways: {', '.join(sorted(unknown))}")
    if arguments.skip_orm or too_large:
        arguments.ways = [way for way in arguments.ways if way != "orm"]
    return arguments


def _prepared(workload: str, scale: float, fresh: Fresh) -> Path:
    source = source_of(workload, scale)
    if workload not in WITHOUT_LIMIT and not encoded_file(source, TABLES[0]).exists():
        encode(source, fresh())
    return source


def _rounds(
    source: Path, workload: str, arguments: argparse.Namespace, fresh: Fresh
) -> Iterator[Sample | Remark]:
    """Run all rounds of one workload; a way that fails is not tried again."""
    able = WITHOUT_LIMIT.get(workload, arguments.ways)
    ways = [w for w in arguments.ways if w in able and ONLY_ON.get(w, workload) == workload]
    for number in range(arguments.rounds):
        for way in list(ways):
            if number > 0 and way in ONCE:
                continue
            try:
                yield from _measure(way, source, workload, fresh())
            except (Unavailable, Incomplete, Failed) as error:
                ways.remove(way)
                failed = not isinstance(error, Unavailable) and way not in FOREIGN_PROGRAMS
                prefix = "not available: " if isinstance(error, Unavailable) else ""
                yield Remark(workload, _label(way), prefix + str(error), failed)


def _label(way: str) -> str:
    """The label for a failure of a way in the report."""
    return min(ENGINE[way]) if way in ENGINE else LABELS[way]


def _measure(way: str, source: Path, workload: str, url: str) -> list[Sample]:
    """Run one way once in a child process.

    Raises:
        Unavailable: the tool is not installed.
        Failed: the child process ended with an error, or created no table.
        Incomplete: rows are missing in the target.
    """
    before = server_seconds()
    if way in ENGINE:
        samples = _engine_samples(way, workload, child("bench.engine", way, str(source), url))
    else:
        answer = child("bench.ways", way, str(source), url)
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        after = server_seconds()
        server = None if before is None or after is None else after - before
        cpu = (answer["cpu_seconds"], server)
        samples = [Sample(workload, LABELS[way], answer["seconds"], answer["peak_mib"], *cpu)]
    require_all_rows(source, url, samples[0].seconds)
    return samples


def _engine_samples(way: str, workload: str, answer: dict[str, float]) -> list[Sample]:
    if missing := ENGINE[way] - answer.keys():
        raise Failed(f"bench.engine did not print {', '.join(sorted(missing))}")
    return [Sample(workload, name, answer[name], answer["peak_mib"]) for name in ENGINE[way]]


def child(*arguments: str, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a module in a process of its own, and return what it prints.

    Raises:
        Failed: the process ended with an error, or its last line is not JSON.
    """
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(last_line(done.stderr) or f"exit code {done.returncode}")
    try:
        answer: dict[str, Any] = json.loads(last_line(done.stdout))
    except ValueError as error:
        raise Failed(f"the last line of {arguments[0]} is not JSON") from error
    return answer


def require_all_rows(source: Path, url: str, seconds: float) -> None:
    """Compare the numbers of rows.

    Raises:
        Incomplete: rows are missing in the target.
        Failed: a table is missing there.
    """
    with (
        closing(sqlite3.connect(source)) as reader,
        closing(psycopg2.connect(url)) as target,
        target.cursor() as cursor,
    ):
        for name in all_tables(source):
            count = f"SELECT count(*) FROM {name}"
            try:
                cursor.execute(count)
            except psycopg2.Error as error:
                raise Failed(last_line(str(error).partition("\n")[0])) from error
            (moved,) = cursor.fetchone() or (0,)
            (rows,) = reader.execute(count).fetchone()
            if moved != rows:
                raise Incomplete(f"moved {moved:,} of {rows:,} rows of {name}, in {seconds:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
