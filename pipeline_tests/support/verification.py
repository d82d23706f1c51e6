"""What the tests of standing checks share: a moved target, and what the checks say of it."""

import itertools
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.findings import (
    CheckResult,
    DigestDiffers,
    Finding,
    NotComparable,
    RowExtra,
    RowMissing,
    Unaccounted,
    ValueDiffers,
)
from pipeline.core.policies import DEFAULT, Policies
from pipeline.migrations.content import metadata
from pipeline.move.proof.verification import NAMES, Sample, verify_table
from pipeline.move.reading.prepare import Prepared, prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import take_snapshot
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database

TABLES = metadata.sorted_tables
EVERYTHING = Sample(bytes=2**62, seed=0)
Checks = dict[str, CheckResult]
"""The standing checks of one table, by name."""

numbers = itertools.count()


def opened(path: Path, folder: Path, tables: Collection[sa.Table] = TABLES) -> SourceView:
    """A copy of a source, ready to be read."""
    return SourceView(take_snapshot(path, folder / f"copy {next(numbers)}.db", tables=tables))


def standing(
    where: str | Target,
    source: SourceView,
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
    with connected or nullcontext(where) as target, target.read_only():
        if planted:
            target.run(planted)
        found = checked(prepared, source, target, sample=sample, only=only)
    return {check.name: check for check in found}


def checked(
    prepared: Prepared,
    source: SourceView,
    target: Target,
    *,
    sample: Sample = EVERYTHING,
    only: Collection[str] = NAMES,
) -> tuple[CheckResult, ...]:
    return verify_table(prepared, source=source, target=target, sample=sample, only=only)


def findings(checks: Checks) -> list[Finding]:
    """What the failed blocking checks found, but for the second witness's."""
    _assert_witnessed(checks)
    known = [check for check in checks.values() if check.blocking and check.name != "witness"]
    return [f for check in known for f in check.findings]


def broken(checks: Checks) -> set[str]:
    """Names of the blocking checks that failed, but for the second witness's."""
    _assert_witnessed(checks)
    failed = {check.name for check in checks.values() if check.blocking and not check.passed}
    return failed - {"witness"}


def _assert_witnessed(checks: Checks) -> None:
    """The second witness names every row that the engine names, at least."""
    if not {"witness", "keys", "digests"} <= checks.keys():
        return
    by_engine = [*checks["keys"].findings, *checks["digests"].findings]
    contract_checked = [*by_engine, *checks.get("conservation", checks["keys"]).findings]
    # What the rules of today would reject, and is not in quarantine, only the engine knows.
    if not any(isinstance(found, NotComparable | Unaccounted) for found in contract_checked):
        assert _rows(by_engine) <= _rows(checks["witness"].findings)


def _rows(found: Iterable[Finding]) -> set[object]:
    """Keys of the rows that findings name."""
    return {each.key for each in found if isinstance(each, RowMissing | RowExtra | ValueDiffers)}


def without_digests(checks: Checks) -> Checks:
    """Checks without the digests themselves, which nobody can foretell."""
    _assert_witnessed(checks)
    kept = {}
    for name, check in checks.items():
        if name == "witness":
            continue
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
    source: SourceView
    sound: dict[str, Checks]


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


@pytest.fixture
def changed(moved: Moved, tmp_path: Path) -> Callable[..., SourceView]:
    """Copies of the moved source with something changed since."""

    def change(statement: str) -> SourceView:
        file = SourceFile(tmp_path / f"changed {next(numbers)}.db")
        shutil.copy(moved.file.path, file.path)
        file.run(statement)
        return opened(file.path, tmp_path)

    return change
