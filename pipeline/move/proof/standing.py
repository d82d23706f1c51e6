"""Standing checks: what the target holds now, against source, ledger and declaration.

They need no move. Both databases are read again, each in one view; nothing is written. Of a table
larger than the sample, all keys are compared, and the values of a random part that a seed picks.
"""

import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pipeline.core import proof
from pipeline.core.errors import ShapeError, TargetError, Transient
from pipeline.core.findings import (
    OFFENDERS,
    CheckResult,
    Finding,
    NotComparable,
    OnlyAPart,
    OriginalMissing,
    QuarantineOutdated,
    Unaccounted,
)
from pipeline.core.progress import OnProgress
from pipeline.core.quoting import quoted
from pipeline.mapping.landing import Landing
from pipeline.move.compare import conversions
from pipeline.move.compare.changes import Changes
from pipeline.move.context.work import counter
from pipeline.move.ledger import conservation, mending, quarantine, watermarks
from pipeline.move.proof import verify
from pipeline.move.reading.extract import Range, Source, Survey
from pipeline.move.reading.prepare import Prepared
from pipeline.move.reading.sift import Sieve, Sifted
from pipeline.move.witness import witnessing
from pipeline.postgres import access, catalog, schema
from pipeline.postgres.target import DataFault, Target

_SINGLY: dict[str, Callable[[Target, Landing], CheckResult]] = {
    proof.FOREIGN_KEYS.name: verify.foreign_keys,
    proof.SEQUENCES.name: verify.sequences,
    proof.SCHEMA.name: catalog.check,
    proof.ACCESS.name: access.check,
    proof.QUARANTINE.name: verify.in_quarantine,
    proof.CONVERSIONS.name: verify.conversions_kept,
}
_CHUNK = 500
NAMES = proof.STANDING


@dataclass(frozen=True)
class Sample:
    """How much of a large table is compared value by value.

    Attributes:
        bytes: of a table with more, so many are picked.
        seed: which ones; the same seed picks the same ranges of the same source.
        witness_all: whether the second witness sees every row, not a sample.
    """

    bytes: int
    seed: int
    witness_all: bool = False


def standing_checks(
    prepared: Prepared,
    *,
    source: Source,
    target: Target,
    sample: Sample,
    only: Collection[str] = NAMES,
    on_progress: OnProgress = lambda _: None,
) -> tuple[CheckResult, ...]:
    """Check one committed table.

    Args:
        prepared: the table, matched and surveyed.
        source: the snapshot.
        target: a session within a transaction.
        sample: how much to compare.
        only: names of the checks to make.
        on_progress: told after every batch.

    Raises:
        ShapeError: the target holds no such table.
        SourceError: the snapshot cannot be read.
        TargetError: the target does not answer.
    """
    landing = prepared.landing
    checks: dict[str, CheckResult] = {}
    if not target.value(
        "SELECT to_regclass('migration.quarantine') IS NOT NULL"
        " AND to_regclass('public.' || quote_ident($1)) IS NOT NULL",
        (landing.name,),
    ):
        raise ShapeError(
            f"{landing.name} has never been moved into the target", remedy="Move it first"
        )
    if set(proof.BY_COMPARISON) & set(only):
        try:
            schema.check_shape(landing, schema.look(target, landing.name))
            # What is collected on the way is forgotten again.
            with target.undone():
                compared = list(_compared(prepared, source, target, sample, on_progress))
        except Transient:
            raise
        except (TargetError, DataFault) as error:
            compared = [_impossible(name, landing, error) for name in proof.BY_COMPARISON]
        checks |= {check.name: check for check in compared}
    singly: dict[str, Callable[[Target, Landing], CheckResult]] = {
        proof.WITNESS.name: lambda *_: _witnessed(prepared, source, target, sample),
        **_SINGLY,
    }
    for name, make in singly.items():
        if name in only:
            try:
                with target.undone():
                    checks[name] = make(target, landing)
            except Transient:
                raise
            except (TargetError, DataFault) as error:
                checks[name] = _impossible(name, landing, error)
    if proof.MENDED.name in only:
        checks[proof.MENDED.name] = mending.check(source.mended.get(landing.name, []))
    return tuple(checks[name] for name in NAMES if name in only)


def _witnessed(prepared: Prepared, source: Source, target: Target, sample: Sample) -> CheckResult:
    """What the second witness says of the target."""
    landing, survey, seed = prepared.landing, prepared.survey, str(sample.seed)
    if sample.witness_all:
        found = witnessing.check_all(source, target, landing)
    else:
        found = witnessing.look(source, target, landing, survey=survey, seed=seed).check()
    return _led_by(_only_a_part(target, landing), found)


def _impossible(name: str, landing: Landing, error: Exception) -> CheckResult:
    """A check that cannot be made has failed; the others are made all the same."""
    return CheckResult(name, False, True, (NotComparable(landing.name, str(error)),))


def _compared(
    prepared: Prepared, source: Source, target: Target, sample: Sample, on_progress: OnProgress
) -> Iterator[CheckResult]:
    landing, survey = prepared.landing, prepared.survey
    aside = {
        source.handle_from(landing, handle) for handle in quarantine.handles(target, landing.name)
    }
    sieve = Sieve(source, landing, prepared.contract, survey)
    sieve.rejected |= dict.fromkeys(aside)
    keys_only = _not_sampled(survey, sample)
    count = counter(landing.name, "compare", survey.rows, on_progress)
    conversions.begin(target)

    def note(changes: Changes) -> None:
        for lost in changes.lost:
            conversions.collect(target, landing.name, lost)
        if changes.sifted is not None:
            count(changes.sifted)

    compared = verify.examine(
        target,
        landing,
        survey,
        _batches(sieve, keys_only),
        on_changes=note,
        keys_only=keys_only,
    )
    only_a_part = _only_a_part(target, landing)
    yield _led_by(only_a_part, _conserved(prepared, source, target, sieve, aside))
    yield _led_by(only_a_part, verify.keys(compared))
    equal = verify.digests(landing, compared)
    missing, lacking = conversions.lacking(target, landing, limit=OFFENDERS)
    originals = tuple(OriginalMissing(landing.name, *each) for each in lacking)
    figures: dict[str, Any] = {"originals_missing": missing} if missing else {}
    if keys_only:
        rows = survey.rows - sum(part.rows for part in keys_only)
        figures |= {"sampled_rows": rows, "of_rows": survey.rows, "seed": sample.seed}
    yield proof.DIGESTS.result((*equal.findings, *originals), {**equal.figures, **figures})


def _only_a_part(target: Target, landing: Landing) -> tuple[Finding, ...]:
    """Why rows may be missing, before all that says which."""
    there = target.value("SELECT to_regclass('migration.watermarks') IS NOT NULL")
    mark = watermarks.read(target, landing.name) if there else None
    return (OnlyAPart(landing.name),) if mark is not None and mark.is_part else ()


def _led_by(why: tuple[Finding, ...], check: CheckResult) -> CheckResult:
    """A check that failed says first why that may be."""
    return check if check.passed else replace(check, findings=(*why, *check.findings))


def _conserved(
    prepared: Prepared, source: Source, target: Target, sieve: Sieve, aside: set[Any]
) -> CheckResult:
    """Conservation by real counts; what is not in the target is in quarantine as it is now."""
    landing = prepared.landing
    unaccounted = [handle for handle in sieve.rejected if handle not in aside]
    outdated = _outdated(prepared, source, target, aside)
    lost: tuple[Finding, ...] = (
        *(Unaccounted(landing.name, str(handle)) for handle in sorted(unaccounted)[:OFFENDERS]),
        *(QuarantineOutdated(landing.name, handle) for handle in outdated[:OFFENDERS]),
    )
    rows = target.value(f"SELECT count(*) FROM {quoted(landing.name)}")
    kept = conservation.check(target, landing, source.count(landing), rows)
    figures = {**kept.figures, "unaccounted": len(unaccounted)}
    if outdated:
        figures["outdated"] = len(outdated)
    return proof.CONSERVATION.result((*kept.findings, *lost), figures)


def _outdated(prepared: Prepared, source: Source, target: Target, aside: set[Any]) -> list[str]:
    """Handles in quarantine whose values are not those of the source's row.

    What a person mended since waits for its redrive, and is no loss.
    """
    landing = prepared.landing
    mended = {found.handle for found in source.mended.get(landing.name, ())}
    missing = {str(handle) for handle in aside} - mended
    differing: list[str] = []
    with source.sqlite() as connection:
        rows = prepared.contract.explain(
            connection,
            sorted(aside, key=str),
            handle_column=source.handle_column(landing),
            held={parent.name: set() for _, parent in landing.parents},
            known={},
        )
        seen = ((row.handle, quarantine.digests_of(row)) for row in rows)
        while chunk := dict(islice(seen, _CHUNK)):
            missing -= chunk.keys()
            kept = quarantine.digests(target, landing.name, list(chunk))
            # A column that is ignored today may have been kept.
            differing += [
                handle
                for handle, values in chunk.items()
                if handle not in mended and not values <= kept.get(handle, set())
            ]
    return sorted([*missing, *differing])


def _batches(sieve: Sieve, keys_only: Collection[Range]) -> Iterator[Sifted]:
    landing: Landing = sieve.landing
    keys = Sieve(sieve.source, landing.of_keys, sieve.contract, sieve.survey, sieve.rejected)
    for part in sieve.survey.ranges:
        yield (keys if part in keys_only else sieve).sift(part)


def _not_sampled(survey: Survey, sample: Sample) -> frozenset[Range]:
    """The ranges of which only keys are compared."""
    if survey.bytes <= sample.bytes:
        return frozenset()
    ranges: list[Any] = list(survey.ranges)
    random.Random(sample.seed).shuffle(ranges)  # noqa: S311
    size = 0
    for at, part in enumerate(ranges):
        if size >= sample.bytes:
            return frozenset(ranges[at:])
        size += part.bytes
    return frozenset()
