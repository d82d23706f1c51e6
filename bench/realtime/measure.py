"""One way measured: warm, calm and hard times while an application writes.

Loads are taken in the calm time alone, which begins when every page has polled once, and times of
what was written while every page still had a poll before it ended. In the
hard time all connections are cut again and again, and events lose hints. What has not arrived some
seconds after the last write counts as missed.
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

from bench.realtime import hearing
from bench.realtime.hearing import Tally
from bench.realtime.load import NAME, Load, Order, Write, started
from bench.realtime.result import EVENTS, WAYS, Measured, Outcome
from bench.realtime.scene import OF_A_SPACE, furnish, scratch, space_of
from bench.realtime.wire import Wire, wired
from pipeline.config.settings import libpq, shown
from pipeline.core.errors import SettingsError, TargetError
from pipeline.postgres import session

SUBSCRIBERS = (10, 100, 1000)
SECONDS = 15.0
RATE = 5.0
PATIENCE = 12.0
"""So many seconds after the last write nothing is missing yet: two polls, or two looks."""
_CUTS = 3
_SEED = 20


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        subscribers: how many, one measurement of each way for each.
        seconds: of the calm time; the hard time is half of it.
        rate: writes per second.
    """

    subscribers: tuple[int, ...] = SUBSCRIBERS
    seconds: float = SECONDS
    rate: float = RATE

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            SettingsError: says what.
        """
        sound = self.subscribers and min(self.subscribers) > 0 and self.seconds > 0
        # Percentiles want two values.
        if not sound or self.rate * self.seconds < 2:
            raise SettingsError(
                "That cannot be measured",
                remedy="Take subscribers, seconds and a rate above 0, and two writes at least",
            )


@dataclass(frozen=True)
class _Moment:
    """Counters as they stand at a moment."""

    at: float
    wire: int
    json: int
    transactions: int
    cpu: dict[str, float] | None


def run(server: URL, plan: Plan, *, tell: Callable[[str], None]) -> Outcome:
    """Measure both ways with each number of subscribers, in scratch databases.

    Args:
        server: a database of the server that is measured; nothing is written to it.
        plan: what is measured.
        tell: takes a line about what is done.

    Raises:
        TargetError: there is no such database, or a connection was refused.
    """
    made = []
    for subscribers in plan.subscribers:
        for way in WAYS:
            tell(f"{way}, {subscribers:,} subscribers")
            with scratch(server) as database, wired(database) as wire:
                furnish(database, subscribers=subscribers, told=way == EVENTS)
                measurement = _Measurement(
                    way, subscribers, plan, server=server, database=database, wire=wire
                )
                made.append(asyncio.run(measurement.run()))
    return Outcome(plan.seconds, plan.rate, tuple(made))


class _Measurement:
    def __init__(
        self, way: str, subscribers: int, plan: Plan, *, server: URL, database: URL, wire: Wire
    ) -> None:
        self._way, self._people, self._plan = way, subscribers, plan
        self._server, self._database, self._wire = server, database, wire
        self._tally, self._lost = Tally(), 0

    async def run(self) -> Measured:
        warm, calm, hard = hearing.EVERY, self._plan.seconds, self._plan.seconds / 2
        order = Order(
            libpq(self._database),
            self._people,
            OF_A_SPACE,
            self._plan.rate,
            warm + calm + hard,
            _SEED,
        )
        heard = hearing.events if self._way == EVENTS else hearing.polling
        async with (
            started(order) as load,
            heard(libpq(self._wire.url), self._people, self._tally) as way,
        ):
            begin = time.monotonic() + 0.1
            await load.begin(begin)
            await _until(begin + warm)
            before = self._moment()
            await _until(before.at + calm)
            after = self._moment()
            way.hard = True
            for cut in range(_CUTS):
                await _until(after.at + hard * (cut + 0.5) / _CUTS)
                self._wire.cut()
            written = await self._arrived(load)
            self._lost = way.lost
        # What was written later may have arrived in the hard time.
        calmly = [write for write in written if write.at < after.at - warm]
        return self._measured(before, after, written, calmly)

    def _moment(self) -> _Moment:
        transactions, cpu = _counters(self._server, self._database.database)
        wire, json = self._wire.bytes, self._tally.bytes
        return _Moment(time.monotonic(), wire, json, transactions, cpu)

    async def _arrived(self, load: Load) -> list[Write]:
        """Wait until everything is there, or for as long as patience lasts."""
        written = await load.written()
        wanted, until = set(self._wanted(written)), time.monotonic() + PATIENCE
        while not wanted <= self._tally.first.keys() and time.monotonic() < until:
            await asyncio.sleep(0.05)
        return written

    def _wanted(self, written: Sequence[Write]) -> Iterator[tuple[int, str, str]]:
        of: dict[int, list[int]] = {}
        for person in range(1, self._people + 1):
            of.setdefault(space_of(person), []).append(person)
        for write in written:
            for person in of[write.space]:
                yield person, write.table, write.key

    def _measured(
        self, before: _Moment, after: _Moment, written: Sequence[Write], calmly: Sequence[Write]
    ) -> Measured:
        first, wanted = self._tally.first, list(self._wanted(written))
        at = {(write.table, write.key): write.at for write in calmly}
        took = [
            1000 * (first[what] - at[what[1:]]) for what in self._wanted(calmly) if what in first
        ]
        if len(took) < 2:
            raise TargetError(
                f"Nothing arrived by {self._way} in calm times", remedy="Measure again, for longer"
            )
        percent, seconds = quantiles(took, n=100, method="inclusive"), after.at - before.at
        spent = (
            {name: 1000 * (after.cpu[name] - before.cpu.get(name, 0.0)) for name in after.cpu}
            if before.cpu is not None and after.cpu is not None
            else None
        )
        return Measured(
            way=self._way,
            subscribers=self._people,
            p50_ms=percent[49],
            p95_ms=percent[94],
            p99_ms=percent[98],
            wire=(after.wire - before.wire) / seconds,
            json=(after.json - before.json) / seconds,
            cpu=None if spent is None else sum(spent.values()) / seconds,
            cpu_writing=None if spent is None else spent.get(NAME, 0.0) / seconds,
            transactions=(after.transactions - before.transactions) / seconds,
            expected=len(wanted),
            missed=sum(what not in first for what in wanted),
            double_encoded=sum(times - 1 for times in self._tally.times.values()),
            cuts=self._wire.cuts,
            hints_lost=self._lost,
        )


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


def _counters(server: URL, database: str | None) -> tuple[int, dict[str, float] | None]:
    """Transactions of a database until now, and seconds of CPU by what its sessions are called."""
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
    """Seconds of CPU of one of the server's processes; None if it is on another machine."""
    try:
        process = psutil.Process(pid)
        if not process.name().startswith("postgres"):
            return None
        found = process.cpu_times()
        # What Linux adds up is finer than the hundredths of a second that it tells.
        exact = Path(f"/proc/{pid}/schedstat")
        nanoseconds = int(exact.read_text().split()[0]) if exact.exists() else 0
    except psutil.NoSuchProcess:
        return None
    return nanoseconds / 1e9 if nanoseconds else found.user + found.system
