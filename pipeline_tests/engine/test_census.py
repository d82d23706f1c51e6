"""The census of a migration's source: what it finds, and what it never shows."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from pipeline.copy.source.prepare import prepared
from pipeline.core.policies import Policies
from pipeline.declared.rules import ColumnRules, TableRules
from pipeline.migrations.declaration import Migration
from pipeline.reporting import census_page
from pipeline.scaffold.census import Census, TableReport, report
from pipeline.scaffold.columns import is_secret_name
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
sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("id_note", sa.Text, info=ColumnRules(secret=True).info),
    sa.Column("hint", sa.Text, info=ColumnRules(secret=True).info),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("seen_at", sa.DateTime(timezone=True)),
    info=TableRules(camel_case=True).info,
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
    assert [columns[name].state for name in ("id", "name", "age", "joined")] == [
        "values fit",
        "does not fit",
        "does not fit",
        "not declared",
    ]
    assert columns["joined"].declared is None
    assert columns["joined"].found == "2 values"
    assert columns["id"].examples == ("1", "2")
    assert (tables["notes"].declared, tables["notes"].stays) == (False, True)
    assert (tables["<b>x"].declared, tables["<b>x"].stays) == (False, False)


def test_nobody_reads_a_secret_and_no_name_is_markup(
    tables: dict[str, TableReport], tmp_path: Path
) -> None:
    found = Census("people", "x", tuple(tables.values()))
    page = census_page.write(tmp_path / "page", found, run_id="r").read_text()
    listed = [row for grid in census_page.grids(found, verbose=True) for row in grid.rows]
    data = json.dumps(census_page.as_json(found))
    shown = page + census_page.summary(found) + repr(listed) + data
    assert "p1n" not in shown
    assert "t0k" not in shown
    # What is not declared may be a secret column under another name.
    assert "h1dden" not in shown
    assert "pr1vate" not in shown
    assert "Ann" in page
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page
    assert "people.age |  | 2 integers, 40 to 99,999 | 40, 99999 | smallint | does not fit" in shown
    assert "(not shown)" in page


def test_texts_that_no_type_of_texts_can_store_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "people.db"
    with closing(sqlite3.connect(path)) as source:
        source.executescript(
            "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, pin TEXT, age, city TEXT);"
            "INSERT INTO people VALUES (1, CAST(x'ff' AS TEXT), '', 1, 'a' || char(0)),"
            " (2, 'Ann', '', 2, '2024-01-01 10:00')"
        )
    with prepared(File(path), home=tmp_path) as opened:
        (people,) = report(opened, MIGRATION)
    states = {column.name: column.state for column in people.columns}
    assert (states["name"], states["city"], states["pin"]) == (
        "does not fit",
        "does not fit",
        "same type",
    )
    assert people.columns[1].note.startswith("1 value does not fit the declared type; 1 text has")


def test_columns_are_matched_as_a_move_matches_them(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    with closing(sqlite3.connect(path)) as source:
        source.executescript(
            "CREATE TABLE account (id INTEGER PRIMARY KEY, idNote TEXT, other_hint TEXT, code TEXT,"
            " seen_at INTEGER, refreshToken TEXT);"
            "CREATE TABLE account_old (idNote TEXT, other_hint TEXT, code TEXT);"
            "INSERT INTO account VALUES (1, 'n0te', 'h1nt', NULL, 1700000000, 't0k');"
            "INSERT INTO account_old VALUES ('n0te', 'h1nt', 'c0de')"
        )
    policies = Policies(
        source_names={"account.hint": "other_hint"},
        forms={"account.seen_at": "seconds"},
        forbidden_nulls={"account.code": ""},
    )
    with prepared(File(path), home=tmp_path) as opened:
        account, old = report(opened, MIGRATION, policies)
    assert account.missing == ()
    assert [(c.name, c.hidden, c.state) for c in account.columns] == [
        ("id", False, "values fit"),
        ("idNote", True, "same type"),
        ("other_hint", True, "same type"),
        ("code", False, "same type"),
        ("seen_at", False, "values fit"),
        ("refreshToken", True, "not declared"),
    ]
    assert [column.note for column in account.columns] == [""] * 6
    assert [column.hidden for column in old.columns] == [True, True, True]
    for value in ("n0te", "h1nt", "t0k", "c0de"):
        assert value not in repr((account, old))
    assert "1700000000" in repr(account)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("accessToken", True),
        ("idToken", True),
        ("APIKey", True),
        ("passwordHash", True),
        ("access-token", True),
        ("token", True),
        ("accessTokenExpiresAt", False),
        ("keyboard", False),
        ("tokens_used", False),
    ],
)
def test_names_tell_secrets_in_any_spelling(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


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
