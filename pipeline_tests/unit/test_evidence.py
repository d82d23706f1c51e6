"""The evidence of a run: a page that needs nothing from outside, and the same as JSON.

The page is read as a browser reads it, so that what is asserted is what a person would see.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.findings import (
    CheckResult,
    Drift,
    Lossy,
    Orphan,
    Overridden,
    Quarantined,
    RowMissing,
    ValueDiffers,
)
from pipeline.core.proof import BLOCKING
from pipeline.core.quoting import share, size
from pipeline.orchestration.common import evidence
from pipeline.orchestration.common.blob_sizes import BlobSizes
from pipeline.orchestration.common.evidence import TableEvidence
from pipeline.postgres.findings import KeyNotEnforced, SchemaDiffers, SequenceBehind
from pipeline.reporting import evidence_page
from pipeline_tests.support.evidence_pages import (
    HOSTILE,
    RUN,
    Element,
    Page,
    cells,
    counted,
    heading,
    hostile,
    page,
    part,
    read_back,
)


def result(name: str, passed: bool = True, *findings: Any, **figures: Any) -> CheckResult:
    blocking = name not in ("drift", "quarantine", "conversions", "overrides")
    return CheckResult(name, passed, blocking, findings, figures)


def checked(table: str, *found: CheckResult, **given: Any) -> TableEvidence:
    """A table of which every blocking check was made; those not given have passed."""
    given_names = {check.name for check in found}
    others = [result(name) for name in BLOCKING if name not in given_names]
    return replace(evidence.of_checks(table, [*found, *others]), **given)


def offenders(found: CheckResult) -> dict[str, list[list[str]]]:
    """The tables of offenders of a check, by their titles, without the heads."""
    tables = page(evidence.of_checks("rankings", [found])).all("table", of="offenders")
    return {table.all("caption")[0].words: cells(table)[1:] for table in tables}


def outline(root: Element) -> list[tuple[str, list[str]]]:
    return [(each.tag, sorted(each.attributes)) for each in root.all()]


def test_hostile_values_are_shown_and_change_nothing_of_the_page() -> None:
    html = evidence_page.render(hostile(HOSTILE))
    root = Page(html).root
    assert outline(root) == outline(Page(evidence_page.render(hostile("x" * len(HOSTILE)))).root)
    assert root.text.count(HOSTILE) > 20
    assert html.count("<script") == html.count("<img") == 0


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


def test_the_files_of_many_tables_are_written_rarely_and_lag_little(tmp_path: Path) -> None:
    names = [f"table{number:02}" for number in range(64)]
    run = replace(RUN, planned=names)
    whole = checked("t")
    writings = [0]
    for number, name in enumerate(names, start=1):
        evidence.record(tmp_path, run, replace(whole, table=name, at=f"2026-01-02T03:{number:04}"))
        shown = len(read_back(tmp_path).tables)
        assert number - shown <= number // 16
        writings += [shown] * (shown != writings[-1])
    assert read_back(tmp_path).proven
    # After each table, it would be 64 times.
    assert len(writings) <= 40


def test_the_files_of_many_tables_are_complete_once_a_table_is_not_proven(tmp_path: Path) -> None:
    names = [f"table{number:02}" for number in range(40)]
    run = replace(RUN, planned=names)
    # The tables after a failed one may not run, so each of these may be the last.
    for number, name in enumerate(names[:-1], start=1):
        failure = "The proof failed." if number == 31 else None
        at = f"2026-01-02T03:{number:04}"
        evidence.record(tmp_path, run, replace(checked(name, failure=failure), at=at))
        assert number < 31 or len(read_back(tmp_path).tables) == number


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


def test_a_table_that_was_planned_and_not_reached_takes_the_proof_away() -> None:
    run = replace(RUN, tables=[checked("t")], planned=["t"])
    assert run.proven
    assert not replace(run, planned=["t", "u"]).proven


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
        (result("quarantine", False, rows=1), "rankings: 1 row is in quarantine."),
        (result("quarantine", False, rows=1200), "rankings: 1,200 rows are in quarantine."),
        (
            result("drift", False, Drift("rankings", "extra", "carried", "added as text")),
            "rankings: drift, rankings.extra: carried, added as text.",
        ),
        (
            result("digests", sampled_rows=10, of_rows=5000),
            "rankings: the values of 10 of 5,000 rows were compared; of the other rows, only the"
            " keys.",
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
        ((1000, 1000, 0), "no missing and no surplus rows"),
        ((5012, 4990, 20), "2 missing"),
        ((12, 13, 0), "1 more than in the source"),
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
    assert root.all("p", of="did")[0].words == "Verification only; this run did not move the table."
    assert root.all(of="time") == []


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
    assert size(count) == said


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
    assert share(part_, whole) == said


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
    assert "Source and target have the same keys" in rows[0].words
    assert [item.words for item in rows[0].all("li")] == ["compared 1,234", "missing 0"]
    assert [item.words for item in rows[1].all("li")] == ["orphans by parent_id 0"]
    assert ["Blocking: a failure" in row.words for row in rows] == [True, True, False, True]


@pytest.mark.parametrize(
    ("finding", "title", "row"),
    [
        (
            Quarantined("t", "is no date", "at", 12, ("9001", "กิน")),
            "Reasons for quarantine",
            ["12", "at", "is no date", "9001 กิน"],
        ),
        (
            Quarantined("t", "was refused", None, 1200),
            "Reasons for quarantine",
            ["1,200", "none", "was refused", ""],
        ),
        (
            Lossy("t", "score", 3, (("9011", "3.14159", "3.14"),)),
            "Values that changed; the originals are in the ledger",
            ["score", "3", "9011: 3.14159 → 3.14"],
        ),
        (
            Drift("t", "extra", "carried", "added as text"),
            "Columns that differ between source and declaration",
            ["extra", "carried", "added as text"],
        ),
        (Orphan("t", 4, "a", "b"), "Rows without a parent", ["4", "a", "b"]),
        (
            KeyNotEnforced("t", "t_fkey"),
            "Foreign keys that are missing or were never validated",
            ["t_fkey"],
        ),
        (
            SchemaDiffers("t", "index", "i", "CREATE INDEX i", None),
            "Schema objects that differ from the declaration",
            ["index", "i", "CREATE INDEX i", "missing"],
        ),
        (
            Overridden("t", "7", "tags", "{", "{}", True),
            "Values that were overridden manually",
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
    assert "At most 20 are listed here." in root.words
    few = page(evidence.of_checks("t", [result("keys", False, *many[:19], missing=19)]))
    assert "At most 20 are listed here." not in few.words


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
