"""Compare measurements with goals: a table for people and `results.json` for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from bench.workloads import SCHEMA_TABLES

WAYS = (
    "limit",
    "snapshot",
    "engine, load",
    "engine, load and proof",
    "snapshot, again",
    "engine, again",
    "verify",
    "sync, nothing changed",
    "sync, 1,000 changes",
    "sync, tracked, nothing changed",
    "sync, tracked, 1,000 changes",
    "cut-over, 1,000 changes",
    "cut-over, writes blocked",
    "way back, 1,000 changes",
    "pipeline migrate",
    "pipeline copy",
    "pgloader",
    "pgloader, tuned",
    "duckdb",
    "orm",
)
RATIO_GOALS = {
    ("rows", "engine, load"): 1.5,
    ("blobs", "engine, load"): 1.5,
    ("rows", "engine, load and proof"): 2.25,
    ("blobs", "engine, load and proof"): 2.5,
    ("rows", "engine, again"): 0.75,
    ("blobs", "engine, again"): 1.5,
    ("rows", "verify"): 2.0,
    ("blobs", "verify"): 2.0,
}
SECOND_GOALS = {
    "sync, nothing changed": 0.3,
    "sync, 1,000 changes": 1.0,
    "sync, tracked, nothing changed": 0.3,
    "sync, tracked, 1,000 changes": 1.0,
    "cut-over, writes blocked": 2.0,
}
"""Limits for a schedule that runs every few minutes (half more for a source ten times as large),
and for the time that a cut-over blocks writes."""
RATIO_AIMS = {"engine, load": 1.25}
ENGINE_PEAK_MIB = 400.0
TABLE_CPU = 0.020 * SCHEMA_TABLES
"""CPU seconds of `pipeline copy` and the server for the workload *schema*."""


@dataclass(frozen=True)
class Sample:
    """One measurement of one way; the peak is None if it cannot be attributed to one process."""

    workload: str
    way: str
    seconds: float
    peak_mib: float | None
    client_cpu: float | None = None
    server_cpu: float | None = None


@dataclass(frozen=True)
class Result:
    """One way over all rounds: median seconds, ratio to the limit, largest peak memory.

    Attributes:
        client_cpu: median CPU seconds of the program.
        server_cpu: median CPU seconds of all processes of the server meanwhile.
    """

    workload: str
    way: str
    seconds: float | None
    ratio_to_limit: float | None
    peak_mib: float | None
    client_cpu: float | None = None
    server_cpu: float | None = None

    @property
    def cpu(self) -> float | None:
        """CPU seconds of the program and the server."""
        if self.client_cpu is None or self.server_cpu is None:
            return None
        return self.client_cpu + self.server_cpu


@dataclass(frozen=True)
class Remark:
    """Why a way has no result; `failed` if the benchmark or the engine caused that."""

    workload: str
    way: str
    reason: str
    failed: bool


@dataclass(frozen=True)
class Verdict:
    """A goal in words and whether it is reached; None if it could not be evaluated."""

    goal: str
    holds: bool | None


def summarize(samples: Sequence[Sample], remarks: Sequence[Remark]) -> list[Result]:
    """One result for each workload and way, in the order of the run and of `WAYS`."""
    keys = dict.fromkeys(
        [(sample.workload, sample.way) for sample in samples]
        + [(remark.workload, remark.way) for remark in remarks]
    )
    workloads = list(dict.fromkeys(workload for workload, _ in keys))
    seconds = {key: _median(samples, key) for key in keys}
    results = []
    for workload, way in sorted(
        keys, key=lambda key: (workloads.index(key[0]), WAYS.index(key[1]))
    ):
        taken, limit = seconds[workload, way], seconds.get((workload, "limit"))
        ratio = taken / limit if taken is not None and limit is not None else None
        peaks = [
            sample.peak_mib
            for sample in samples
            if (sample.workload, sample.way) == (workload, way) and sample.peak_mib is not None
        ]
        cpu = (_median(samples, (workload, way), each) for each in ("client_cpu", "server_cpu"))
        results.append(Result(workload, way, taken, ratio, max(peaks, default=None), *cpu))
    return results


def verdicts(result: Result, results: Sequence[Result]) -> list[Verdict]:
    """Evaluate the goals of one result."""
    found = []
    goal = RATIO_GOALS.get((result.workload, result.way))
    if goal is not None:
        aim = RATIO_AIMS.get(result.way)
        words = f"≤ {goal}" + (f" (aim {aim})" if aim is not None else "")
        ratio = result.ratio_to_limit
        found.append(Verdict(words, None if ratio is None else ratio <= goal))
    if result.way == "engine, load and proof":
        peak = result.peak_mib
        words = f"peak ≤ {ENGINE_PEAK_MIB:g} MiB"
        found.append(Verdict(words, None if peak is None else peak <= ENGINE_PEAK_MIB))
    if result.way in SECOND_GOALS and result.workload == "rows":
        goal = SECOND_GOALS[result.way]
        taken = result.seconds
        found.append(Verdict(f"≤ {goal:g} s", None if taken is None else taken <= goal))
    if result.way == "pipeline copy" and result.workload == "schema":
        words = f"≤ {TABLE_CPU:g} s CPU"
        found.append(Verdict(words, None if result.cpu is None else result.cpu <= TABLE_CPU))
    if result.way in ("pipeline migrate", "pipeline copy"):
        found.append(Verdict("< pgloader", _beats_pgloader(result, results)))
    return found


def show(
    console: Console, results: Sequence[Result], remarks: Sequence[Remark], *, title: str
) -> None:
    """Print one table per workload, followed by the reasons for missing results."""
    for workload in dict.fromkeys(result.workload for result in results):
        table = Table(title=f"{workload}, {title}", box=box.SIMPLE_HEAD, title_justify="left")
        table.add_column("way", no_wrap=True)
        for heading in ("median s", "ratio", "CPU s", "peak MiB"):
            table.add_column(heading, justify="right")
        table.add_column("goal", no_wrap=True)
        table.add_column("reached")
        for result in results:
            if result.workload == workload:
                judged = verdicts(result, results)
                table.add_row(
                    result.way,
                    _number(result.seconds, ".2f"),
                    _number(result.ratio_to_limit, ".2f"),
                    _number(result.cpu, ".2f"),
                    _number(result.peak_mib, ".0f"),
                    "\n".join(verdict.goal for verdict in judged),
                    "\n".join(_HOLDS[verdict.holds] for verdict in judged),
                )
        console.print(table)
        for remark in remarks:
            if remark.workload == workload:
                mark = "failed: " if remark.failed else ""
                console.print(f"  {remark.way}: {mark}{remark.reason}", markup=False)


def show_pairs(console: Console, samples: Sequence[Sample]) -> None:
    """Print how `pipeline copy` compares with pgloader in the same round."""
    for workload in dict.fromkeys(sample.workload for sample in samples):
        ours = _seconds(samples, (workload, "pipeline copy"))
        for rival in ("pgloader", "pgloader, tuned"):
            theirs = _seconds(samples, (workload, rival))
            # A way that fails is not tried again, so pairs are of the same round.
            ratios = [one / other for one, other in zip(ours, theirs, strict=False)]
            if ratios:
                words = f"{median(ratios):.2f} of the time of {rival} (median of pairs;"
                ends = f"{min(ratios):.2f} to {max(ratios):.2f})"
                console.print(f"{workload}: pipeline copy, proof included, takes {words} {ends}")


def write(path: Path, results: Sequence[Result]) -> None:
    """Write the results as a JSON list of objects, null for missing values."""
    rounded = [
        {
            key: round(value, 3) if isinstance(value, float) else value
            for key, value in asdict(result).items()
        }
        for result in results
    ]
    path.write_text(json.dumps(rounded, indent=2) + "\n")


_HOLDS = {True: "[green]yes[/]", False: "[red]no[/]", None: "-"}


def _beats_pgloader(result: Result, results: Sequence[Result]) -> bool | None:
    """Compare with the faster of pgloader's configurations on the same workload."""
    rivals = [
        other.seconds
        for other in results
        if other.way.startswith("pgloader")
        and other.workload == result.workload
        and other.seconds is not None
    ]
    return result.seconds < min(rivals) if rivals and result.seconds is not None else None


def _seconds(samples: Sequence[Sample], key: tuple[str, str], what: str = "seconds") -> list[float]:
    found = [getattr(each, what) for each in samples if (each.workload, each.way) == key]
    return [value for value in found if value is not None]


def _median(samples: Sequence[Sample], key: tuple[str, str], what: str = "seconds") -> float | None:
    values = _seconds(samples, key, what)
    return median(values) if values else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
