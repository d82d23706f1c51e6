"""Measure events against polling every 5 seconds: `python -m bench.realtime`, or `make bench`.

Scratch databases are created on the server of DATABASE_URL, or on the benchmark's own server. They
are dropped at the end, also after Ctrl-C; no table of the target is touched. The exit code is 1 if
events missed a row or delivered it twice.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import URL, make_url

from bench.realtime import chart, measure
from bench.server import bench_server
from pipeline.config import environment, settings
from pipeline.core.errors import PipelineError


def main(arguments: list[str] | None = None) -> int:
    """Measure, print two tables or JSON, and write a page."""
    given = _parse(arguments)
    messages = Console(stderr=given.json)
    try:
        plan = measure.Plan(tuple(given.subscribers), given.seconds, given.rate)
        reports = settings.load().reports
        with _server() as server:
            messages.print(f"target  {settings.shown(server)}, in scratch databases", markup=False)
            outcome = measure.run(server, plan, log=lambda line: messages.print(line, style="dim"))
    except PipelineError as error:
        Console(stderr=True).print(str(error), markup=False, soft_wrap=True)
        return 2
    page = chart.write(outcome, reports)
    if given.json:
        print(json.dumps(outcome.as_json(), indent=2))
    else:
        messages.print(_table("Measured", chart.rows(outcome)))
        messages.print(_table("Goals", chart.goals(outcome)))
    messages.print(f"report {page}", markup=False, soft_wrap=True)
    return 0 if outcome.complete else 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.realtime", description=__doc__)
    parser.add_argument(
        "--subscribers",
        type=lambda text: [int(number) for number in text.split(",")],
        default=list(measure.SUBSCRIBERS),
        help="numbers of subscribers, separated by commas; both ways are measured with each",
    )
    parser.add_argument(
        "--seconds", type=float, default=measure.SECONDS, help="length of each undisturbed phase"
    )
    parser.add_argument("--rate", type=float, default=measure.RATE, help="writes per second")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def _server() -> Iterator[URL]:
    """The server to measure."""
    loaded = settings.load()
    if loaded.configured_target is None:
        with bench_server() as fresh:
            yield make_url(fresh())
    else:
        found = environment.server(loaded)
        environment.require_session(found)
        yield found.target


def _table(title: str, lines: list[dict[str, str]]) -> Table:
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for name in lines[0]:
        justify: Literal["left", "right"] = "left" if name in ("way", "goal") else "right"
        made.add_column(name.replace(" ", "\n"), justify=justify, no_wrap=True)
    for line in lines:
        made.add_row(*line.values())
    return made


if __name__ == "__main__":
    sys.exit(main())
