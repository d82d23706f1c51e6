"""The evidence of a run: a page that needs nothing from outside, and the same as JSON.

The page is read as a browser reads it, so that what is asserted is what a person would see.
"""

import json
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from pydantic import TypeAdapter

from pipeline import evidence, evidence_page
from pipeline.checks import BLOCKING
from pipeline.evidence import BlobSizes, CheckEvidence, RunEvidence, TableEvidence
from pipeline.migrations.content import metadata
from pipeline.move.findings import (
    CheckResult,
    Drift,
    KeyNotEnforced,
    Lossy,
    Mended,
    Orphan,
    Quarantined,
    RowMissing,
    SchemaDiffers,
    SequenceBehind,
    ValueDiffers,
)
from pipeline.move.target import Target
from pipeline.move.verify import ProofFailed
from pipeline_tests.commands import usable
from pipeline_tests.support import SourceFile, move_all, query
from pipeline_tests.test_cli import CHANGE_ON_INSERT

RUN = RunEvidence("run-1", "migrate", "/data/source.db", "PostgreSQL postgres at localhost")
HOSTILE = "\"'><script src=//evil.example></script><img src=https://evil.example onerror=x> ${7*7}"
VOID = {"meta", "input", "br", "img", "link", "base"}


@dataclass
class Element:
    """An element of a page; ``content`` holds texts and elements."""

    tag: str
    attributes: dict[str, str]
    content: list[Any] = field(default_factory=list)

    def all(self, tag: str = "", **having: str) -> "list[Element]":
        """Elements below this one, in the page's order."""
        found = []
        for child in self.content:
            if isinstance(child, Element):
                classes = child.attributes.get("class", "").split()
                if tag in ("", child.tag) and having.get("of", "") in ("", *classes):
                    found.append(child)
                found += child.all(tag, **having)
        return found

    @property
    def text(self) -> str:
        """The text as it stands in the page."""
        return "".join(c.text if isinstance(c, Element) else c for c in self.content)

    @property
    def words(self) -> str:
        """The text with every run of blanks as one."""
        return " ".join(self.text.split())


class Page(HTMLParser):
    """A page, read as a browser reads it."""

    def __init__(self, html: str) -> None:
        """Read it; an element that is not closed is a mistake."""
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(html)
        self.close()
        assert self._open == [self.root], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].content.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Add an element without content."""
        self._open[-1].content.append(Element(tag, {n: v or "" for n, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        """Close the element that was opened last."""
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        """Add text."""
        self._open[-1].content.append(data)


def page(*tables: TableEvidence, run: RunEvidence = RUN) -> Element:
    return Page(evidence_page.render(replace(run, tables=list(tables)))).root


def heading(root: Element) -> str:
    (title,) = root.all("h1")
    return title.words


def part(table: str = "rankings", **given: Any) -> TableEvidence:
    return TableEvidence(table, "2026-01-02T03:04:05.678901+00:00", **given)


def result(name: str, passed: bool = True, *findings: Any, **figures: Any) -> CheckResult:
    blocking = name not in ("drift", "quarantine", "conversions", "mended")
    return CheckResult(name, passed, blocking, findings, figures)


def checked(table: str, *found: CheckResult, **given: Any) -> TableEvidence:
    """A table of which every blocking check was made; those not given have passed."""
    given_names = {check.name for check in found}
    others = [result(name) for name in BLOCKING if name not in given_names]
    return replace(evidence.of_checks(table, [*found, *others]), **given)


def counted(source: int, moved: int, quarantined: int, excluded: int = 0) -> TableEvidence:
    """A table that moved, of which only rows are known."""
    return part(
        moved={
            "way": "filled",
            "source_rows": source,
            "source_bytes": 10,
            "moved": moved,
            "quarantined": quarantined,
            "excluded": excluded,
            "written": moved,
            "deleted": 0,
        }
    )


def cells(table: Element) -> list[list[str]]:
    return [
        [cell.words for cell in row.content if isinstance(cell, Element)] for row in table.all("tr")
    ]


def offenders(found: CheckResult) -> dict[str, list[list[str]]]:
    """The tables of offenders of a check, by their titles, without the heads."""
    tables = page(evidence.of_checks("rankings", [found])).all("table", of="offenders")
    return {table.all("caption")[0].words: cells(table)[1:] for table in tables}


def read_back(folder: Path) -> RunEvidence:
    return TypeAdapter(RunEvidence).validate_json((folder / "evidence.json").read_bytes())


# What every page promises.


def hostile(text: str) -> RunEvidence:
    """A run that has a text in every place that a text can have."""
    offender = {
        "finding": text,
        "heading": text,
        "table": text,
        "one " + text: text,
        "two": None,
        "three": [text],
    }
    known = {
        "finding": "value differs",
        "heading": text,
        "key": text,
        "column": text,
        "source": text,
        "target": 1,
    }
    examples = {
        "finding": "lossy",
        "heading": text,
        "column": text,
        "values": 2,
        "examples": [[text, text, text]],
    }
    figures = {text: 1, "said": text, "digests": {text: text}, "more " + text: {text: text}}
    checks = [
        CheckEvidence(text, text, False, False, text, figures, [text], [offender, known, examples]),
        CheckEvidence(text, text, False, True, text, {}, [], []),
    ]
    moved = counted(4, 2, 1, 1).moved
    assert moved is not None
    return RunEvidence(
        text,
        text,
        text,
        text,
        [
            TableEvidence(
                text,
                text,
                {**moved, "way": text},
                {text: 1.0, "load": 2.0},
                [BlobSizes(text, 1, 9, {3: 1})],
                checks,
                text,
            )
        ],
    )


def outline(root: Element) -> list[tuple[str, list[str]]]:
    return [(each.tag, sorted(each.attributes)) for each in root.all()]


def test_hostile_values_are_shown_and_change_nothing_of_the_page() -> None:
    html = evidence_page.render(hostile(HOSTILE))
    root = Page(html).root
    assert outline(root) == outline(Page(evidence_page.render(hostile("x" * len(HOSTILE)))).root)
    assert root.text.count(HOSTILE) > 20
    assert html.count("<script") == html.count("<img") == 0


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


def test_a_table_that_is_recorded_again_replaces_its_part(tmp_path: Path) -> None:
    def at(second: int, table: str, **given: Any) -> TableEvidence:
        return replace(checked(table, **given), at=f"2026-01-02T03:04:0{second}+00:00")

    first = [at(1, "learning_content"), at(2, "rankings", failure="The proof failed.")]
    for each in first:
        html = evidence.record(tmp_path, RUN, each)
    assert read_back(tmp_path).tables == first
    assert heading(Page(html.read_text()).root) == "Not proven"
    assert json.loads((tmp_path / "evidence.json").read_bytes())["proven"] is False
    again = at(3, "rankings")
    evidence.record(tmp_path, RUN, again)
    assert read_back(tmp_path).tables == [first[0], again]
    root = Page(html.read_text()).root
    assert heading(root) == "Proven"
    assert [title.words for title in root.all("h2")][-2:] == ["learning_content", "rankings"]
    assert "The proof failed." not in root.text


# The verdict.


@pytest.mark.parametrize(
    ("tables", "proven"),
    [
        ([part(failure="The target went away.")], False),
        ([part("learning_content"), part(failure="The target went away.")], False),
        ([evidence.of_checks("t", [result("keys", False, RowMissing("t", 1))])], False),
        (
            [
                evidence.of_checks(
                    "t", [result("keys", False, RowMissing("t", 1)), result("digests")]
                )
            ],
            False,
        ),
        ([checked("t")], True),
        ([evidence.of_checks("t", [result("schema")])], False),
        ([], False),
        ([checked("t", result("drift", False))], True),
        ([checked("t", result("quarantine", False, rows=3))], True),
    ],
    ids=[
        "failed",
        "one failed",
        "check",
        "one check",
        "passed",
        "some checks",
        "nothing",
        "drift",
        "quarantine",
    ],
)
def test_only_a_failure_or_a_blocking_check_takes_the_proof_away(
    tables: list[TableEvidence], proven: bool
) -> None:
    assert replace(RUN, tables=tables).proven is proven
    assert heading(page(*tables)) == ("Proven" if proven else "Not proven")


def test_the_verdict_names_the_tables_that_failed_and_why() -> None:
    broken = [result("keys", False), result("foreign_keys", False), result("drift", False)]
    root = page(
        part("learning_content"),
        part("content_fragments", failure="The target went away.\nTry again."),
        evidence.of_checks("rankings", broken),
    )
    (verdict,) = root.all(of="verdict")
    assert [item.words for item in verdict.all("li")] == [
        "content_fragments: The target went away. Try again.",
        "rankings: failed keys, foreign keys.",
    ]
    assert "2 of 3 tables are not proven" in verdict.words
    parts = {each.attributes["id"]: each.all("h2")[0].words for each in root.all(of="table")}
    links = {link.attributes["href"][1:]: link.words for link in root.all("a")}
    assert links == parts
    assert "The target went away. Try again." in root.all(of="failure")[0].words


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (result("quarantine", False, rows=1), "rankings: 1 row waits in quarantine."),
        (result("quarantine", False, rows=1200), "rankings: 1,200 rows wait in quarantine."),
        (
            result("drift", False, Drift("rankings", "extra", "carried", "added as text")),
            "rankings: drift, rankings.extra: carried, added as text.",
        ),
        (
            result("digests", sampled_rows=10, of_rows=5000),
            "rankings: the values of 10 of 5,000 rows were compared, of the others the keys alone.",
        ),
    ],
)
def test_what_does_not_change_the_verdict_is_said_all_the_same(
    check: CheckResult, said: str
) -> None:
    root = page(checked("rankings", check))
    assert heading(root) == "Proven"
    (attention,) = root.all(of="attention")
    assert said in [item.words for item in attention.all("li")]


def test_checks_that_a_run_did_not_make_are_named() -> None:
    some = [result("conservation"), result("digests"), result("sequences")]
    (attention,) = page(evidence.of_checks("rankings", some)).all(of="attention")
    assert (
        attention.all("li")[0].words
        == "rankings: this run did not check keys, foreign keys, witness."
    )
    every = [*some, result("keys"), result("foreign_keys"), result("witness")]
    assert page(evidence.of_checks("rankings", every)).all(of="attention") == []


# Rows.


@pytest.mark.parametrize(
    ("rows", "widths"),
    [
        ((4, 4, 0, 0), {"moved": 100}),
        ((1000, 700, 120, 180), {"moved": 70, "quarantined": 12, "excluded": 18}),
        ((1000, 500, 120, 180), {"moved": 50, "quarantined": 12, "excluded": 18, "missing": 20}),
        ((3, 1, 1, 1), {"moved": 100 / 3, "quarantined": 100 / 3, "excluded": 100 / 3}),
        ((500_000_000, 499_999_999, 1, 0), {"moved": 100 - 2e-7, "quarantined": 2e-7}),
        ((12, 13, 0, 0), {"moved": 100}),
        ((0, 0, 0, 0), {}),
    ],
)
def test_the_bar_of_rows_is_to_scale(rows: tuple[int, ...], widths: dict[str, float]) -> None:
    bars = page(counted(*rows)).all("svg", of="rows")
    assert len(bars) == 2
    for bar in bars:
        found, begin = {}, 0.0
        for piece in bar.all("rect", of="piece"):
            name = piece.attributes["class"].split()[1]
            assert float(piece.attributes["x"].removesuffix("%")) == pytest.approx(begin, abs=1e-7)
            found[name] = float(piece.attributes["width"].removesuffix("%"))
            begin += found[name]
        assert found == pytest.approx(widths, abs=1e-8)
        assert begin == pytest.approx(100 if widths else 0, abs=1e-7)


def test_a_part_too_thin_to_see_has_a_mark_and_figures() -> None:
    root = page(counted(500_000_000, 499_999_999, 1))
    for bar in root.all("svg", of="rows"):
        (tick,) = bar.all("rect", of="tick")
        assert float(tick.attributes["x"].removesuffix("%")) > 99.9
    legend = {row[0]: row[1:3] for row in cells(root.all("table", of="legend")[0])}
    assert legend == {
        "moved": ["499,999,999", "over 99.99 %"],
        "quarantined": ["1", "under 0.01 %"],
        "excluded": ["0", "0 %"],
        "source rows": ["500,000,000", ""],
    }
    assert not page(counted(100, 50, 50)).all("rect", of="tick")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((1000, 1000, 0), "nothing is missing, nothing is too many"),
        ((5012, 4990, 20), "2 missing"),
        ((12, 13, 0), "1 more than the source has"),
    ],
)
def test_rows_that_do_not_add_up_are_counted(rows: tuple[int, int, int], said: str) -> None:
    (foot,) = page(counted(*rows)).all("tfoot")
    assert foot.words.endswith(said)


def test_a_table_that_was_checked_only_shows_rows_as_they_were_counted() -> None:
    kept = result("conservation", source_rows=64, moved=60, quarantined=4)
    root = page(evidence.of_checks("rankings", [kept]))
    legend = {row[0]: row[1] for row in cells(root.all("table", of="legend")[0])}
    assert (legend["moved"], legend["quarantined"]) == ("60", "4")
    assert root.all("p", of="did")[0].words == "Checked only; this run moved nothing."
    assert root.all(of="time") == []


# Time and sizes.


def test_the_time_of_each_phase_is_to_scale_and_named() -> None:
    seconds = {"load": 6.0, "keys": 0.0, "prove": 3.0, "a phase of its own": 1.0}
    root = page(replace(counted(4, 4, 0), seconds=seconds))
    (bar,) = root.all(of="time")
    widths = [
        float(piece.attributes["style"].split("width:")[1].removesuffix("%"))
        for piece in bar.all(of="phase")
    ]
    assert widths == pytest.approx([60, 30, 10])
    assert [piece.words for piece in bar.all(of="phase")] == ["1", "3", "4"]
    assert [row[:3] for row in cells(root.all("table", of="legend")[1])] == [
        ["1load", "6.0 s", "60.00 %"],
        ["2keys", "under 1 ms", "0 %"],
        ["3prove", "3.0 s", "30.00 %"],
        ["4a phase of its own", "1.0 s", "10.00 %"],
    ]


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
        found = evidence.blob_sizes(target, table)
    assert found == [BlobSizes("a", 1, 1, {0: 1}), BlobSizes("b", 0, 0, {})]
    assert found[1].histogram == []
    panels = page(part(blobs=found)).all(of="panel")
    assert "Sizes of the BLOBs in b The target holds none." in [panel.words for panel in panels]


def test_the_largest_bin_is_as_wide_as_the_histogram() -> None:
    blobs = BlobSizes("data", 15, 99, {20: 10, 22: 5})
    assert blobs.histogram == [
        ("1 MiB to 2 MiB", 10, 100.0),
        ("2 MiB to 4 MiB", 0, 0.0),
        ("4 MiB to 8 MiB", 5, 50.0),
    ]
    columns = page(part(blobs=[blobs])).all(of="column")
    assert [c.attributes["style"] for c in columns] == ["width:100.0000%", "width:50.0000%"]


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (5 * 2**20, "5 MiB"),
        (2**30, "1 GiB"),
        (3 * 2**50, "3,072 TiB"),
    ],
)
def test_sizes_are_said_as_people_read_them(count: int, said: str) -> None:
    assert evidence_page.size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "under 1 ms"),
        (0.037, "37 ms"),
        (1.26, "1.3 s"),
        (90, "1.5 min"),
        (3599, "1 h 0 min"),
        (10_500, "2 h 55 min"),
    ],
)
def test_times_are_said_as_people_read_them(seconds: float, said: str) -> None:
    assert evidence_page.duration(seconds) == said


@pytest.mark.parametrize(
    ("part_", "whole", "said"),
    [
        (0, 0, "0 %"),
        (0, 5, "0 %"),
        (5, 5, "100 %"),
        (1, 3, "33.33 %"),
        (1, 500_000_000, "under 0.01 %"),
        (499_999_999, 500_000_000, "over 99.99 %"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(part_: int, whole: int, said: str) -> None:
    assert evidence_page.share(part_, whole) == said


# Checks and offenders.


def test_a_check_shows_its_outcome_what_it_proves_and_its_figures() -> None:
    found = [
        result("keys", compared=1234, missing=0),
        result("foreign_keys", **{"orphans by parent_id": 0}),
        result("drift", False, Drift("rankings", "extra", "carried", "added as text")),
        result("sequences", False, SequenceBehind("rankings", "rankings_id_seq", 6, 12)),
    ]
    (table,) = page(evidence.of_checks("rankings", found)).all("table", of="checks")
    rows = [body.all("tr")[0] for body in table.content if getattr(body, "tag", "") == "tbody"]
    assert [row.all("th")[0].words for row in rows] == [
        "keys passed",
        "foreign keys passed",
        "drift warning",
        "sequences failed",
    ]
    assert "Both sides hold the same keys" in rows[0].words
    assert [item.words for item in rows[0].all("li")] == ["compared 1,234", "missing 0"]
    assert [item.words for item in rows[1].all("li")] == ["orphans by parent_id 0"]
    assert ["Must hold." in row.words for row in rows] == [True, True, False, True]


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


@pytest.mark.parametrize(
    ("finding", "title", "row"),
    [
        (
            Quarantined("t", "is no date", "at", 12, ("9001", "กิน")),
            "Why rows are in quarantine",
            ["12", "at", "is no date", "9001 กิน"],
        ),
        (
            Quarantined("t", "was refused", None, 1200),
            "Why rows are in quarantine",
            ["1,200", "none", "was refused", ""],
        ),
        (
            Lossy("t", "score", 3, (("9011", "3.14159", "3.14"),)),
            "Values that changed; the originals are in the ledger",
            ["score", "3", "9011: 3.14159 → 3.14"],
        ),
        (
            Drift("t", "extra", "carried", "added as text"),
            "Columns that source and declaration do not share",
            ["extra", "carried", "added as text"],
        ),
        (Orphan("t", 4, "a", "b"), "Rows without their parent", ["4", "a", "b"]),
        (
            KeyNotEnforced("t", "t_fkey"),
            "Foreign keys that are missing or were never validated",
            ["t_fkey"],
        ),
        (
            SchemaDiffers("t", "index", "i", "CREATE INDEX i", None),
            "Parts that are not as declared",
            ["index", "i", "CREATE INDEX i", "missing"],
        ),
        (
            Mended("t", "7", "tags", "{", "{}", True),
            "Values that a person mended",
            ["7", "tags", "{", "{}", "yes"],
        ),
    ],
)
def test_every_finding_has_a_table_that_people_can_read(
    finding: Any, title: str, row: list[str]
) -> None:
    assert offenders(result("keys", False, finding)) == {title: [row]}


def test_a_finding_that_the_page_does_not_know_is_shown_as_it_is() -> None:
    @dataclass(frozen=True)
    class Surprise:
        table: str
        moon_phase: str

    check = result("keys", True)
    made = evidence.of_checks("t", [check]).checks[0]
    offender = {"finding": "surprise", "heading": "Surprise", **vars(Surprise("t", "full"))}
    root = page(part(checks=[replace(made, passed=False, offenders=[offender])]))
    (table,) = root.all("table", of="offenders")
    assert cells(table) == [["moon phase"], ["full"]]


def test_twenty_offenders_are_named() -> None:
    many = [RowMissing("t", key) for key in range(25)]
    root = page(evidence.of_checks("t", [result("keys", False, *many, missing=25)]))
    (table,) = root.all("table", of="offenders")
    assert [row[0] for row in cells(table)[1:]] == [str(key) for key in range(20)]
    assert "At most 20 are named here." in root.words
    few = page(evidence.of_checks("t", [result("keys", False, *many[:19], missing=19)]))
    assert "At most 20 are named here." not in few.words


@pytest.mark.parametrize(
    ("source_value", "target_value", "shown"),
    [
        (None, "", ["NULL", "empty text"]),
        ("NULL", None, ["NULL", "NULL"]),
        ("None", 0, ["None", "0"]),
        (4.5, 4.25, ["4.5", "4.25"]),
        ("a\u200bb", "ab", ["aU+200Bb", "ab"]),
        ("a\n", "a", ["aline end", "a"]),
        ("a\u202eb\0", "a", ["aU+202EbU+0000", "a"]),
    ],
)
def test_values_that_differ_look_different(
    source_value: Any, target_value: Any, shown: list[str]
) -> None:
    check = result("digests", False, ValueDiffers("t", 1, "c", source_value, target_value))
    (table,) = page(evidence.of_checks("t", [check])).all("table", of="offenders")
    values = table.all(of="value")[1:]
    assert [value.words for value in values] == shown
    assert values[0].content != values[1].content


def test_both_sides_of_an_offender_point_out_what_differs() -> None:
    check = result("digests", False, ValueDiffers("t", 1, "c", "a long word", "a wrong word"))
    (table,) = page(evidence.of_checks("t", [check])).all("table", of="offenders")
    assert [mark.text for mark in table.all("mark")] == ["l", "wr"]


def marked(value: Any, other: Any) -> str:
    return "".join(
        f"[{t}]" if kind == "differs" else t for kind, t in evidence_page.shown(value, other)
    )


@pytest.mark.parametrize(
    ("value", "other", "expected"),
    [
        ("I eat rice ", "I eat rice", "I eat rice[ ]"),
        ("I eat rice", "I eat rice ", "I eat rice"),
        ("aXa", "aa", "a[X]a"),
        ("aa", "aXa", "aa"),
        ("aaa", "aa", "aa[a]"),
        ("same", "same", "same"),
        ("a", None, "a"),
        ("น้ำกิน", "น้ากิน", "[น้ำ]กิน"),
        ("กินข้าว", "กืนข้าว", "[กิ]นข้าว"),
    ],
)
def test_what_differs_is_pointed_out_letter_by_letter(
    value: str, other: str | None, expected: str
) -> None:
    assert marked(value, other) == expected


@pytest.mark.parametrize("at", [0, 5000, 9999])
def test_a_long_value_is_cut_around_what_differs(at: int) -> None:
    value = "x" * 10_000
    other = value[:at] + "y" + value[at + 1 :]
    pieces = list(evidence_page.shown(other, value))
    assert ("differs", "y") in pieces
    seen = sum(len(text) for kind, text in pieces if kind != "cut")
    cut = sum(int(text.split()[0].replace(",", "")) for kind, text in pieces if kind == "cut")
    assert seen < 1000
    assert seen + cut == 10_000


def test_a_page_stays_small_whatever_values_there_are() -> None:
    long = "ยาวมาก " * 200_000
    findings = [ValueDiffers("t", key, "c", long, long + "!") for key in range(20)]
    made = evidence.of_checks("t", [result("digests", False, *findings)], failure=long)
    assert len(evidence_page.render(replace(RUN, tables=[made]))) < 200_000


def test_digests_are_folded_away() -> None:
    check = result("digests", values_compared=2, digests={"id": "ab12", "title": "cd34"})
    (details,) = page(evidence.of_checks("rankings", [check])).all("details")
    assert "open" not in details.attributes
    assert details.all("summary")[0].words == "Column digests (2)"
    assert cells(details.all("table")[0]) == [["id", "ab12"], ["title", "cd34"]]


# A run of Dagster's leaves it.


@pytest.mark.parametrize("spoiled", [False, True], ids=["proven", "failed"])
def test_a_run_leaves_the_evidence_of_its_tables(
    source: SourceFile,
    target_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoiled: bool,
) -> None:
    from pipeline.definitions import defs

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
