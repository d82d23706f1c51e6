"""The census of a migration's source: what it finds, and what it never shows."""

import sqlite3
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from pipeline.copy.source.prepare import prepared
from pipeline.declared.rules import ColumnRules
from pipeline.migrations.declaration import Migration
from pipeline.reporting import census_page
from pipeline.scaffold.census import TableReport, report
from pipeline.sqlite.origin import File
from pipeline_tests.support.runs import loaded

metadata = sa.MetaData()
sa.Table(
    "people",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("pin", sa.Text, info=ColumnRules(secret=True).info),
    sa.Column("age", sa.SmallInteger),
    sa.Column("city", sa.Text),
)
MIGRATION = Migration("people", metadata, setting="PEOPLE_URL", stays=("notes",))


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, TableReport]:
    """A source that does not fit, by table."""
    path = tmp_path / "people.db"
    with closing(sqlite3.connect(path)) as source:
        source.executescript(
            "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, pin TEXT, age, joined TEXT,"
            " api_token TEXT, accessToken TEXT);"
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);"
            "CREATE TABLE <b>x (a TEXT);"
            "INSERT INTO notes VALUES (1, 'pr1vate');"
            "INSERT INTO people VALUES (1, 'Ann', 'p1n', 40, '2024-01-01', 't0k', 'h1dden'),"
            " (2, NULL, 'p1n', 99999, '2024-01-02', 't0k', 'h1dden')".replace("<b>x", '"<b>x"')
        )
    with prepared(File(path), home=tmp_path) as opened:
        return {table.name: table for table in report(opened, MIGRATION)}


def test_it_names_what_does_not_fit_and_what_is_not_declared(
    tables: dict[str, TableReport],
) -> None:
    people = tables["people"]
    columns = {column.name: column for column in people.columns}
    assert (people.rows, people.declared, people.missing) == (2, True, ("city",))
    assert columns["age"].note.startswith("1 value does not fit the declared type")
    assert columns["age"].found == "2 integers, 40 to 99,999"
    assert columns["name"].note == "declared NOT NULL, and NULL in 1 row"
    assert [columns[name].wrong for name in ("id", "name", "age")] == [False, True, True]
    assert columns["joined"].declared is None
    assert columns["joined"].found == "2 values"
    assert columns["id"].examples == ("1", "2")
    assert (tables["notes"].declared, tables["notes"].stays) == (False, True)
    assert (tables["<b>x"].declared, tables["<b>x"].stays) == (False, False)


def test_nobody_reads_a_secret_and_no_name_is_markup(
    tables: dict[str, TableReport], tmp_path: Path
) -> None:
    run = {"migration": "people", "source": "x", "run_id": "r", "tables": [*tables.values()]}
    page = census_page.write(tmp_path / "page", run).read_text()
    shown = page + census_page.summary([*tables.values()])
    assert "p1n" not in shown
    assert "t0k" not in shown
    # What is not declared may be a secret column under another name.
    assert "h1dden" not in shown
    assert "pr1vate" not in shown
    assert "Ann" in page
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page
    assert "| people.age | 2 integers, 40 to 99,999 | smallint |" in shown


def test_its_asset_writes_a_page_about_every_column(tmp_path: Path) -> None:
    with loaded("content") as defs, dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("census").execute_in_process(instance=instance)
    (found,) = result.asset_materializations_for_node("make_census")
    page = Path(str(found.metadata["page"].value))
    assert page.is_relative_to(tmp_path / "home")
    text = page.read_text()
    for words in (
        "Census of content",
        "fragment_assets",
        "learning_content",
        "What the source holds",
    ):
        assert words in text
    assert "content_fragments.native_text" in str(found.metadata["columns"].value).replace("\\", "")
    assert "anki_cards" not in str(found.metadata.get("not_declared"))
