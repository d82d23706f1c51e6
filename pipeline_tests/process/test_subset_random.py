"""Subsets of random foreign keys, and subsets that are killed: nothing is lost or counted twice."""

import random
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.settings import PROJECT
from pipeline.move.reading.pinned_source import pinned
from pipeline.move.run.scope import Subset, find_rows_in_scope
from pipeline.postgres.target import Target
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import DEFAULTS, PARENTS, SourceFile
from pipeline_tests.support.subsets import belonging, counts, ids, move_subset
from pipeline_tests.support.syncs import NAMES, TABLES, assert_sides_agree, begin
from pipeline_tests.support.targets import query, reasons

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline_tests.support.subsets import move_subset
from pipeline_tests.support.sources import SourceFile
for line in sys.stdin:
    table = line.strip()
    def kill(progress):
        if progress.table == table:
            os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if not child:
        move_subset(SourceFile(Path(sys.argv[1])), sys.argv[2], 1, on_progress=kill)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Moves subsets in processes of their own, each of which kills itself within a table's move."""

Links = dict[str, list[tuple[int | None, ...]]]
"""Table -> what each of its rows refers to, in the order of PARENTS; ids count from 1."""

_parent = st.integers(1, 6)
_links = st.fixed_dictionaries(
    {
        "content_fragments": st.lists(st.tuples(_parent), max_size=8),
        "fragment_assets": st.lists(st.tuples(_parent), max_size=8),
        "rankings": st.lists(st.tuples(st.none() | _parent, st.none() | _parent), max_size=8),
    }
)


def write(source: SourceFile, links: Links, *, contents: int = 4) -> None:
    """Make the source hold these rows and no others."""
    with closing(sqlite3.connect(source.path)) as connection, connection:
        for table in NAMES:
            connection.execute(f"DELETE FROM {table}")
            rows = links.get(table, [()] * contents)
            for key, refers in enumerate(rows, 1):
                named = dict(zip(PARENTS[table], refers, strict=True))
                row = {**DEFAULTS[table], "id": key, **named}
                marks = ", ".join("?" * len(row))
                connection.execute(
                    f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values())
                )


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(links=_links, keys=st.sets(st.integers(1, 4), min_size=1))
def test_what_belongs_is_what_leads_there_row_by_row(
    source: SourceFile, target_url: str, links: Links, keys: set[int]
) -> None:
    write(source, links)
    with (
        tempfile.TemporaryDirectory() as folder,
        Target.connect(target_url, shown="the target") as target,
        pinned(source.path, Path(folder), tables=TABLES, busy_seconds=2) as live,
    ):
        found = find_rows_in_scope(Subset(tuple(keys)), TABLES, live=live, target=target)
    assert {name: set(reached.keys) for name, reached in found.items()} == belonging(source, *keys)


def test_source_is_moved_and_quarantined_and_excluded_whatever_refers_to_what(
    source: SourceFile, target_url: str
) -> None:
    rng = random.Random(7)

    def links() -> Links:
        def some(*kinds: list[int | None]) -> list[tuple[int | None, ...]]:
            return [tuple(map(rng.choice, kinds)) for _ in range(rng.randint(3, 12))]

        rows: list[int | None] = [*range(1, 7)]
        return {
            "content_fragments": some(rows),
            "fragment_assets": some(rows),
            "rankings": some([*rows, None], [*rows, None]),
        }

    for at in range(6):
        write(source, links())
        keys = rng.sample(range(1, 5), 2)
        if rng.random() < 0.5:
            source.run("UPDATE content_fragments SET fragment_type = '' || ?", ["x" * 51])
            source.run("UPDATE content_fragments SET fragment_type = 'tip' WHERE id % 3")
        inside = belonging(source, *keys)
        found = counts(move_subset(source, target_url, *keys))
        there = ids(target_url)
        for table, (_, moved, aside, _) in found.items():
            # What the target had in scope may have gone elsewhere in the source.
            assert moved + aside >= len(inside[table])
            assert at or moved + aside == len(inside[table])
            waiting = {int(key) for key in reasons(target_url, table)}
            assert inside[table] <= there[table] | waiting
            assert not inside[table] & there[table] & waiting
    move_all(source.path, target_url, delete_share=1)
    assert_sides_agree(source, target_url)


def test_a_subset_that_is_killed_anywhere_is_finished_by_the_next_one(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    begin(source, target_url, "dates")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(source.path), target_url],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killed:
        assert killed.stdin and killed.stdout
        for table in ("content_fragments", "rankings"):
            # A parent that is rejected takes all that belongs to it along in the target.
            source.run("UPDATE learning_content SET title = ? WHERE id = 1", ["x" * 201])
            killed.stdin.write(f"{table}\n")
            killed.stdin.flush()
            assert killed.stdout.readline() == "-9\n"
            found = counts(move_subset(source, target_url, 1))
            assert [aside for _, _, aside, _ in found.values()] == [1, 2, 2, 4]
            assert query(target_url, "SELECT count(*) FROM migration.cascaded") == [(0,)]
            assert_sides_agree(source, target_url)
            source.run("UPDATE learning_content SET title = 'whole' WHERE id = 1")
            found = counts(move_subset(source, target_url, 1))
            assert [aside for _, _, aside, _ in found.values()] == [0, 0, 0, 0]
        killed.stdin.close()
    move_all(source.path, target_url)
    assert_sides_agree(source, target_url)
