"""The proof attacks itself: faults are planted one at a time, and the checks have to find them.

A sample is moved into a scratch database of the embedded server. Each fault is planted in a
transaction, the standing checks look at every table, and the transaction is undone. Differences
that do no harm are planted in a copy of the source; nobody may report those.
"""

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy.engine import URL

from pipeline.move import session
from pipeline.move.errors import TargetError
from pipeline.move.extract import Source
from pipeline.move.findings import CheckResult, Finding
from pipeline.move.mover import Mover
from pipeline.move.prepare import prepare
from pipeline.move.snapshot import take_snapshot
from pipeline.move.standing import Sample, standing_checks
from pipeline.move.target import Target
from pipeline.sample.content import make_sample
from pipeline.settings import libpq, shown
from pipeline.tables.content import metadata

_EVERYTHING = Sample(bytes=2**62, seed=0)
_BANGKOK = timezone(timedelta(hours=7))


@dataclass(frozen=True)
class Fault:
    """Something that a migration can get wrong.

    Attributes:
        name: what is wrong, in a few words.
        sql: what plants it in the target.
        caught_by: the checks that have to fail, and no others.
    """

    name: str
    sql: str
    caught_by: frozenset[str]


@dataclass(frozen=True)
class Harmless:
    """Something that looks different and means the same.

    Attributes:
        name: what differs, in a few words.
        table: where it is planted in the source.
        column: the column whose every value is rewritten.
        rewrite: old value -> new value.
    """

    name: str
    table: str
    column: str
    rewrite: Callable[[str], str]


@dataclass(frozen=True)
class Outcome:
    """What the checks said of one planted difference.

    Attributes:
        name: the difference.
        expected: names of the checks that have to fail; none for a harmless one.
        caught: names of the checks that failed.
        finding: one of their findings.
    """

    name: str
    expected: frozenset[str]
    caught: frozenset[str]
    finding: Finding | None

    @property
    def right(self) -> bool:
        """Whether exactly those checks failed that had to."""
        return self.caught == self.expected


def _fault(name: str, sql: str, *caught_by: str) -> Fault:
    return Fault(name, sql, frozenset(caught_by))


FAULTS = (
    _fault(
        "the last row is dropped",
        "DELETE FROM rankings WHERE id = (SELECT max(id) FROM rankings)",
        *("conservation", "keys"),
    ),
    _fault(
        "one bit of one BLOB is flipped",
        "UPDATE fragment_assets SET asset_data = set_bit(asset_data, 1001, 1 - get_bit(asset_data,"
        " 1001)) WHERE id = (SELECT max(id) FROM fragment_assets)",
        "digests",
    ),
    _fault(
        "two columns are swapped",
        "UPDATE content_fragments SET native_text = body_text, body_text = native_text"
        " WHERE id = (SELECT min(id) FROM content_fragments)",
        "digests",
    ),
    _fault(
        "one moment is an hour off",
        "UPDATE learning_content SET created_at = created_at + interval '1 hour'"
        " WHERE id = (SELECT max(id) FROM learning_content)",
        "digests",
    ),
    _fault(
        "a rank is rounded the other way",
        "UPDATE rankings AS r SET rank_score = rank_score - sign(c.kept_as::numeric"
        " - c.original::numeric) * 0.01 FROM migration.conversions AS c WHERE r.id = ("
        "SELECT min(source_key::integer) FROM migration.conversions WHERE table_name = 'rankings')"
        " AND c.table_name = 'rankings' AND c.source_key = r.id::text",
        "digests",
    ),
    _fault(
        "a row is there twice, under another id",
        "INSERT INTO rankings SELECT (jsonb_populate_record(r, jsonb_build_object('id',"
        " (SELECT max(id) + 1 FROM rankings)))).* FROM rankings AS r ORDER BY id LIMIT 1",
        *("conservation", "keys", "sequences"),
    ),
    _fault(
        "a foreign key points to another row",
        "UPDATE rankings SET fragment_id = (SELECT max(id) FROM content_fragments)"
        " WHERE id = (SELECT min(id) FROM rankings)",
        "digests",
    ),
    _fault(
        "a number in a JSON text is changed",
        "UPDATE learning_content SET content_metadata = jsonb_set(content_metadata,"
        " '{original_card_id}', to_jsonb((content_metadata->>'original_card_id')::integer + 1))"
        " WHERE id = (SELECT min(id) FROM learning_content WHERE content_metadata ?"
        " 'original_card_id')",
        "digests",
    ),
    _fault(
        "a text has a space at its end",
        "UPDATE content_fragments SET native_text = native_text || ' '"
        " WHERE id = (SELECT max(id) FROM content_fragments)",
        "digests",
    ),
    _fault(
        "a NULL has become an empty text",
        "UPDATE content_fragments SET extra = '' WHERE id ="
        " (SELECT min(id) FROM content_fragments WHERE extra IS NULL)",
        "digests",
    ),
    _fault("an index is missing", "DROP INDEX idx_rankings_fragment", "schema"),
    _fault(
        "a sequence is behind",
        "ALTER SEQUENCE rankings_id_seq RESTART WITH 1",
        "sequences",
    ),
    _fault(
        "a row has left quarantine for nowhere",
        "DELETE FROM migration.quarantine WHERE ctid = (SELECT min(ctid) FROM migration.quarantine"
        " WHERE table_name = 'content_fragments')",
        *("conservation", "keys", "quarantine"),
    ),
    _fault(
        "a row lost its parent while triggers were off",
        "SET LOCAL session_replication_role = replica;"
        " DELETE FROM fragment_assets WHERE id = (SELECT min(asset_id) FROM rankings)",
        *("conservation", "keys", "foreign_keys"),
    ),
    _fault(
        "a foreign key is gone",
        "ALTER TABLE rankings DROP CONSTRAINT rankings_asset_id_fkey",
        *("foreign_keys", "schema"),
    ),
    _fault(
        "a CHECK allows more than declared",
        "ALTER TABLE rankings DROP CONSTRAINT rankings_rank_score_check,"
        " ADD CONSTRAINT rankings_rank_score_check CHECK (rank_score >= 0)",
        "schema",
    ),
    _fault(
        "a column allows NULL",
        "ALTER TABLE content_fragments ALTER COLUMN native_text DROP NOT NULL",
        "schema",
    ),
)


def _reversed(text: str) -> str:
    value = json.loads(text)
    if isinstance(value, dict):
        value = dict(reversed(value.items()))
    return json.dumps(value, indent=2)


def _elsewhere(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).astimezone(_BANGKOK).isoformat()  # noqa: UP017


HARMLESS = (
    Harmless("JSON members in another order", "learning_content", "content_metadata", _reversed),
    Harmless("equal instants in another zone", "learning_content", "created_at", _elsewhere),
)


def attack(server: URL) -> Iterator[Outcome]:
    """Plant everything, one at a time, and tell what was caught.

    Args:
        server: a PostgreSQL server on which a database may be made and dropped.

    Raises:
        TargetError: it does not answer, or allows no new database.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(_scratch_database(server))
        make_sample(folder / "sample.db")
        source = _copy(folder / "sample.db", folder / "copy.db")
        target = stack.enter_context(Target.connect(libpq(url), shown=shown(url)))
        with Mover.over(source, target, run_id="selftest") as mover:
            for at, table in enumerate(metadata.sorted_tables):
                mover.move(table, upcoming=metadata.sorted_tables[at + 1 :])
        sound = _checks(source, target)
        crying = [check for check in sound if check.blocking and not check.passed]
        if crying:
            yield _outcome("nothing is planted", frozenset(), [], crying)
        for fault in FAULTS:
            found = _checks(source, target, planted=fault.sql)
            yield _outcome(fault.name, fault.caught_by, sound, found)
        for number, harmless in enumerate(HARMLESS):
            changed = folder / f"harmless {number}.db"
            make_sample(changed)
            _rewrite(changed, harmless)
            found = _checks(_copy(changed, folder / f"copy {number}.db"), target)
            yield _outcome(harmless.name, frozenset(), sound, found)


@contextmanager
def _scratch_database(server: URL) -> Iterator[URL]:
    name = "pipeline_selftest"
    try:
        with (
            closing(session.connect(libpq(server), shown=shown(server))) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            cursor.execute(f"CREATE DATABASE {name}")
            try:
                yield server.set(database=name)
            finally:
                cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    except psycopg2.Error as error:
        raise TargetError.from_driver(error, where=shown(server), url=libpq(server)) from None


def _copy(path: Path, to: Path) -> Source:
    return Source(take_snapshot(path, to, tables=metadata.sorted_tables))


def _rewrite(path: Path, harmless: Harmless) -> None:
    def rewritten(value: Any) -> Any:
        return harmless.rewrite(value) if isinstance(value, str) else value

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.create_function("rewritten", 1, rewritten, deterministic=True)
        connection.execute(
            f"UPDATE {harmless.table} SET {harmless.column} = rewritten({harmless.column})"
            " WHERE id < 9000"
        )


def _checks(source: Source, target: Target, *, planted: str = "") -> list[CheckResult]:
    found: list[CheckResult] = []
    with target.looking():
        if planted:
            target.run(planted)
        for table in metadata.sorted_tables:
            found += standing_checks(
                prepare(table, source), source=source, target=target, sample=_EVERYTHING
            )
    return found


def _outcome(
    name: str, expected: frozenset[str], sound: list[CheckResult], found: list[CheckResult]
) -> Outcome:
    """What changed for the worse; where nothing was sound before, all that was found."""
    worse = [
        now
        for before, now in zip_longest(sound, found)
        if before is None or (now.findings, now.passed) != (before.findings, before.passed)
    ]
    findings = [finding for check in worse for finding in check.findings]
    return Outcome(
        name, expected, frozenset(check.name for check in worse), next(iter(findings), None)
    )
