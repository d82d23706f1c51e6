"""What was measured, against its goals: a table for people and `results.json` for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

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
"""What a schedule every few minutes can bear; on a source ten times as large, half more;
and how long an application may wait for its cut-over."""
RATIO_AIMS = {"engine, load": 1.25}
ENGINE_PEAK_MIB = 400.0


@dataclass(frozen=True)
class Sample:
    """One measurement of one way; the peak is None where no process had it to itself."""

    workload: str
    way: str
    seconds: float
    peak_mib: float | None


@dataclass(frozen=True)
class Result:
    """One way over all rounds: median seconds, its ratio to the limit's, largest peak memory."""

    workload: str
    way: str
    seconds: float | None
    ratio_to_limit: float | None
    peak_mib: float | None


@dataclass(frozen=True)
class Remark:
    """Why a way has no number; `failed` when that is a fault of the benchmark or the engine."""

    workload: str
    way: str
    reason: str
    failed: bool


@dataclass(frozen=True)
class Verdict:
    """A goal in words and whether it holds; None when what it compares with was not measured."""

    goal: str
    holds: bool | None


def summarize(samples: Sequence[Sample], remarks: Sequence[Remark]) -> list[Result]:
    """Give one result for each workload and way, workloads as they ran, ways as in `WAYS`."""
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
        results.append(Result(workload, way, taken, ratio, max(peaks, default=None)))
    return results


def verdicts(result: Result, results: Sequence[Result]) -> list[Verdict]:
    """Judge one result by the goals that apply to it."""
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
    if result.way == "pipeline migrate":
        found.append(Verdict("< pgloader", _beats_pgloader(result, results)))
    return found


def show(
    console: Console, results: Sequence[Result], remarks: Sequence[Remark], *, title: str
) -> None:
    """Print one table per workload, and below it why some ways have no number."""
    for workload in dict.fromkeys(result.workload for result in results):
        table = Table(title=f"{workload}, {title}", box=box.SIMPLE_HEAD, title_justify="left")
        table.add_column("way", no_wrap=True)
        for heading in ("median s", "ratio", "peak MiB"):
            table.add_column(heading, justify="right")
        table.add_column("goal", no_wrap=True)
        table.add_column("holds")
        for result in results:
            if result.workload == workload:
                judged = verdicts(result, results)
                table.add_row(
                    result.way,
                    _number(result.seconds, ".2f"),
                    _number(result.ratio_to_limit, ".2f"),
                    _number(result.peak_mib, ".0f"),
                    "\n".join(verdict.goal for verdict in judged),
                    "\n".join(_HOLDS[verdict.holds] for verdict in judged),
                )
        console.print(table)
        for remark in remarks:
            if remark.workload == workload:
                mark = "failed: " if remark.failed else ""
                console.print(f"  {remark.way}: {mark}{remark.reason}", markup=False)


def write(path: Path, results: Sequence[Result]) -> None:
    """Write the results as a JSON list of objects, null where nothing was measured."""
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
    """Compare with pgloader's faster setting on the same workload."""
    rivals = [
        other.seconds
        for other in results
        if other.way.startswith("pgloader")
        and other.workload == result.workload
        and other.seconds is not None
    ]
    return result.seconds < min(rivals) if rivals and result.seconds is not None else None


def _median(samples: Sequence[Sample], key: tuple[str, str]) -> float | None:
    seconds = [sample.seconds for sample in samples if (sample.workload, sample.way) == key]
    return median(seconds) if seconds else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
