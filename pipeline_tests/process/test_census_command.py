"""``pipeline census`` shows what a source holds, and needs no target."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline_tests.support.commands import pipeline

NOWHERE = "postgresql://postgres@127.0.0.1:1/nowhere"
COMPLETE = """CREATE TABLE rankings (id INTEGER PRIMARY KEY, fragment_id INTEGER, asset_id INTEGER,
rank_score FLOAT, assessed_by TEXT, assessment_notes TEXT, created_at DATETIME, updated_at DATETIME,
api_token TEXT);
INSERT INTO rankings VALUES (1, NULL, NULL, 1.5, 'nok', NULL, '2025-01-01', '2025-01-01', 's3cret');
"""


def test_it_lists_each_column_of_the_sample_and_writes_a_page(tmp_path: Path) -> None:
    ran = pipeline("census", "content", PIPELINE_HOME=tmp_path, DATABASE_URL=NOWHERE)
    assert ran.code == 0, ran.err
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert f"source {tmp_path}/sample.db" in lines
    assert "anki_cards stays in SQLite 64 9.5 KiB 8 0" in lines
    assert (
        "fragment_assets.asset_data 194 BLOBs, 1 NULL bytea does not fit"
        " declared NOT NULL, and NULL in 1 row"
    ) in lines
    assert lines[-1] == "4 declared tables, 1,058 rows: 9 columns to look at"
    page = Path(lines[-2].removeprefix("page "))
    assert page.is_relative_to(tmp_path)
    assert "Census of content" in page.read_text()


@pytest.mark.parametrize("kind", ["sqlite", "dump"])
def test_programs_read_json_without_secrets(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "dump":
        source.write_text(f"BEGIN TRANSACTION;\n{COMPLETE}COMMIT;\n")
    else:
        with closing(sqlite3.connect(source)) as file:
            file.executescript(COMPLETE)
    ran = pipeline(
        *("census", "--json"),
        PIPELINE_HOME=tmp_path / "home",
        DATABASE_URL=NOWHERE,
        SQLITE_DATABASE_URL=f"{kind}:///{source}",
    )
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    (table,) = data["tables"]
    columns = {column["name"]: column for column in table["columns"]}
    assert (table["name"], table["rows"], table["declared"]) == ("rankings", 1, True)
    assert columns["rank_score"]["state"] == "values fit"
    assert columns["rank_score"]["figures"]["reals"] == 1
    assert columns["created_at"]["figures"]["forms"] == {"date": 1}
    assert columns["api_token"]["hidden"] is True
    assert "s3cret" not in ran.out + Path(data["page"]).read_text()


def test_a_source_that_is_missing_ends_with_a_sentence(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/missing.db"
    ran = pipeline("census", PIPELINE_HOME=tmp_path / "home", SQLITE_DATABASE_URL=url)
    assert (ran.code, ran.out) == (2, "")
    assert "missing.db" in ran.err
    assert "Traceback" not in ran.err
