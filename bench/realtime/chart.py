"""Write the measurements as a self-contained HTML page with three SVG charts."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from bench.realtime.result import WAYS, Goal, Measured, Outcome
from pipeline.core import private

_TOP, _BOTTOM = 20.0, 230.0
_WIDTH = 46.0
Values = tuple[float, float | None, float]
"""The low value of a bar, its marked value and its high value."""
Scale = tuple[Sequence[float], Callable[[float], float]]
"""Round values for grid lines, and a function that maps values to positions from 0 to 1."""

PAGE = "realtime-bench.html"


@dataclass(frozen=True)
class Bar:
    """A bar from a low to a high value with a mark between them, as heights in the plot."""

    way: str
    x: float
    low: float
    mark: float | None
    high: float
    label: str


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        title: with the unit.
        lines: heights and labels of grid lines.
        bars: two for each number of subscribers.
        groups: positions and labels of the numbers of subscribers.
    """

    title: str
    lines: tuple[tuple[float, str], ...]
    bars: tuple[Bar, ...]
    groups: tuple[tuple[float, str], ...]
    width: float


def write(outcome: Outcome, reports: Path) -> Path:
    """Write the page and a JSON file into a new folder; returns the path of the page."""
    now = datetime.now(UTC)
    folder = reports / f"realtime-bench-{now:%Y%m%d-%H%M%S-%f}"
    private.folder(folder)
    private.write_text(folder / "realtime.json", json.dumps(outcome.as_json(), indent=2) + "\n")
    page = folder / PAGE
    private.write_text(page, _render(outcome, now))
    return page


def rows(outcome: Outcome) -> list[dict[str, str]]:
    """A row of text for each measurement."""
    return [_row(each) for each in outcome.measured]


def goals(outcome: Outcome) -> list[dict[str, str]]:
    """A row of text for each goal."""
    return [
        {
            "goal": goal.what,
            "subscribers": goal.subscribers,
            "measured": _number(goal.value),
            "at most": _number(goal.most),
            "reached": "yes" if goal.reached else "no",
        }
        for goal in outcome.goals
    ]


def _row(measured: Measured) -> dict[str, str]:
    cpu, writing = measured.cpu, measured.cpu_writing
    return {
        "way": measured.way,
        "subscribers": f"{measured.subscribers:,}",
        "p50 ms": f"{measured.p50_ms:,.0f}",
        "p95 ms": f"{measured.p95_ms:,.0f}",
        "p99 ms": f"{measured.p99_ms:,.0f}",
        "wire KiB/s": f"{measured.wire / 1024:,.1f}",
        "JSON KiB/s": f"{measured.json / 1024:,.1f}",
        "CPU ms/s": "unknown" if cpu is None else f"{cpu:.1f}",
        "of it writing": "unknown" if writing is None else f"{writing:.1f}",
        "commits per s": f"{measured.transactions:.0f}",
        "rows due": f"{measured.expected:,}",
        "missed": f"{measured.missed:,}",
        "duplicates": f"{measured.duplicates:,}",
        "cuts": str(measured.cuts),
        "hints lost": str(measured.hints_lost),
    }


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.2f}"


def _render(outcome: Outcome, now: datetime) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.realtime"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    reached: Sequence[Goal] = [goal for goal in outcome.goals if goal.reached]
    return environment.get_template("page.html.j2").render(
        outcome=outcome,
        when=f"{now:%Y-%m-%d %H:%M} UTC",
        reached=len(reached),
        plots=list(_plots(outcome)),
        rows=rows(outcome),
        goals=goals(outcome),
        heights={"top": _TOP, "bottom": _BOTTOM},
    )


def _plots(outcome: Outcome) -> Iterator[Plot]:
    measured = outcome.measured
    times = [(each.p50_ms, each.p95_ms, each.p99_ms) for each in measured]
    title = "Time from commit to callback, logarithmic: p50 to p99, p95 marked"
    yield _plot(title, measured, times, _logarithmic(times), _time)
    sizes = [(0.0, None, each.bytes) for each in measured]
    title = "Bytes per second, on the wire and to subscribers"
    yield _plot(title, measured, sizes, _linear(sizes), _size)
    loads = [(0.0, None, each.load) for each in measured]
    known = all(each.cpu is not None for each in measured)
    title = "CPU of the server, ms per second" if known else "Commits of the server per second"
    yield _plot(title, measured, loads, _linear(loads), _plain)


def _logarithmic(values: Sequence[Values]) -> Scale:
    """A scale between two powers of ten."""
    first = math.floor(math.log10(max(min(low for low, _, _ in values), 1e-3)))
    last = max(first + 1, math.ceil(math.log10(max(1e-3, *(high for _, _, high in values)))))
    lines = [10.0**power for power in range(first, last + 1)]
    return lines, lambda value: (math.log10(max(value, lines[0])) - first) / (last - first)


def _linear(values: Sequence[Values]) -> Scale:
    """A scale from 0 to a round number."""
    most = max(high for _, _, high in values) or 1.0
    step = 10.0 ** math.floor(math.log10(most))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if most <= 5 * step * part)
    lines = [step * number for number in range(math.ceil(most / step) + 1)]
    return lines, lambda value: value / lines[-1]


def _plot(
    title: str,
    measured: Sequence[Measured],
    values: Sequence[Values],
    scale: Scale,
    label: Callable[[float], str],
) -> Plot:
    lines, share = scale

    def height(value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * share(value), 1)

    numbers = sorted({each.subscribers for each in measured})
    positions = {number: 60 + index * 3 * _WIDTH for index, number in enumerate(numbers)}
    bars = [
        Bar(
            each.way,
            positions[each.subscribers] + WAYS.index(each.way) * _WIDTH,
            height(low),
            None if mark is None else height(mark),
            height(high),
            label(high if mark is None else mark),
        )
        for each, (low, mark, high) in zip(measured, values, strict=True)
    ]
    return Plot(
        title,
        tuple((height(line), label(line)) for line in lines),
        tuple(bars),
        tuple((x + _WIDTH, f"{number:,}") for number, x in positions.items()),
        60 + len(numbers) * 3 * _WIDTH,
    )


def _time(value: float) -> str:
    return f"{value / 1000:.3g} s" if value >= 1000 else f"{value:.3g} ms"


def _size(value: float) -> str:
    return f"{value / 1000:.3g} kB" if value >= 1000 else f"{value:.3g} B"


def _plain(value: float) -> str:
    return f"{value:.3g}"
