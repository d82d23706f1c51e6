"""Measure whole programs against a server that is far away: `python -m bench.far`.

It is part of `make bench`. A relay on this machine delays and limits what passes between the
programs and the benchmark's own server, and counts it. Rounds are interleaved, and a measurement is
valid only if all rows arrived. The pipeline keeps its runs and events in a database that is near,
as a deployment does. Exit code 1 means that the pipeline failed; for other programs, the report
says so.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich import box
from rich.console import Console
from rich.table import Table

from bench.proxy import relay
from bench.report import Remark
from bench.run import FOREIGN_PROGRAMS, Incomplete, child, require_all_rows
from bench.server import Fresh, bench_server
from bench.ways import Failed, Unavailable
from bench.workloads import DATA, MAKERS, source_of
from pipeline.config.settings import libpq

OUT = Path(__file__).parent / "far.json"
STEPS = {
    "pipeline": ("migrate", "sync", "verify"),
    "pgloader": ("pgloader",),
    "pgloader-tuned": ("pgloader-tuned",),
    "duckdb": ("duckdb",),
}
"""What each way runs, one process after the other, on one database."""


@dataclass(frozen=True)
class Distance:
    """How far away the server is.

    Attributes:
        ms: of a round trip.
        mbit: per second in each direction; None for no limit.
    """

    ms: float
    mbit: float | None = None

    def __str__(self) -> str:
        """As it is shown."""
        return f"{self.ms:g} ms" + (f", {self.mbit:g} Mbit/s" if self.mbit else "")


DISTANCES = (Distance(0), Distance(20), Distance(50), Distance(50, 100))


@dataclass(frozen=True)
class Measurement:
    """What one program took; bytes are those of the connections, encryption excluded."""

    seconds: float
    connections: float
    round_trips: float
    sent: float
    received: float


@dataclass(frozen=True)
class Case:
    """What was measured."""

    workload: str
    distance: Distance
    way: str
    step: str


Measurements = dict[Case, list[Measurement]]


def main() -> int:
    """Run the benchmark, print the tables and write the results."""
    arguments = _arguments()
    console = Console()
    found: Measurements = {}
    remarks: dict[Case, Remark] = {}
    with bench_server() as fresh:
        for number in range(arguments.rounds):
            for case, entry in _round(arguments, fresh, skipped=remarks):
                if isinstance(entry, Remark):
                    remarks[case] = entry
                    words = entry.reason
                else:
                    found.setdefault(case, []).append(entry)
                    words = f"{entry.seconds:.2f} s, {entry.round_trips:,} round trips"
                line = f"{number + 1}: {case.workload}, {case.distance}: {case.step}: {words}"
                console.print(line, style="dim", markup=False, soft_wrap=True)
    medians = {case: _median(some) for case, some in found.items()}
    for workload in arguments.workload:
        _show(console, workload, medians, remarks, rounds=arguments.rounds)
    arguments.out.write_text(json.dumps(_as_json(medians, remarks), indent=2) + "\n")
    return 1 if any(remark.failed for remark in remarks.values()) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.far", description=__doc__)
    parser.add_argument("--scale", type=float, default=1, help="size of the sources")
    parser.add_argument(
        "--workload", nargs="+", choices=list(MAKERS), default=["application"], help="the sources"
    )
    parser.add_argument(
        "--ms",
        nargs="+",
        type=_distance,
        default=DISTANCES,
        help="lengths of a round trip, each with a limit if there is one: 0 20 50 50/100 for the"
        " last with 100 Mbit/s",
    )
    parser.add_argument("--ways", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--rounds", type=int, default=1, help="the median of them is the result")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.scale <= 0:
        parser.error("--rounds must be at least 1 and --scale above 0")
    return arguments


def _distance(text: str) -> Distance:
    ms, _, mbit = text.partition("/")
    return Distance(float(ms), float(mbit) if mbit else None)


def _round(
    arguments: argparse.Namespace, fresh: Fresh, *, skipped: dict[Case, Remark]
) -> Iterator[tuple[Case, Measurement | Remark]]:
    """Measure every way once; a way that failed is not tried again."""
    for workload in arguments.workload:
        source = source_of(workload, arguments.scale)
        for distance in arguments.ms:
            for way, steps in STEPS.items():
                cases = [Case(workload, distance, way, step) for step in steps]
                if way not in arguments.ways or skipped.keys() & set(cases):
                    continue
                done = 0
                try:
                    for measurement in _measure(source, distance, steps, fresh):
                        yield cases[done], measurement
                        done += 1
                except (Unavailable, Incomplete, Failed) as error:
                    failed = not isinstance(error, Unavailable) and way not in FOREIGN_PROGRAMS
                    prefix = "not available: " if isinstance(error, Unavailable) else ""
                    yield cases[done], Remark(workload, way, prefix + str(error), failed)


def _measure(
    source: Path, distance: Distance, steps: Sequence[str], fresh: Fresh
) -> Iterator[Measurement]:
    """Run programs one after the other on an empty database behind the relay.

    Raises:
        Unavailable: the tool is not installed.
        Failed: a program ended with an error, or created no table.
        Incomplete: rows are missing in the target.
    """
    runs, url = fresh("bench_runs"), fresh()
    bits = distance.mbit and distance.mbit * 1e6
    with (
        TemporaryDirectory(dir=DATA, prefix="home-") as home,
        relay(url, delay=distance.ms / 2_000, bits_per_second=bits) as proxy,
    ):
        there = libpq(proxy.url)
        variables = {"PIPELINE_HOME": home, "DAGSTER_DATABASE_URL": runs}
        for step in steps:
            answer = child("bench.ways", step, str(source), there, variables=variables)
            if "unavailable" in answer:
                raise Unavailable(answer["unavailable"])
            seconds, counts = answer["seconds"], proxy.taken()
            require_all_rows(source, url, seconds)
            yield Measurement(
                seconds, counts.connections, counts.round_trips, counts.sent, counts.received
            )


def _median(some: Sequence[Measurement]) -> Measurement:
    return Measurement(
        *(median(getattr(each, field.name) for each in some) for field in fields(Measurement))
    )


def _show(
    console: Console,
    workload: str,
    medians: dict[Case, Measurement],
    remarks: dict[Case, Remark],
    *,
    rounds: int,
) -> None:
    """Print the table of a workload, and why results are missing."""
    table = Table(
        title=f"{workload}, far away, median of {rounds}",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    table.add_column("round trip", no_wrap=True)
    table.add_column("program", no_wrap=True)
    for heading in ("s", "connections", "round\ntrips", "MiB\nsent", "MiB\nreceived"):
        table.add_column(heading, justify="right", no_wrap=True)
    for case, found in medians.items():
        if case.workload != workload:
            continue
        table.add_row(
            str(case.distance),
            f"pipeline {case.step}" if case.way == "pipeline" else case.step,
            f"{found.seconds:.2f}",
            f"{found.connections:,.0f}",
            f"{found.round_trips:,.0f}",
            f"{found.sent / 2**20:.2f}",
            f"{found.received / 2**20:.2f}",
        )
    console.print(table)
    for case, remark in remarks.items():
        if case.workload == workload:
            mark = "failed: " if remark.failed else ""
            console.print(f"  {case.distance}: {remark.way}: {mark}{remark.reason}", markup=False)


def _as_json(
    medians: dict[Case, Measurement], remarks: dict[Case, Remark]
) -> list[dict[str, object]]:
    results = [{**_names(case), **_rounded(found)} for case, found in medians.items()]
    return [
        *results,
        *({**_names(case), "reason": remark.reason} for case, remark in remarks.items()),
    ]


def _names(case: Case) -> dict[str, object]:
    return {"workload": case.workload, **asdict(case.distance), "way": case.way, "step": case.step}


def _rounded(found: Measurement) -> dict[str, object]:
    whole = {name: round(number) for name, number in asdict(found).items() if name != "seconds"}
    return {"seconds": round(found.seconds, 3), **whole}


if __name__ == "__main__":
    sys.exit(main())
