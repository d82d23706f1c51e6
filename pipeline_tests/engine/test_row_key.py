"""A table whose rows no single column tells apart is refused before anything is changed."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.core.errors import PipelineError
from pipeline.sqlite import tracking
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query

PLACES = "CREATE TABLE places (id INTEGER PRIMARY KEY, name TEXT);"
KEYED = "CREATE TABLE words ({}, language TEXT NOT NULL, text TEXT{}){};"
ONE, TWO, NONE = {"id"}, {"id", "language"}, set[str]()


def tables(*, key: set[str]) -> list[sa.Table]:
    """A table that is sound, and one with a key of these columns."""
    made = sa.MetaData()
    places = sa.Table("places", made, sa.Column("id", sa.Integer, primary_key=True))
    places.append_column(sa.Column("name", sa.Text))
    words = sa.Table("words", made)
    for name, kind in (("id", sa.Integer), ("language", sa.Text), ("text", sa.Text)):
        words.append_column(sa.Column(name, kind, primary_key=name in key))
    return [places, words]


@pytest.mark.parametrize(
    ("key", "ddl", "said"),
    [
        (TWO, ("id INTEGER", ", PRIMARY KEY (id, language)", ""), r"\(id, language\)"),
        (NONE, ("id INTEGER PRIMARY KEY", "", ""), "words is declared with no primary key"),
        (
            ONE,
            ("id INTEGER", ", PRIMARY KEY (language, id)", ""),
            r"words of the source .* a primary key of 2 columns \(language, id\)",
        ),
        (
            ONE,
            ("id INTEGER", ", PRIMARY KEY (id, language)", " WITHOUT ROWID"),
            r"words of the source .* a primary key of 2 columns \(id, language\)",
        ),
        (
            ONE,
            ("id INTEGER", ", PRIMARY KEY (text)", " WITHOUT ROWID"),
            "words of the source .* the primary key text and no rowid, so values of id may not",
        ),
    ],
)
def test_a_key_that_is_not_one_column_is_refused_before_anything_changes(
    key: set[str], ddl: tuple[str, str, str], said: str, target_url: str, tmp_path: Path
) -> None:
    source = SourceFile.make(tmp_path / "source.db", PLACES + KEYED.format(*ddl))
    source.run("INSERT INTO places VALUES (1, 'here')")
    source.run("INSERT INTO words VALUES (1, 'th', 'a'), (2, 'en', 'b')")
    both = tables(key=key)
    for act in (
        lambda: move_all(source.path, target_url, tables=both),
        lambda: sync_all(source.path, target_url, tables=both),
        lambda: tracking.switch_on(source.path, both),
    ):
        with pytest.raises(PipelineError, match=said):
            act()
    assert query(target_url, "SELECT count(*) FROM pg_stat_user_tables") == [(0,)]
    assert source.run("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'") == [(0,)]


def test_rows_of_a_source_without_a_key_are_told_apart_by_the_declared_one(
    target_url: str, tmp_path: Path
) -> None:
    ddl = PLACES + KEYED.format("id INTEGER", "", "")
    source = SourceFile.make(tmp_path / "source.db", ddl)
    source.run("INSERT INTO words VALUES (1, 'th', 'a'), (1, 'en', 'b'), (2, 'th', 'c')")
    moved = move_all(source.path, target_url, tables=tables(key=ONE))["words"]
    assert (moved.source_rows, moved.moved_rows, moved.quarantined_rows) == (3, 1, 2)
