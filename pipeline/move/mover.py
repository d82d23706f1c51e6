"""A move: make one target table equal to its source table, and prove it, in one transaction.

An empty target is filled bare and gets its keys afterwards. A target with rows is compared, and
only what differs is written. Either way both sides are then read again; when anything is not
equal, the whole transaction is rolled back. Moving twice changes nothing the second time.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.move import conversions, load, quarantine, schema, verify
from pipeline.move.changes import Changes
from pipeline.move.contract import Contract, Rejected, quoted
from pipeline.move.errors import ShapeError, TooManyDeletes
from pipeline.move.extract import Source, Survey
from pipeline.move.findings import CheckResult, Lossy
from pipeline.move.landing import Landing
from pipeline.move.prepare import Prepared
from pipeline.move.sift import Sieve, Sifted, ahead
from pipeline.move.target import Target

DELETE_SHARE = 0.25
"""A move may delete this share of a table's rows; more looks like a wrong source."""


@dataclass(frozen=True)
class Progress:
    """How far a phase of a move has come."""

    table: str
    phase: Literal["load", "compare", "prove"]
    rows: int
    of_rows: int
    bytes: int
    seconds: float


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Move:
    """What a move did and proved.

    Attributes:
        table: its name.
        way: "filled" (the target was empty), "merged" or "unchanged".
        source_rows: rows of the source table.
        source_bytes: bytes of their values.
        moved_rows: rows of the target table now.
        written_rows: rows inserted or updated.
        deleted_rows: rows deleted.
        quarantined_rows: rows in quarantine.
        columns: the target's columns, as (name, type, description).
        checks: outcome of every check; all blocking ones passed.
        seconds: time per phase.
    """

    table: str
    way: Literal["filled", "merged", "unchanged"]
    source_rows: int
    source_bytes: int
    moved_rows: int
    written_rows: int
    deleted_rows: int
    quarantined_rows: int
    columns: tuple[tuple[str, str, str], ...]
    checks: tuple[CheckResult, ...]
    seconds: dict[str, float]


@dataclass
class _Work:
    """One move under way."""

    target: Target
    source: Source
    landing: Landing
    contract: Contract
    survey: Survey
    run_id: str
    delete_share: float
    on_progress: OnProgress
    written: int = 0
    deleted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sieve = Sieve(self.source, self.landing, self.contract, self.survey)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started

    def counter(self, phase: Literal["load", "compare", "prove"]) -> Callable[[Sifted], None]:
        started, rows, size = time.perf_counter(), 0, 0

        def count(sifted: Sifted) -> None:
            nonlocal rows, size
            rows += sifted.part.rows
            size += sifted.part.bytes
            self.on_progress(
                Progress(
                    self.landing.name,
                    phase,
                    rows,
                    self.survey.rows,
                    size,
                    time.perf_counter() - started,
                )
            )

        return count


def move_table(
    prepared: Prepared,
    *,
    source: Source,
    target: Target,
    run_id: str,
    delete_share: float = DELETE_SHARE,
    on_progress: OnProgress = lambda _: None,
) -> Move:
    """Move one table; its parents have moved before.

    Raises:
        ProofFailed: a blocking check failed; nothing was changed.
        TooManyDeletes: more than the share of the target would go; nothing was changed.
        ShapeError: the target holds another table of that name.
        SourceError: the snapshot cannot be read.
        TargetError: the target cannot be written.
    """
    landing = prepared.landing
    work = _Work(
        target,
        source,
        landing,
        prepared.contract,
        prepared.survey,
        run_id,
        delete_share,
        on_progress,
    )
    with target.transaction():
        target.run(*schema.ledger_ddl())
        present = schema.look(target, landing.name)
        schema.check_shape(landing, present)
        _check_parents(target, landing)
        compared: verify.Compared | None = None
        way: Literal["filled", "merged", "unchanged"]
        if present.rows:
            compared, way = _merge(work, present)
        else:
            _fill(work, present)
            way = "filled"
        with work.timed("sequence"):
            _advance_sequence(target, landing, work.survey)
        with work.timed("quarantine"):
            _keep_rejected(work)
        if compared is None:
            compared, lossy = _prove(work)
        else:
            lossy = conversions.replace(target, landing.name)
        with work.timed("prove"):
            checks = verify.checks_of(target, landing, work.survey, compared, lossy)
        if any(check.blocking and not check.passed for check in checks):
            raise verify.ProofFailed(landing.name, checks)
        _write_evidence(work, checks)
        committing = time.perf_counter()
    work.seconds["commit"] = time.perf_counter() - committing
    counted = checks[0].figures
    return Move(
        landing.name,
        way,
        counted["source_rows"],
        work.survey.bytes,
        counted["moved"],
        work.written,
        work.deleted,
        counted["quarantined"],
        tuple(
            (column.name, schema.type_name(column), str(column.info.get("description", "")))
            for column in landing.table.columns
        ),
        checks,
        work.seconds,
    )


def _check_parents(target: Target, landing: Landing) -> None:
    for _, parent in landing.parents:
        if parent.name != landing.name and not schema.look(target, parent.name).exists:
            raise ShapeError(
                f"{landing.name} refers to {parent.name}, which the target does not have",
                remedy=f"Move {parent.name} first",
            )


def _fill(work: _Work, present: schema.Present) -> None:
    target, landing, sieve = work.target, work.landing, work.sieve
    with work.timed("load"):
        target.run(*schema.prepare(landing, present), *schema.strip(landing, present))
        target.run(f"LOCK TABLE {quoted(landing.name)} IN ACCESS EXCLUSIVE MODE")
        with ahead(iter(sieve)) as batches:
            load.fill(target, sieve, batches, on_batch=work.counter("load"))
    with work.timed("keys"):
        bare = schema.look(target, landing.name)
        _build(work, bare)
    with work.timed("analyze"):
        target.run(f"ANALYZE {quoted(landing.name)}")
    work.written = work.survey.rows - len(sieve.rejected)


def _build(work: _Work, present: schema.Present) -> None:
    """Add the foreign keys, keys and indexes that are not there."""
    target, sieve, landing = work.target, work.sieve, work.landing
    load.build(target, sieve, schema.foreign_keys(landing, present), on_fault="orphans")
    load.build(target, sieve, schema.keys(landing, present), on_fault="never")
    load.build(target, sieve, schema.indexes(landing, present), on_fault="long")


def _merge(
    work: _Work, present: schema.Present
) -> tuple[verify.Compared | None, Literal["merged", "unchanged"]]:
    """Write what differs; returns the comparison when there was nothing to write."""
    target, landing, sieve = work.target, work.landing, work.sieve
    key = landing.key.name
    target.run(
        f"LOCK TABLE {quoted(landing.name)} IN SHARE ROW EXCLUSIVE MODE",
        *schema.prepare(landing, present),
    )
    load.make_stage(target, landing)
    conversions.begin(target)
    gone: list[Any] = []
    count = work.counter("compare")

    def stage(changes: Changes) -> None:
        gone.extend(changes.extra.to_pylist())
        for lost in changes.lost:
            conversions.collect(target, landing.name, lost)
        batch = None if changes.nothing else changes.to_write(key)
        if batch is not None:
            load.set_down_singly(target, sieve, load.STAGE, batch, temporary=True)
        if changes.sifted is not None:
            count(changes.sifted)

    with work.timed("compare"):
        compared = verify.examine(target, landing, work.survey, iter(sieve), on_changes=stage)
    if compared.equal and not sieve.rejected:
        with work.timed("keys"):
            _build(work, schema.look(target, landing.name))
        return compared, "unchanged"
    with work.timed("load"):
        load.drop_orphans(target, sieve, load.STAGE)
        _guard_deletes(work, len(gone))
        _delete(work, gone)
        work.written = target.value(f"SELECT count(*) FROM {load.STAGE}")
        load.merge(target, sieve)
        _delete(work, _stale(work))
    target.run(f"DROP TABLE {load.STAGE}")
    with work.timed("keys"):
        _build(work, schema.look(target, landing.name))
    return None, "merged" if work.written or work.deleted else "unchanged"


def _stale(work: _Work) -> list[Any]:
    """Keys of rejected rows that the target still holds in an older version."""
    keys = [row.key for row in _explain(work) if row.key is not None]
    name = quoted(work.landing.key.name)
    found = work.target.rows(
        f"SELECT {name} FROM {quoted(work.landing.name)} WHERE {name}::text = ANY($1)", (keys,)
    )
    return [key for (key,) in found] if keys else []


def _guard_deletes(work: _Work, deletes: int) -> None:
    if not deletes:
        return
    rows = work.target.value(f"SELECT count(*) FROM {quoted(work.landing.name)}")
    if deletes > rows * work.delete_share:
        raise TooManyDeletes(
            f"{work.landing.name}: {deletes} of {rows} rows of the target are not in the source"
            f" {work.source.path}; at most {work.delete_share:.0%} may be deleted in one run",
            remedy="Check that this is the right source; if it is, raise MAX_DELETE_SHARE",
        )


def _delete(work: _Work, keys: list[Any]) -> None:
    if keys:
        name = quoted(work.landing.key.name)
        work.target.rows(
            f"DELETE FROM {quoted(work.landing.name)} WHERE {name} = ANY($1) RETURNING 1", (keys,)
        )
        work.deleted += len(keys)


def _advance_sequence(target: Target, landing: Landing, survey: Survey) -> None:
    """Let ids go on behind the largest one, rows in quarantine included; never turn back."""
    sequence = verify.sequence_of(target, landing)
    if sequence is not None:
        largest = survey.ranges[-1].last if survey.ranges else 0
        target.rows(
            f"SELECT setval($1::text::regclass, m) FROM (SELECT greatest($2::bigint,"
            f" max({quoted(landing.key.name)})) AS m FROM {quoted(landing.name)}) AS t,"
            f" {sequence} AS s WHERE m >= s.last_value + CASE WHEN s.is_called THEN 1 ELSE 0 END",
            (sequence, largest),
        )


def _explain(work: _Work) -> Iterator[Rejected]:
    held = quarantine.held_keys(work.target, [parent.name for _, parent in work.landing.parents])
    known = {str(h): reason for h, reason in work.sieve.rejected.items() if reason is not None}
    with work.source.sqlite() as connection:
        yield from work.contract.explain(
            connection,
            sorted(work.sieve.rejected),
            handle_column=work.source.handle_column(work.landing),
            held=held,
            known=known,
        )


def _keep_rejected(work: _Work) -> None:
    rejected = _explain(work) if work.sieve.rejected else iter(())
    quarantine.replace(work.target, work.landing.name, rejected, run_id=work.run_id)


def _prove(work: _Work) -> tuple[verify.Compared, tuple[Lossy, ...]]:
    target, landing = work.target, work.landing
    with work.timed("prove"):
        integers = work.survey.ranges and isinstance(work.survey.ranges[0].first, int)
        aside = quarantine.handles(target, landing.name)
        without: set[Any] = {int(handle) for handle in aside} if integers else set(aside)
        conversions.begin(target)
        count = work.counter("prove")

        def note(changes: Changes) -> None:
            for lost in changes.lost:
                conversions.collect(target, landing.name, lost)
            if changes.sifted is not None:
                count(changes.sifted)

        batches = verify.as_found(work.source, landing, work.survey, without=without)
        compared = verify.examine(target, landing, work.survey, batches, on_changes=note)
        return compared, conversions.replace(target, landing.name)


def _write_evidence(work: _Work, checks: tuple[CheckResult, ...]) -> None:
    counted, digests = checks[0].figures, checks[2].figures["digests"]
    work.target.rows(
        "INSERT INTO migration.evidence"
        " (run_id, table_name, source_rows, target_rows, quarantined_rows, digests)"
        " VALUES ($1, $2, $3, $4, $5, $6::jsonb) ON CONFLICT (run_id, table_name) DO UPDATE SET"
        " proven_at = now(), source_rows = EXCLUDED.source_rows,"
        " target_rows = EXCLUDED.target_rows, quarantined_rows = EXCLUDED.quarantined_rows,"
        " digests = EXCLUDED.digests RETURNING 1",
        (
            work.run_id,
            work.landing.name,
            counted["source_rows"],
            counted["moved"],
            counted["quarantined"],
            json.dumps(digests),
        ),
    )
