"""What the source holds is shown as data: no terminal, page or log obeys it."""

import io
import json
import unicodedata

import pandas as pd
import pytest
from rich.console import Console

from pipeline.core.errors import SourceError
from pipeline.core.findings import OFFENDERS, CheckResult, RowMissing, ValueDiffers
from pipeline.core.quoting import printable
from pipeline.orchestration.common import checks
from pipeline.reporting import evidence_page, frames, grids
from pipeline_tests.support.commands import EVIL, OBEYED, obeyed


def test_every_letter_that_is_obeyed_or_unseen_is_spelled_out() -> None:
    everything = "".join(map(chr, range(0x110000)))
    shown = printable(everything)
    assert not obeyed(shown)
    assert "\n" not in shown
    seen = [letter for letter in everything if unicodedata.category(letter) not in OBEYED]
    assert all(printable(letter) == letter for letter in "aกิน้ 😀\u00a0|" if letter in seen)


def test_json_stays_what_it_is() -> None:
    text = json.dumps({"a": EVIL + "\U000e0001"}, ensure_ascii=False)
    assert json.loads(printable(text)) == json.loads(text)
    assert not obeyed(printable(text))


def test_an_error_that_quotes_data_is_one_plain_sentence() -> None:
    error = SourceError(f"Table {EVIL} is not there", remedy="Look")
    assert not obeyed(str(error)) | obeyed(error.problem)
    assert "\n" not in str(error)
    assert "\\u001b]0;owned" in str(error)


def test_a_terminal_shows_data_as_it_is() -> None:
    kept = io.StringIO()
    console = Console(file=kept, force_terminal=True, width=300, highlight=False)
    grids.show(console, grids.framed("Columns", pd.DataFrame([{"column": EVIL}])))
    shown = kept.getvalue()
    assert r"\u001b]0;owned\u0007\u001b[2J\u009b31m\r\u202e\u200b\n[red]x[/] \[link=http" in shown
    assert "\x1b]" not in shown
    assert "\x9b" not in shown


def test_a_check_tells_data_as_it_is() -> None:
    finding = ValueDiffers("rankings", EVIL, EVIL, EVIL, EVIL)
    check = CheckResult("digests", False, True, (finding,), {})
    assert not obeyed(checks.summary(check))
    missing = CheckResult("keys", True, True, (RowMissing("rankings", "1"),), {"compared": 3})
    assert checks.summary(missing) == "compared 3"


MARKDOWN = "![x](https://evil.example/p.png) [y](javascript:z) <img src=//e> `a` | b \\ &lt;c"


def test_a_table_of_the_ui_has_no_links_pictures_or_cells_of_data() -> None:
    from markdown_it import MarkdownIt

    shown = frames.markdown(pd.DataFrame([{MARKDOWN: MARKDOWN + EVIL, "b": 1}]))
    assert len(shown.splitlines()) == 3
    page = MarkdownIt("commonmark").enable("table").render(shown)
    assert "<img" not in page
    assert "<a " not in page
    assert "<code" not in page
    assert page.count("<th>") == page.count("<td>") == 2
    assert "![x](https://evil.example/p.png) [y](javascript:z) &lt;img src=//e&gt; `a` | b" in page
    assert not obeyed(shown)


def test_the_page_of_the_evidence_shows_what_nobody_could_see() -> None:
    shown = list(evidence_page.shown(EVIL))
    assert not any(obeyed(text) for _, text in shown)
    assert ("unseen", "U+001B") in shown


@pytest.mark.parametrize(
    ("missing", "extra", "more"), [(61, 0, "; and 58 more"), (2, 3, "; and 2 more"), (3, 0, "")]
)
def test_a_summary_counts_all_offenders_though_a_check_names_only_some(
    missing: int, extra: int, more: str
) -> None:
    named = tuple(RowMissing("t", key) for key in range(min(missing + extra, OFFENDERS)))
    figures = {"compared": 9, "missing": missing, "extra": extra}
    said = checks.summary(CheckResult("keys", False, True, named, figures))
    assert (
        said == "; ".join(f"t {key}: in the source, not in the target" for key in range(3)) + more
    )
