"""Measure one way in three phases while an application writes: warm-up, undisturbed, disturbed.

Load is measured only in the undisturbed phase, which starts when every page has polled once.
Latency is measured for rows written early enough that every page polls again before the phase ends.
In the disturbed phase, all connections are cut repeatedly, and events lose hints. A row that has
not arrived some seconds after the last write counts as missed.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import psutil
import psycopg2
from sqlalchemy.engine import URL

from bench.realtime import subscribers
from bench.realtime.fixture import MEMBERS_PER_SPACE, create_spaces, scratch, space_of
from bench.realtime.load import NAME, Load, Order, Write, started
from bench.realtime.result import EVENTS, WAYS, Measured, Outcome
from bench.realtime.subscribers import Tally
from bench.realtime.wire import Wire, wired
from pipeline.config.settings import libpq, shown
from pipeline.core.errors import SettingsError, TargetError
from pipeline.postgres import session

SUBSCRIBERS = (10, 100, 1000)
SECONDS = 15.0
RATE = 5.0
PATIENCE = 12.0
"""Seconds from the last write until a row counts as missed: two polls, or two reads of the feed."""
_CUTS = 3
_SEED = 20


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        subscribers: numbers of subscribers; each way is measured with each of them.
        seconds: length of the undisturbed phase; the disturbed phase is half as long.
        rate: writes per second.
    """

    subscribers: tuple[int, ...] = SUBSCRIBERS
    seconds: float = SECONDS
    rate: float = RATE

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be measured.

        Raises:
            SettingsError: a value is not positive, or there are fewer than two writes.
        """
        positive = self.subscribers and min(self.subscribers) > 0 and self.seconds > 0
        # Percentiles need two values.
        if not positive or self.rate * self.seconds < 2:
            raise SettingsError(
                "This plan cannot be measured",
                remedy="Use subscribers, seconds and a rate above 0, and at least two writes",
            )


@dataclass(frozen=True)
class _Counters:
    """Counters at one time."""

    at: float
    wire: int
    json: int
    transactions: int
    cpu: dict[str, float] | None


def run(server: URL, plan: Plan, *, log: Callable[[str], None]) -> Outcome:
    """Measure both ways with each number of subscribers, in scratch databases.

    Args:
        server: a database of the server to measure; nothing is written to it.
        plan: what to measure.
        log: receives progress messages.

    Raises:
        TargetError: the database does not exist, or a connection was refused.
    """
    measured = []
    for count in plan.subscribers:
        for way in WAYS:
            log(f"{way}, {count:,} subscribers")
            with scratch(server) as database, wired(database) as wire:
                create_spaces(database, subscribers=count, feed=way == EVENTS)
                measurement = _Measurement(
                    way, count, plan, server=server, database=database, wire=wire
                )
                measured.append(asyncio.run(measurement.run()))
    return Outcome(plan.seconds, plan.rate, tuple(measured))


class _Measurement:
    def __init__(
        self, way: str, count: int, plan: Plan, *, server: URL, database: URL, wire: Wire
    ) -> None:
        self._way, self._count, self._plan = way, count, plan
        self._server, self._database, self._wire = server, database, wire
        self._tally, self._lost = Tally(), 0

    async def run(self) -> Measured:
        warm_up, undisturbed = subscribers.EVERY, self._plan.seconds
        disturbed = undisturbed / 2
        order = Order(
            libpq(self._database),
            self._count,
            MEMBERS_PER_SPACE,
            self._plan.rate,
            warm_up + undisturbed + disturbed,
            _SEED,
        )
        subscribe = subscribers.events if self._way == EVENTS else subscribers.polling
        async with (
            started(order) as load,
            subscribe(libpq(self._wire.url), self._count, self._tally) as way,
        ):
            start = time.monotonic() + 0.1
            await load.start_at(start)
            await _until(start + warm_up)
            before = self._read_counters()
            await _until(before.at + undisturbed)
            after = self._read_counters()
            way.disturbed = True
            for cut in range(_CUTS):
                await _until(after.at + disturbed * (cut + 0.5) / _CUTS)
                self._wire.cut()
            written = await self._wait_for_arrival(load)
            self._lost = way.lost
        # Rows written later may have arrived in the disturbed phase.
        timed = [write for write in written if write.at < after.at - warm_up]
        return self._measured(before, after, written, timed)

    def _read_counters(self) -> _Counters:
        transactions, cpu = _server_counters(self._server, self._database.database)
        wire, json = self._wire.bytes, self._tally.bytes
        return _Counters(time.monotonic(), wire, json, transactions, cpu)

    async def _wait_for_arrival(self, load: Load) -> list[Write]:
        """Wait until all rows have arrived, at most ``PATIENCE`` seconds."""
        written = await load.written()
        expected, until = set(self._expected(written)), time.monotonic() + PATIENCE
        while not expected <= self._tally.first.keys() and time.monotonic() < until:
            await asyncio.sleep(0.05)
        return written

    def _expected(self, written: Sequence[Write]) -> Iterator[tuple[int, str, str]]:
        members: dict[int, list[int]] = {}
        for subscriber in range(1, self._count + 1):
            members.setdefault(space_of(subscriber), []).append(subscriber)
        for write in written:
            for subscriber in members[write.space]:
                yield subscriber, write.table, write.key

    def _measured(
        self, before: _Counters, after: _Counters, written: Sequence[Write], timed: Sequence[Write]
    ) -> Measured:
        first, expected = self._tally.first, list(self._expected(written))
        committed = {(write.table, write.key): write.at for write in timed}
        latencies = [
            1000 * (first[delivery] - committed[delivery[1:]])
            for delivery in self._expected(timed)
            if delivery in first
        ]
        if len(latencies) < 2:
            raise TargetError(
                f"Nothing arrived by {self._way} in the undisturbed phase",
                remedy="Measure again with more --seconds",
            )
        percent, seconds = quantiles(latencies, n=100, method="inclusive"), after.at - before.at
        spent = (
            {name: 1000 * (after.cpu[name] - before.cpu.get(name, 0.0)) for name in after.cpu}
            if before.cpu is not None and after.cpu is not None
            else None
        )
        return Measured(
            way=self._way,
            subscribers=self._count,
            p50_ms=percent[49],
            p95_ms=percent[94],
            p99_ms=percent[98],
            wire=(after.wire - before.wire) / seconds,
            json=(after.json - before.json) / seconds,
            cpu=None if spent is None else sum(spent.values()) / seconds,
            cpu_writing=None if spent is None else spent.get(NAME, 0.0) / seconds,
            transactions=(after.transactions - before.transactions) / seconds,
            expected=len(expected),
            missed=sum(delivery not in first for delivery in expected),
            duplicates=sum(times - 1 for times in self._tally.times.values()),
            cuts=self._wire.cuts,
            hints_lost=self._lost,
        )


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


def _server_counters(server: URL, database: str | None) -> tuple[int, dict[str, float] | None]:
    """Committed transactions of a database, and CPU seconds of its sessions by application name."""
    try:
        with (
            closing(session.connect(libpq(server), shown=shown(server))) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(
                "SELECT xact_commit FROM pg_stat_database WHERE datname = %s", (database,)
            )
            ((transactions,),) = cursor.fetchall()
            cursor.execute(
                "SELECT pid, application_name FROM pg_stat_activity WHERE datname = %s"
                " AND backend_type = 'client backend'",
                (database,),
            )
            sessions = cursor.fetchall()
    except psycopg2.Error as error:
        raise TargetError.from_driver(error, where=shown(server), url=libpq(server)) from None
    spent: dict[str, float] = {}
    for pid, name in sessions:
        seconds = _cpu(pid)
        if seconds is None:
            return transactions, None
        spent[name] = spent.get(name, 0.0) + seconds
    return transactions, spent


def _cpu(pid: int) -> float | None:
    """CPU seconds of one of the server's processes; None if it runs on another machine."""
    try:
        process = psutil.Process(pid)
        if not process.name().startswith("postgres"):
            return None
        found = process.cpu_times()
        # On Linux, schedstat is more precise than the hundredths of a second in cpu_times.
        exact = Path(f"/proc/{pid}/schedstat")
        nanoseconds = int(exact.read_text().split()[0]) if exact.exists() else 0
    except psutil.NoSuchProcess:
        return None
    return nanoseconds / 1e9 if nanoseconds else found.user + found.system
