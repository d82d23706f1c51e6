"""Run a copy: each unit in one transaction, which commits only what was proven.

Two sessions take the units in turn, so that one table is filled while the server builds the keys of
another. A unit whose connection is lost is repeated in a new session; what was committed stays.
"""

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.copy import views
from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.interface.results import CopyResult, TableResult
from pipeline.copy.plan import CopyPlan
from pipeline.copy.sessions import Session, place_of
from pipeline.copy.target import states
from pipeline.copy.target.extras import LeftOut
from pipeline.copy.target.states import TableState
from pipeline.copy.unit import OnTable, Run, move
from pipeline.core.errors import PipelineError, TargetError, Transient
from pipeline.core.progress import note, waiting
from pipeline.core.quoting import quoted
from pipeline.postgres import schema
from pipeline.postgres.driver import locks
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target

_SESSIONS = 2
_ATTEMPTS = 5
_PAUSE_SECONDS = 2.0


def run(
    plan: CopyPlan,
    connect: Callable[[], contextlib.AbstractContextManager[Target]],
    options: CopyOptions,
    *,
    shown: str,
    on_table: OnTable = lambda _: None,
) -> CopyResult:
    """Copy all tables of a plan.

    Args:
        connect: opens a session with the target.
        shown: the name of the target in messages.
        on_table: called when a table has ended.

    Raises:
        PipelineError: the target cannot be used; nothing was changed.
    """
    started = time.perf_counter()
    place = place_of(options.schema)
    with connect() as target, target.lock(place, seconds=options.lock_seconds):
        present = _prepare(target, plan, options)
        running = Run(plan, options, present, on_table)
        running.ended = {name: threading.Event() for name in plan.tables}
        again = any(state.rules is not None for state in present.values())
        gone = states.vanished(target, plan.tables, options.schema) if again else []
        with waiting("copying the tables"):
            _run_units(running, target, sessions=1 if again else _SESSIONS)
        made: list[str] = []
        left: list[LeftOut] = []
        if running.error is not None:
            _fail(running, [n for n in plan.tables if n not in running.results], running.error)
        elif not options.verify:
            with contextlib.ExitStack() as opened:
                # The first session may be lost.
                used = opened.enter_context(target.another()) if running.retried else target
                made, left = views.make_all(used, plan, running.made)
    return CopyResult(
        options.run_id,
        plan.source.source,
        shown,
        tuple(running.results[name] for name in plan.tables if name in running.results),
        (*plan.left, *gone, *left),
        plan.behind,
        tuple(made),
        hints=tuple(plan.hints),
        seconds=time.perf_counter() - started,
    )


def _prepare(target: Target, plan: CopyPlan, options: CopyOptions) -> dict[str, TableState]:
    """Check the target, and make the schema and the ledger."""
    present = states.read(target, plan.tables)
    states.require_own(plan.tables, present)
    if not options.verify:
        schema.make_ledger(target)
        target.run(f"CREATE SCHEMA IF NOT EXISTS {quoted(options.schema)}")
        _require_right(target, options.schema)
    return present


def _require_right(target: Target, name: str) -> None:
    """Refuse a schema in which this user may create no tables; each table would fail."""
    ((allowed, user),) = target.rows(
        "SELECT has_schema_privilege($1, 'CREATE'), current_user::text", (name,)
    )
    if not allowed:
        raise TargetError(
            f"The user {user} may not create tables in the schema {name}",
            remedy=f"Execute GRANT CREATE ON SCHEMA {quoted(name)} TO {quoted(user)}, or name"
            " another schema with --schema",
        )


def _run_units(running: Run, target: Target, *, sessions: int) -> None:
    waiting, turn, marks = list(running.plan.units), threading.Lock(), list[int]()

    def units() -> Iterator[tuple[str, ...]]:
        while not running.stopped.is_set():
            with turn:
                if not waiting:
                    return
                unit = waiting.pop(0)
            yield unit

    def work(first: Target | None) -> None:
        try:
            with contextlib.ExitStack() as opened:
                try:
                    used = first or opened.enter_context(target.another())
                except TargetError as error:
                    # The first session moves all units.
                    note(f"{error.problem}; going on with one session")
                    return
                place = None if first is None else place_of(running.options.schema)
                seconds = running.options.lock_seconds
                session = Session(used, opened, place=place, lock_seconds=seconds)
                marks.append(session.mark)
                for unit in units():
                    _with_retries(running, session, unit)
        except BaseException:
            running.stop()
            raise

    with ThreadPoolExecutor(sessions, thread_name_prefix="copy") as pool:
        context = contextvars.copy_context
        futures = [pool.submit(context().run, work, target)]
        enough = min(sessions, len(running.plan.units))
        futures += [pool.submit(context().run, work, None) for _ in range(1, enough)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            running.stop()
            # Nobody waits for a long statement.
            with contextlib.suppress(TargetError), target.another() as other:
                for mark in marks:
                    locks.end_marked(other.rows, mark)
            raise


def _with_retries(running: Run, session: Session, unit: tuple[str, ...]) -> None:
    """Move a unit; a lost connection is opened again."""
    lost = False
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if lost and not _renewed(running, session, unit):
                return
            move(running, session.target, unit)
            break
        except Transient as error:
            if attempt == _ATTEMPTS or running.stopped.is_set():
                _end(running, unit, error)
                return
            running.retried = lost = True
            note(f"{error.problem}; trying again")
            time.sleep(_PAUSE_SECONDS)
        except (PipelineError, DataFault) as error:
            _fail(running, unit, error)
            break
    for name in unit:
        running.ended[name].set()


def _renewed(running: Run, session: Session, unit: Sequence[str]) -> bool:
    """Replace a lost session; if that is refused, the run ends."""
    try:
        labels = frozenset(each.label for each in running.plan.tables.values())
        session.renew(running.options.run_id, labels)
    except Transient:
        raise
    except PipelineError as error:
        _end(running, unit, error)
        return False
    return True


def _end(running: Run, unit: Sequence[str], error: PipelineError) -> None:
    """End the run, because no session can go on."""
    _fail(running, unit, error)
    running.error = error
    running.stop()


def _fail(running: Run, unit: Sequence[str], error: Exception) -> None:
    for name in unit:
        wanted = running.plan.tables[name]
        findings = getattr(error, "findings", ())
        result = TableResult(
            wanted.label,
            "failed",
            wanted.rows,
            wanted.bytes,
            findings=findings,
            error=str(error),
        )
        running.results[name] = result
        running.on_table(result)
