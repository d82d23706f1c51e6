"""What was measured, and what of it was to be reached."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

EVENTS, POLLING = "events", "polling"
WAYS = (POLLING, EVENTS)

_P95_MS = 100.0
_BYTES = 0.5


@dataclass(frozen=True)
class Measured:
    """One way with so many subscribers.

    Attributes:
        way: events or polling.
        subscribers: how many.
        p50_ms: half of what was committed arrived so soon; likewise 95 and 99 percent.
        wire: bytes per second between the process that subscribes and the server.
        json: bytes per second that go on to the subscribers.
        cpu: milliseconds of the server's CPU per second, of all sessions; None where another
            machine has the server.
        cpu_writing: those of the application that writes.
        transactions: of the server per second, of all sessions.
        expected: rows that were to arrive, each once at each member of its space.
        missed: those that did not.
        double_encoded: how many came more than once.
        cuts: connections that were cut.
        hints_lost: notifications that were held back.
    """

    way: str
    subscribers: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    wire: float
    json: float
    cpu: float | None
    cpu_writing: float | None
    transactions: float
    expected: int
    missed: int
    double_encoded: int
    cuts: int
    hints_lost: int

    @property
    def bytes(self) -> float:
        """Bytes per second, those on the wire and those that go on."""
        return self.wire + self.json

    @property
    def load(self) -> float:
        """How much the server has to do: its CPU, or its transactions if that is not known."""
        return self.transactions if self.cpu is None else self.cpu


@dataclass(frozen=True)
class Goal:
    """Something to be reached: a value that is at most ``most``."""

    what: str
    subscribers: str
    value: float
    most: float

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return self.value <= self.most


@dataclass(frozen=True)
class Outcome:
    """All that was measured.

    Attributes:
        seconds: how long each calm time was.
        rate: writes per second.
        measured: a value for each way and number of subscribers.
    """

    seconds: float
    rate: float
    measured: tuple[Measured, ...]

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What was to be reached, and what was."""
        return tuple(_goals(self.measured))

    @property
    def whole(self) -> bool:
        """Whether by events nothing was missed and nothing came twice."""
        return not any(each.missed or each.double_encoded for each in self.of_events)

    @property
    def of_events(self) -> tuple[Measured, ...]:
        """What was measured by events."""
        return tuple(each for each in self.measured if each.way == EVENTS)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        goals = [{**asdict(goal), "reached": goal.reached} for goal in self.goals]
        return {**asdict(self), "goals": goals}


def _goals(measured: Sequence[Measured]) -> Iterator[Goal]:
    polled = {each.subscribers: each for each in measured if each.way == POLLING}
    ours = [each for each in measured if each.way == EVENTS]
    for each in ours:
        n = f"{each.subscribers:,}"
        yield Goal("p95 in ms", n, each.p95_ms, _P95_MS)
        yield Goal("missed or doubled", n, float(each.missed + each.double_encoded), 0.0)
        if each.subscribers in polled:
            ratio = _ratio(each.bytes, polled[each.subscribers].bytes)
            yield Goal("bytes, of polling's", n, ratio, _BYTES)
    for each in ours:
        tenth, rest = divmod(each.subscribers, 10)
        if tenth in polled and not rest:
            n = f"{each.subscribers:,} to {tenth:,}"
            yield Goal("database load, of polling's", n, _ratio(each.load, polled[tenth].load), 1.0)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("inf")
