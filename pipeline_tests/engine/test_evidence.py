"""The evidence of a run: a page that needs nothing from outside, and the same as JSON.

The page is read as a browser reads it, so that what is asserted is what a person would see.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from pipeline.migrations.content import metadata
from pipeline.move.proof.table_checks import ProofFailed
from pipeline.orchestration.common import evidence
from pipeline.orchestration.common.blob_sizes import BlobSizes, blob_sizes
from pipeline.postgres.target import Target
from pipeline.reporting import evidence_page
from pipeline_tests.support.commands import usable
from pipeline_tests.support.evidence_pages import (
    HOSTILE,
    RUN,
    Page,
    cells,
    heading,
    hostile,
    page,
    part,
    read_back,
)
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import CHANGE_ON_INSERT, query

# What every page promises.


@pytest.mark.parametrize("kind", ["moved", "hostile"])
def test_a_page_names_no_resource(source: SourceFile, target_url: str, kind: str) -> None:
    if kind == "moved":
        source.add_family(contents=2)
        source.add("learning_content", {"id": 70, "title": "x" * 201})
        moves = move_all(source.path, target_url)
        with Target.connect(target_url, shown="the target") as target:
            run = replace(
                RUN,
                tables=[
                    evidence.of_move(moves[table.name], table, target)
                    for table in metadata.sorted_tables
                ],
            )
    else:
        run = hostile(HOSTILE)
    root = Page(evidence_page.render(run)).root
    loading = {"script", "link", "img", "image", "iframe", "object", "embed", "base", "audio"}
    assert not loading & {each.tag for each in root.all()}
    named = {each.attributes["id"] for each in root.all() if "id" in each.attributes}
    for each in root.all():
        for name, value in each.attributes.items():
            assert name not in ("src", "srcset", "action", "data", "poster", "background")
            assert not name.startswith("on")
            if name in ("href", "xlink:href"):
                assert value[:1] == "#"
                assert value[1:] in named
            if name == "style":
                assert re.fullmatch(r"(left:[\d.]+%;)?width:[\d.]+%", value)
    (style,) = root.all("style")
    assert set(re.findall(r"url\((.)", style.text)) == {"#"}
    assert not re.search(r"@import|//|https?:|expression\(", style.text)
    (policy,) = [e for e in root.all("meta") if "http-equiv" in e.attributes]
    assert policy.attributes["content"].startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_the_json_is_what_the_page_was_made_of(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    source.add("learning_content", {"id": 70, "title": "ก" * 201})
    move = move_all(source.path, target_url)["learning_content"]
    with Target.connect(target_url, shown="the target") as target:
        made = evidence.of_move(move, metadata.tables["learning_content"], target)
    html = evidence.record(tmp_path, RUN, made)
    assert html == tmp_path / "evidence.html"
    found = read_back(tmp_path)
    assert found == replace(RUN, tables=[made])
    assert evidence_page.render(found) == html.read_text(encoding="utf-8")
    data = json.loads((tmp_path / "evidence.json").read_bytes())
    assert data["proven"] is found.proven is True
    assert data["tables"][0]["moved"]["quarantined"] == 1


# The verdict.


# Rows.


# Time and sizes.


def test_blobs_fall_into_powers_of_two(source: SourceFile, target_url: str) -> None:
    sizes = [0, 1, 2, 1023, 1024, 1025, None]
    source.add("learning_content", {"id": 1})
    source.add("content_fragments", {"id": 1})
    source.add(
        "fragment_assets",
        *(
            {"id": i, "asset_data": None if size is None else b"\0" * size}
            for i, size in enumerate(sizes)
        ),
    )
    move = move_all(source.path, target_url)["fragment_assets"]
    with Target.connect(target_url, shown="the target") as target:
        made = evidence.of_move(move, metadata.tables["fragment_assets"], target)
    assert made.blobs == [BlobSizes("asset_data", 6, 3075, {0: 2, 1: 1, 9: 1, 10: 2})]
    assert made.moved is not None
    assert (made.moved["moved"], made.moved["quarantined"]) == (6, 1)
    rows = cells(page(made).all("table", of="histogram")[0])[1:]
    assert [row[:2] for row in rows if row[1] != "0"] == [
        ["under 2 B", "2"],
        ["2 B to 4 B", "1"],
        ["512 B to 1 KiB", "1"],
        ["1 KiB to 2 KiB", "2"],
    ]
    assert len(rows) == 11


def test_a_blob_that_is_null_has_no_size(target_url: str) -> None:
    query(target_url, "CREATE TABLE files (id integer, a bytea, b bytea)")
    query(target_url, "INSERT INTO files VALUES (1, '\\x00', NULL), (2, NULL, NULL)")
    columns = (sa.Column("a", sa.LargeBinary), sa.Column("b", sa.LargeBinary))
    table = sa.Table("files", sa.MetaData(), sa.Column("id", sa.Integer), *columns)
    with Target.connect(target_url, shown="the target") as target:
        found = blob_sizes(target, table)
    assert found == [BlobSizes("a", 1, 1, {0: 1}), BlobSizes("b", 0, 0, {})]
    assert found[1].histogram == []
    panels = page(part(blobs=found)).all(of="panel")
    assert "Sizes of the BLOBs in b The target has none." in [panel.words for panel in panels]


# Checks and offenders.


def test_a_value_that_differs_is_named_under_its_check(source: SourceFile, target_url: str) -> None:
    move_all(source.path, target_url)
    source.add_family(contents=2)
    query(target_url, CHANGE_ON_INSERT)
    with pytest.raises(ProofFailed) as caught:
        move_all(source.path, target_url)
    made = evidence.of_checks("content_fragments", caught.value.checks, failure=str(caught.value))
    root = page(made)
    assert heading(root) == "Not proven"
    assert str(caught.value) in root.all(of="failure")[0].words
    (values, digests, witnessed) = root.all("table", of="offenders")
    assert cells(witnessed) == cells(values)
    assert cells(values) == [
        ["key", "column", "source value", "target value"],
        ["2", "body_text", "I eat rice", "changed on the way"],
    ]
    assert cells(digests)[1][0] == "body_text"
    assert len(set(cells(digests)[1])) == 3


# A run of Dagster's leaves it.


@pytest.mark.parametrize("spoiled", [False, True], ids=["proven", "failed"])
def test_a_run_leaves_the_evidence_of_its_tables(
    source: SourceFile,
    target_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoiled: bool,
) -> None:
    from pipeline.orchestration.definitions import defs

    for name, value in usable(source, target_url, tmp_path).items():
        monkeypatch.setenv(name, value)
    if spoiled:
        move_all(source.path, target_url)
        query(target_url, CHANGE_ON_INSERT)
    source.add_family(contents=2)
    with dg.DagsterInstance.ephemeral() as instance:
        ran = defs.resolve_job_def("migrate").execute_in_process(
            instance=instance, raise_on_error=False
        )
        recorded = instance.get_run_by_id(ran.run_id)
    assert recorded is not None
    html = Path(recorded.tags[evidence.REPORT])
    assert html == tmp_path / "home" / "reports" / ran.run_id / "evidence.html"
    found = read_back(html.parent)
    assert (found.run_id, found.job, found.source) == (ran.run_id, "migrate", str(source.path))
    assert ran.success is found.proven is not spoiled
    expected = [table.name for table in metadata.sorted_tables][: 2 if spoiled else 4]
    assert [table.table for table in found.tables] == expected
    root = Page(html.read_text(encoding="utf-8")).root
    assert heading(root) == ("Not proven" if spoiled else "Proven")
    assert [link.words for link in root.all(of="verdict")[0].all("a")] == expected[1:2] * spoiled
