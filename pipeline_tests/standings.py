"""What the tests of standing checks share: a moved target, and what the checks say of it."""

import itertools
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.move.extract import Source
from pipeline.move.findings import (
    CheckResult,
    DigestDiffers,
    Finding,
)
from pipeline.move.policies import DEFAULT, Policies
from pipeline.move.prepare import Prepared, prepare
from pipeline.move.snapshot import take_snapshot
from pipeline.move.standing import NAMES, Sample, standing_checks
from pipeline.move.target import Target
from pipeline.settings import libpq
from pipeline.tables.content import metadata
from pipeline_tests.support import SourceFile, move_all, new_database

TABLES = metadata.sorted_tables
EVERYTHING = Sample(bytes=2**62, seed=0)
Checks = dict[str, CheckResult]
"""The standing checks of one table, by name."""

numbers = itertools.count()


def opened(path: Path, folder: Path, tables: Collection[sa.Table] = TABLES) -> Source:
    """A copy of a source, ready to be read."""
    return Source(take_snapshot(path, folder / f"copy {next(numbers)}.db", tables=tables))


def standing(
    where: str | Target,
    source: Source,
    table: sa.Table | str,
    *,
    planted: str = "",
    policies: Policies = DEFAULT,
    sample: Sample = EVERYTHING,
    only: Collection[str] = NAMES,
) -> Checks:
    """What the standing checks say of a table while a fault is planted; it is undone again."""
    declared = metadata.tables[table] if isinstance(table, str) else table
    prepared = prepare(declared, source, policies)
    connected = Target.connect(where, shown="the target") if isinstance(where, str) else None
    with connected or nullcontext(where) as target, target.looking():
        if planted:
            target.run(planted)
        found = checked(prepared, source, target, sample=sample, only=only)
    return {check.name: check for check in found}


def checked(
    prepared: Prepared,
    source: Source,
    target: Target,
    *,
    sample: Sample = EVERYTHING,
    only: Collection[str] = NAMES,
) -> tuple[CheckResult, ...]:
    return standing_checks(prepared, source=source, target=target, sample=sample, only=only)


def findings(checks: Checks) -> list[Finding]:
    """What the failed blocking checks found."""
    return [f for check in checks.values() if check.blocking for f in check.findings]


def broken(checks: Checks) -> set[str]:
    """Names of the blocking checks that failed."""
    return {check.name for check in checks.values() if check.blocking and not check.passed}


def without_digests(checks: Checks) -> Checks:
    """Checks without the digests themselves, which nobody can foretell."""
    kept = {}
    for name, check in checks.items():
        figures = {what: figure for what, figure in check.figures.items() if what != "digests"}
        said = tuple(f for f in check.findings if not isinstance(f, DigestDiffers))
        kept[name] = replace(check, findings=said, figures=figures)
    return kept


@dataclass(frozen=True)
class Moved:
    """A source that was moved, and what the standing checks say of it."""

    url: str
    session: Target
    file: SourceFile
    source: Source
    sound: dict[str, Checks]

    def expected(self, table: str, *other: CheckResult) -> Checks:
        """The sound outcome of a table but for these checks."""
        return without_digests(self.sound[table] | {check.name: check for check in other})


@pytest.fixture(scope="module")
def moved(server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    """Three contents with all that belongs to them, two rows in quarantine, one lossy value."""
    folder = tmp_path_factory.mktemp("standing")
    file = SourceFile.make(folder / "source.db")
    file.add_family(contents=3)
    file.add("learning_content", {"id": 50, "title": "x" * 201})
    file.add("rankings", {"id": 50, "rank_score": 7.5}, {"id": 51, "rank_score": 3.14159})
    file.run("UPDATE learning_content SET last_review_at = '2025-08-07' WHERE id = 1")
    with new_database(server, "standing") as made:
        url = libpq(made)
        move_all(file.path, url)
        source = opened(file.path, folder)
        with Target.connect(url, shown="the target") as session:
            sound = {table.name: standing(session, source, table) for table in TABLES}
            yield Moved(url, session, file, source, sound)
