"""Measurements and goals."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

EVENTS, POLLING = "events", "polling"
WAYS = (POLLING, EVENTS)

_P95_MS = 100.0
_BYTES = 0.5


@dataclass(frozen=True)
class Measured:
    """The measurement of one way with one number of subscribers.

    Attributes:
        way: events or polling.
        p50_ms: median time from commit to arrival; likewise the 95th and 99th percentiles.
        wire: bytes per second between the subscribing process and the server.
        json: bytes per second of JSON for the subscribers.
        cpu: CPU milliseconds per second of all sessions of the server; None if the server runs on
            another machine.
        cpu_writing: the part of the writing application.
        transactions: commits per second of all sessions.
        expected: deliveries, one for each row and member of its space.
        missed: expected deliveries that did not happen.
        duplicates: deliveries after the first.
        cuts: connections that were cut.
        hints_lost: notifications that were dropped.
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
    duplicates: int
    cuts: int
    hints_lost: int

    @property
    def bytes(self) -> float:
        """Bytes per second, on the wire and as JSON for the subscribers."""
        return self.wire + self.json

    @property
    def load(self) -> float:
        """Load of the server: its CPU time, or its transactions if that is unknown."""
        return self.transactions if self.cpu is None else self.cpu


@dataclass(frozen=True)
class Goal:
    """A goal: a value that is at most ``most``."""

    what: str
    subscribers: str
    value: float
    most: float

    @property
    def reached(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.most


@dataclass(frozen=True)
class Outcome:
    """All measurements.

    Attributes:
        seconds: length of each undisturbed phase.
        rate: writes per second.
        measured: one value for each way and number of subscribers.
    """

    seconds: float
    rate: float
    measured: tuple[Measured, ...]

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The goals with their measured values."""
        return tuple(_goals(self.measured))

    @property
    def complete(self) -> bool:
        """Whether events delivered every row exactly once."""
        events = (each for each in self.measured if each.way == EVENTS)
        return not any(each.missed or each.duplicates for each in events)

    def as_json(self) -> dict[str, Any]:
        """Measurements and goals for programs."""
        goals = [{**asdict(goal), "reached": goal.reached} for goal in self.goals]
        return {**asdict(self), "goals": goals}


def _goals(measured: Sequence[Measured]) -> Iterator[Goal]:
    polled = {each.subscribers: each for each in measured if each.way == POLLING}
    ours = [each for each in measured if each.way == EVENTS]
    for each in ours:
        n = f"{each.subscribers:,}"
        yield Goal("p95 in ms", n, each.p95_ms, _P95_MS)
        yield Goal("missed or duplicated", n, float(each.missed + each.duplicates), 0.0)
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
