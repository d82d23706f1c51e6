"""The result of a copy for the terminal, and the statements of a plan."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from pipeline.copy.interface.results import CopyResult, TableResult
from pipeline.copy.plan import CopyPlan
from pipeline.copy.target.extras import LeftOut
from pipeline.core.quoting import counted, printable, size
from pipeline.reporting.layout import Grid

_LONGEST = 40
"""Names up to this width are aligned."""
_NAMES, _LINES, _HINTS = 5, 20, 5
"""How many names a line lists, how many lines a table has, how many proposals are shown."""
_CAST = ": --cast "


@dataclass(frozen=True)
class Line:
    """A line and its style."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Lines:
    """One line for each table, aligned although each is written as soon as its table has ended.

    Attributes:
        name: the width of names.
        rows: the width of numbers of rows.
        size: the width of sizes.
    """

    name: int
    rows: int
    size: int

    @classmethod
    def of(cls, plan: CopyPlan) -> "Lines":
        """Lines for the tables of a plan."""
        tables = plan.tables.values()
        widths = [cell_len(printable(table.label)) for table in tables]
        return cls(
            max((width for width in widths if width <= _LONGEST), default=0),
            max((len(f"{table.rows:,}") for table in tables), default=0),
            max((len(size(table.bytes)) for table in tables), default=0),
        )

    def of_table(self, result: TableResult) -> Line:
        """What happened to one table."""
        name = printable(result.table)
        head = f"  {name}{' ' * (self.name - cell_len(name))}  {result.outcome}"
        if result.outcome == "failed":
            return Line(f"{head}: {result.error}", "red")
        padding = " " * (len("unchanged") - len(result.outcome))
        rows = f"{result.rows:>{self.rows},} {'row ' if result.rows == 1 else 'rows'}"
        text = f"{head}{padding}  {rows}  {size(result.bytes):>{self.size}}"
        notes = []
        if result.outcome == "updated":
            notes.append(_changes(result))
        if result.outcome == "differs":
            notes.append(
                f"a copy would write {counted(result.written, 'row')} and delete {result.deleted:,}"
            )
        if result.quarantined:
            notes.append(f"{counted(result.quarantined, 'row')} in quarantine")
        red = result.quarantined or result.outcome == "differs"
        return Line(f"{text}  {'; '.join(notes)}".rstrip(), "red" if red else "")


def grids(result: CopyResult) -> Iterator[Grid]:
    """What stayed behind, what was not carried, and what is proposed."""
    if result.behind:
        yield Grid("Left behind", ("table", "why"), list(result.behind.items()))
    reasons = [reason for table in result.tables for reason in table.reasons]
    if reasons:
        yield _grid(
            "In quarantine",
            ("table", "rows", "why", "row ids"),
            [
                (
                    reason.table,
                    f"{reason.rows:,}",
                    f"{reason.column or ''} {reason.reason}".strip(),
                    ", ".join(reason.examples),
                )
                for reason in reasons
            ],
        )
    if result.all_left:
        yield _grid("Not carried", ("table", "what", "why"), list(_left(result.all_left)))
    hints = list(result.hints)
    if hints and any(table.outcome == "copied" for table in result.tables):
        shown = [_proposal(hint) for hint in hints[:_HINTS]]
        more = len(hints) - len(shown)
        count = f" ({len(shown)} of {len(hints)}; --dry-run prints all)" if more else ""
        title = f"Proposals{count}"
        yield Grid(title, ("option", "why"), shown)


def _grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    """A table of at most so many lines, whose title says that there are more."""
    more = f" ({_LINES} of {len(rows)} lines)" if len(rows) > _LINES else ""
    right = frozenset(n for n, name in enumerate(columns) if name == "rows")
    return Grid(f"{title}{more}", columns, rows[:_LINES], right)


def _left(found: Iterable[LeftOut]) -> Iterator[tuple[str, str, str]]:
    """One line for all objects of a table that were left out for the same reason."""
    together: dict[tuple[str, str, str], list[str]] = {}
    for left in found:
        together.setdefault((left.table, left.kind, left.reason), []).append(left.name)
    for (table, kind, reason), names in together.items():
        listed = ", ".join(_one_line(name) for name in names[:_NAMES])
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        yield table, f"{kind} {listed}{more}", _one_line(reason)


def _proposal(hint: str) -> tuple[str, str]:
    """The option of a hint, and the reason; the option names the column."""
    text, cast, option = hint.rpartition(_CAST)
    return (f"--cast {option}", text.partition(": ")[2]) if cast else ("", hint)


def last(result: CopyResult) -> Line:
    """The outcome."""
    rows = sum(table.rows for table in result.tables)
    outcomes = Counter(table.outcome for table in result.tables)
    words = {"differs": "different"}
    tables = ", ".join(f"{count} {words.get(name, name)}" for name, count in outcomes.items())
    count = len(result.tables)
    text = f"{counted(count, 'table')} ({tables or 'none'}), {counted(rows, 'row')}"
    if result.proven:
        return Line(f"{text}: every value proven in {result.seconds:.1f} s", "green")
    behind = [f"{len(result.behind)} left behind"] if result.behind else []
    quarantined = sum(table.quarantined for table in result.tables)
    behind += [f"{counted(quarantined, 'row')} in quarantine"] if quarantined else []
    failed = outcomes["failed"] + outcomes["differs"]
    behind += [f"{failed} not proven"] if failed else []
    behind += [f"{len(result.missing)} not reached"] if result.missing else []
    return Line(f"{text}: {', '.join(behind)}", "red")


def _changes(result: TableResult) -> str:
    return f"{counted(result.written, 'row')} written, {result.deleted:,} deleted"


def ddl(plan: CopyPlan) -> Iterator[str]:
    """The statements that a copy will try, parents first."""
    for unit in plan.units:
        for name in unit:
            yield f"{plan.tables[name].ddl()};"
        for name in unit:
            yield from (f"{extra.statement};" for extra in plan.extras[name].own)
        for name in unit:
            yield from (f"{extra.statement};" for extra in plan.extras[name].references)
    for left in plan.all_left:
        yield f"-- not carried: {_one_line(left.sentence)}"
    for name, reason in plan.behind.items():
        yield f"-- left behind: {_one_line(f'{name}: {reason}')}"
    for hint in plan.hints:
        yield f"-- proposal: {_one_line(hint)}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
