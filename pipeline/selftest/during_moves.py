"""Faults planted during a move: in the driver, the reader, the casts and the target.

For each fault, one table of the sample moves into an empty target. The move must detect the fault
and roll back, refuse to start, or end with a target that equals the source.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq, shown
from pipeline.core.errors import PipelineError
from pipeline.core.findings import CheckResult, NotComparable
from pipeline.core.place import PUBLIC
from pipeline.mapping.table_mapping import TableMapping
from pipeline.migrations.content import metadata
from pipeline.move import engine
from pipeline.move.context.options import MoveOptions
from pipeline.move.proof import table_checks
from pipeline.move.proof.table_checks import ProofFailed
from pipeline.move.proof.verification import Sample, verify_table
from pipeline.move.reading import batch_converter
from pipeline.move.reading.prepare import prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.run import views
from pipeline.move.run.scope import Everything
from pipeline.move.run.views import SourceViews
from pipeline.postgres import session
from pipeline.postgres.target import Target
from pipeline.selftest.outcome import Outcome

REFUSED = "refused"
"""Takes the place of a check name if a move refuses to start."""

_TABLE = metadata.tables["learning_content"]
_EVERYTHING = Sample(bytes=2**62, seed=0, witness_all=True)
_WAIT_SECONDS = 0.3


@dataclass(frozen=True)
class MoveFault:
    """A fault of a move.

    Attributes:
        caught_by: the blocking checks that must fail, or ``REFUSED``; empty if the move must
            succeed nevertheless.
        moved_before: move the table once before, without the fault.
        sql: statements that plant the fault in the session of the move.
        during: plants the fault while the move runs; receives the target's URL.
    """

    name: str
    caught_by: frozenset[str]
    moved_before: bool = False
    sql: tuple[str, ...] = ()
    during: Callable[[URL], AbstractContextManager[object]] = lambda _: nullcontext()


class _ShorteningSource(SourceView):
    """A reader that drops the last character of every translation."""

    def read(self, *arguments: Any, **options: Any) -> pa.RecordBatch:
        """One range, with shortened translations."""
        batch = super().read(*arguments, **options)
        return _changed(batch, "translation", lambda texts: pc.utf8_slice_codeunits(texts, 0, -1))


def _changed(batch: pa.RecordBatch, name: str, by: Callable[[pa.Array], pa.Array]) -> Any:
    at = batch.schema.get_field_index(name)
    return batch if at < 0 else batch.set_column(at, name, by(batch.column(at)))


@contextmanager
def _cast_to_minutes(_: URL) -> Iterator[None]:
    """A cast that drops the seconds of a timestamp, wherever the engine converts."""
    original = batch_converter.convert

    def cut(mapping: TableMapping, raw: pa.RecordBatch) -> Any:
        batch, lossy = original(mapping, raw)
        minutes = pc.floor_temporal
        return _changed(batch, "created_at", lambda at: minutes(at, unit="minute")), lossy

    with _replaced(batch_converter, "convert", cut), _replaced(table_checks, "convert", cut):
        yield


@contextmanager
def _replaced(module: ModuleType, name: str, by: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, by)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _concurrent_insert(url: URL) -> Iterator[None]:
    """An insert that is uncommitted when the move starts, and commits while the move waits."""
    with closing(session.connect(libpq(url), shown=shown(url))) as other:
        other.autocommit = False
        with other.cursor() as cursor:
            cursor.execute(
                'INSERT INTO public.learning_content SELECT (jsonb_populate_record(r, \'{"id":'
                " 8000}')).* FROM public.learning_content AS r ORDER BY id LIMIT 1"
            )
        later = threading.Timer(_WAIT_SECONDS, other.commit)
        later.start()
        try:
            yield
        finally:
            later.join()


MOVE_FAULTS = (
    MoveFault(
        "the driver uses the wrong encoding",
        frozenset({"witness"}),
        sql=("SET client_encoding = 'LATIN1'",),
    ),
    MoveFault(
        "the reader drops characters",
        frozenset({"witness"}),
        during=lambda _: _replaced(views, "SourceView", _ShorteningSource),
    ),
    MoveFault("a cast drops seconds", frozenset({"witness"}), during=_cast_to_minutes),
    MoveFault(
        "a trigger changes a row at commit",
        frozenset({"digests", "witness"}),
        moved_before=True,
        sql=(
            "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " UPDATE public.learning_content SET ipa = 'late' WHERE id = NEW.id; RETURN NULL; END"
            " $$",
            "DELETE FROM public.learning_content WHERE id = 1",
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON public.learning_content"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.late()",
        ),
    ),
    MoveFault(
        "another table inherits from the moved one",
        frozenset({REFUSED}),
        moved_before=True,
        sql=(
            "CREATE TABLE public.archive () INHERITS (public.learning_content)",
            "INSERT INTO public.archive SELECT (jsonb_populate_record(r, '{\"id\": 8000}')).*"
            " FROM public.learning_content AS r ORDER BY id LIMIT 1",
        ),
    ),
    MoveFault(
        "another session inserts a row during the move",
        frozenset(),
        moved_before=True,
        sql=("SET default_transaction_isolation = 'repeatable read'",),
        during=_concurrent_insert,
    ),
)


def attack(sample: Path, folder: Path, url: URL) -> Iterator[Outcome]:
    """Plant all faults, one at a time, and report which checks caught them.

    Args:
        sample: the source.
        folder: receives copies of it.
        url: a scratch database; its schemas are dropped.
    """
    for fault in MOVE_FAULTS:
        with (
            Target.connect(libpq(url), shown=shown(url)) as target,
            SourceViews(lambda: sample, folder, name="selftest") as source,
        ):
            yield _planted(fault, source, url, target)


def _planted(fault: MoveFault, source: SourceViews, url: URL, target: Target) -> Outcome:
    target.run(
        "DROP SCHEMA IF EXISTS migration CASCADE",
        "DROP SCHEMA public CASCADE",
        "CREATE SCHEMA public",
    )
    if fault.moved_before:
        _move(source, target)
    target.run(*fault.sql)
    try:
        with fault.during(url):
            _move(source, target)
        found = _verify_committed(source, target)
    except ProofFailed as error:
        found = [check for check in error.checks if check.blocking]
    except PipelineError as error:
        refusal = (NotComparable(_TABLE.name, str(error)),)
        found = [CheckResult(REFUSED, False, True, refusal)]
    failed = [check for check in found if not check.passed]
    findings = [finding for check in failed for finding in check.findings]
    caught = frozenset(check.name for check in failed)
    return Outcome(fault.name, fault.caught_by, caught, next(iter(findings), None))


def _move(source: SourceViews, target: Target) -> None:
    options = MoveOptions("selftest")
    for _ in engine.run([_TABLE], source, target, PUBLIC, Everything(), options):
        pass


def _verify_committed(source: SourceViews, target: Target) -> list[CheckResult]:
    """The blocking checks of the committed table."""
    copy = source.copy([_TABLE], target=target)
    with target.read_only():
        checks = verify_table(prepare(_TABLE, copy), source=copy, target=target, sample=_EVERYTHING)
    return [check for check in checks if check.blocking]
