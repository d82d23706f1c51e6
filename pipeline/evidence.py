"""The evidence of a run: what was moved and proven, as one HTML file and as JSON beside it.

Every step adds its table's part and writes both files anew, so a run that fails half-way leaves
the evidence of what was proven before. The HTML needs nothing from outside.
"""

import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import jinja2
import sqlalchemy as sa
from pydantic import TypeAdapter

from pipeline import checks, settings
from pipeline.environment import databases
from pipeline.move.contract import quoted
from pipeline.move.findings import OFFENDERS, CheckResult, say
from pipeline.move.target import Target
from pipeline.move.transaction import Move

REPORT = "pipeline/report"
"""The tag of a run that tells where its evidence lies."""

_PART = "part-"
_ROOM = 400
_LEAD = 40
_AM = "\u0e33\u0eb3"


@dataclass(frozen=True)
class BlobSizes:
    """How large the BLOBs of a column are.

    Attributes:
        column: the column.
        values: how many there are.
        bytes: all of them together.
        by_power: n -> how many have 2**n bytes or more, and less than 2**(n+1); empty ones are
            with those of one byte.
    """

    column: str
    values: int
    bytes: int
    by_power: dict[int, int]

    @property
    def histogram(self) -> list[tuple[str, int, float]]:
        """From the smallest to the largest: the sizes, how many, and percent of the most."""
        if not self.by_power:
            return []
        most = max(self.by_power.values())
        return [
            (_between(power), count, 100 * count / most)
            for power in range(min(self.by_power), max(self.by_power) + 1)
            for count in [self.by_power.get(power, 0)]
        ]


@dataclass(frozen=True)
class CheckEvidence:
    """One check: its outcome in words, its figures, its offenders."""

    name: str
    proves: str
    passed: bool
    blocking: bool
    summary: str
    figures: dict[str, Any]
    findings: list[str]
    offenders: list[dict[str, Any]]


@dataclass(frozen=True)
class TableEvidence:
    """What a run did with a table, and what was proven of it.

    Attributes:
        table: its name.
        at: when the step ended, ISO 8601 in UTC.
        moved: the move's figures; None when the table was checked only, or rolled back.
        seconds: time per phase.
        blobs: sizes of the BLOBs the target holds now.
        checks: every check that was made.
        failure: why the step failed, None if it did not.
    """

    table: str
    at: str
    moved: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    blobs: list[BlobSizes] = field(default_factory=list)
    checks: list[CheckEvidence] = field(default_factory=list)
    failure: str | None = None

    @property
    def proven(self) -> bool:
        """Whether the step did not fail and every blocking check passed."""
        return self.failure is None and all(c.passed for c in self.checks if c.blocking)

    @property
    def unchecked(self) -> list[str]:
        """Blocking checks of a move that this run did not make."""
        made = {check.name for check in self.checks}
        return [name for name in checks.BLOCKING if name not in made]

    @property
    def rows(self) -> dict[str, int] | None:
        """Where the source's rows are, None when they were not counted.

        ``missing`` rows of the source are nowhere, ``surplus`` ones are more than it has.
        """
        counted = next((c.figures for c in self.checks if c.name == "conservation"), {})
        found = self.moved or counted
        if "source_rows" not in found:
            return None
        source = int(found["source_rows"])
        parts = {name: int(found.get(name, 0)) for name in ("moved", "quarantined", "excluded")}
        lost = source - sum(parts.values())
        return {"source": source, **parts, "missing": max(lost, 0), "surplus": max(-lost, 0)}


@dataclass(frozen=True)
class RunEvidence:
    """A run and its tables, in the order in which their steps ended."""

    run_id: str
    job: str
    source: str
    target: str
    tables: list[TableEvidence] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        """Whether no step failed and every blocking check passed."""
        return all(table.proven for table in self.tables)


@dataclass(frozen=True)
class Piece:
    """A piece of a bar; where it begins and how wide it is, in percent of the bar."""

    name: str
    value: float
    begin: float
    width: float


def of_move(move: Move, table: sa.Table, target: Target) -> TableEvidence:
    """The evidence of a table that moved."""
    counted = move.checks[0].figures
    return TableEvidence(
        move.table,
        _now(),
        {
            "way": move.way,
            "source_rows": move.source_rows,
            "source_bytes": move.source_bytes,
            "moved": move.moved_rows,
            "quarantined": counted["quarantined"],
            "excluded": 0,
            "written": move.written_rows,
            "deleted": move.deleted_rows,
        },
        {phase: round(seconds, 3) for phase, seconds in move.seconds.items()},
        blob_sizes(target, table),
        [_check(check) for check in move.checks],
    )


def of_checks(
    table: str, found: Sequence[CheckResult], *, failure: str | None = None
) -> TableEvidence:
    """The evidence of a table that was checked, or whose move was rolled back."""
    return TableEvidence(table, _now(), checks=[_check(check) for check in found], failure=failure)


def blob_sizes(target: Target, table: sa.Table) -> list[BlobSizes]:
    """How large the BLOBs of a committed table are; they are weighed, not read."""
    found = []
    for column in table.columns:
        if isinstance(column.type, sa.LargeBinary):
            size = f"octet_length({quoted(column.name)})"
            rows = target.rows(
                f"SELECT floor(log(2, greatest({size}, 1)))::integer, count(*), sum({size})::bigint"
                f" FROM {quoted(table.name)} WHERE {quoted(column.name)} IS NOT NULL"
                " GROUP BY 1 ORDER BY 1"
            )
            found.append(
                BlobSizes(
                    column.name,
                    sum(count for _, count, _ in rows),
                    sum(total for _, _, total in rows),
                    {power: count for power, count, _ in rows},
                )
            )
    return found


def record(folder: Path, run: RunEvidence, part: TableEvidence) -> Path:
    """Add a table's part to a run's evidence, and write HTML and JSON anew.

    Returns:
        The HTML file; ``evidence.json`` lies beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{_PART}{part.table}.json").write_text(json.dumps(asdict(part), default=str))
    parts = [
        TypeAdapter(TableEvidence).validate_json(path.read_text())
        for path in folder.glob(f"{_PART}*.json")
    ]
    whole = replace(run, tables=sorted(parts, key=lambda part: part.at))
    data = asdict(whole) | {"proven": whole.proven}
    text = json.dumps(data, indent=2, ensure_ascii=False)
    (folder / "evidence.json").write_text(text, encoding="utf-8")
    html = folder / "evidence.html"
    html.write_text(render(whole), encoding="utf-8")
    return html


def render(run: RunEvidence) -> str:
    """The evidence as an HTML page that needs nothing from outside."""
    return _environment().get_template("evidence.html.j2").render(run=run)


def leave(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, part: TableEvidence
) -> Path:
    """Add a table's part to the evidence of the run under way, and link it from the run."""
    loaded = settings.load()
    found = databases(loaded)
    run = RunEvidence(
        context.run.run_id, context.run.job_name, str(found.source), found.target_shown
    )
    path = record(loaded.reports / run.run_id, run, part)
    if REPORT not in context.run.tags:
        context.instance.add_run_tags(run.run_id, {REPORT: str(path)})
    return path


def _check(check: CheckResult) -> CheckEvidence:
    return CheckEvidence(
        check.name,
        checks.DESCRIPTIONS[check.name],
        check.passed,
        check.blocking,
        checks.summary(check),
        check.figures,
        [say(finding) for finding in check.findings[:OFFENDERS]],
        [
            {"finding": type(finding).__name__} | {n: _plain(v) for n, v in vars(finding).items()}
            for finding in check.findings[:OFFENDERS]
        ],
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()  # noqa: UP017


def _plain(value: Any) -> Any:
    """A value as JSON can hold it, with NULL told apart from any text."""
    match value:
        case None | bool() | int():
            return value
        case tuple() | list():
            return [_plain(each) for each in value]
    return str(value)


def pieces(values: Mapping[str, float]) -> list[Piece]:
    """A bar of values that are not zero, to scale; the widths add up to all of it."""
    whole, begin, found = sum(values.values()), 0.0, []
    for name, value in values.items():
        if value:
            found.append(Piece(name, value, 100 * begin / whole, 100 * value / whole))
            begin += value
    return found


def share(part: float, whole: float) -> str:
    """Percent; nothing but nothing is 0 %, and nothing but everything is 100 %."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    percent = 100 * part / whole
    if percent < 0.01:
        return "under 0.01 %"
    return "over 99.99 %" if percent > 99.99 else f"{percent:.2f} %"


def size(count: int) -> str:
    """Bytes in the unit in which people read them."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    at = min(max(count.bit_length() - 1, 0) // 10, len(units) - 1)
    number = f"{count / 1024**at:,.1f}".removesuffix(".0")
    return f"{number} {units[at]}"


def duration(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 0.001:
        return "under 1 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shown(value: Any, other: Any = None) -> Iterator[tuple[str, str]]:
    """A value in pieces, cut where it is long, with everything in it that nobody could see.

    Args:
        value: what is shown.
        other: a text that it should equal; the part that is not the same is pointed out.

    Yields:
        The kind of a piece (text, differs, unseen, cut, nothing), and its text.
    """
    if value is None or value == "":
        yield "nothing", "NULL" if value is None else "empty text"
        return
    text = str(value)
    begin, end = _unequal(text, other) if isinstance(other, str) else (len(text), len(text))
    first = max(0, min(begin - _LEAD, len(text) - _ROOM))
    last = first + _ROOM
    if first:
        yield "cut", f"{first:,} characters before"
    for kind, run in (
        ("text", text[first : min(begin, last)]),
        ("differs", text[begin : min(end, last)]),
        ("text", text[end:last]),
    ):
        yield from _seen(kind, run)
    if last < len(text):
        yield "cut", f"{len(text) - last:,} characters more"


def _unequal(text: str, other: str) -> tuple[int, int]:
    """Where the part of a text that another one has not begins and ends; letters stay whole."""
    begin = len(os.path.commonprefix([text, other]))
    rest = min(len(text), len(other)) - begin
    end = len(text) - len(os.path.commonprefix([text[::-1], other[::-1]])[:rest])
    while begin and (_joins(text, begin) or _joins(other, begin)):
        begin -= 1
    while _joins(text, end):
        end += 1
    return begin, end


def _joins(text: str, at: int) -> bool:
    """Whether a sign, such as a vowel above its consonant, is drawn onto the letter before it."""
    return at < len(text) and (unicodedata.category(text[at])[0] == "M" or text[at] in _AM)


def _seen(kind: str, text: str) -> Iterator[tuple[str, str]]:
    run = ""
    for letter in text:
        if unicodedata.category(letter)[0] in "CZ" and letter != " ":
            if run:
                yield kind, run
            yield "unseen", "line end" if letter == "\n" else f"U+{ord(letter):04X}"
            run = letter if letter == "\n" else ""
        else:
            run += letter
    if run:
        yield kind, run


def _between(power: int) -> str:
    """The sizes that a power of two stands for."""
    return f"{size(2**power)} to {size(2 ** (power + 1))}" if power else "under 2 B"


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"share": share, "size": size, "duration": duration, "shown": shown}
    made.globals["pieces"] = pieces
    return made
