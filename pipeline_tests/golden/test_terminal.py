"""The terminal: no figure is cut at any width, and the last line says what stayed behind."""

import contextlib
import fcntl
import io
import json
import os
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from sqlalchemy.engine import URL

from pipeline.cli.commands import terminal
from pipeline.config import settings, variables
from pipeline.config.settings import libpq
from pipeline.core.errors import SettingsError
from pipeline.migrations.content_sample import make_sample
from pipeline.orchestration.common import printing
from pipeline.reporting import grids, layout
from pipeline.reporting.layout import Grid, Medium
from pipeline_tests.support.commands import PROGRAM, environment, pipeline, start, usable
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

LAST = re.compile(
    r"proven in [\d.]+ s: 1,040 of 1,058 rows; 18 rows \(1\.7 %\) are in quarantine:"
    r" pipeline quarantine show"
)
WIDTHS = (40, 80, 100, 200)
EXAMPLES = {
    "figures": Grid(
        "Moved",
        ("table", "strategy", "source", "moved", "written", "quarantine", "size", "seconds"),
        [
            ("learning_content", "filled", "100,000", "99,999", "99,999", "1", "3.5 MiB", "4.81"),
            ("rankings", "merged", "12,345,678", "12,345,678", "0", "0", "1,023.9 GiB", "812.70"),
        ],
        frozenset(range(2, 8)),
    ),
    "values": Grid(
        "Values",
        ("column", "why", "for example"),
        [
            ("น้ำ_กิน", "is 12,345.678 instead of 9,999", "https://example.org/" + "a" * 200),
            ("日本語の列", "x" * 2_000, "👩‍💻 e\u0301\u0302 1,234"),
            ("path", "/home/me/a/very/long/way/to/some/database/anki_vector_db.db", ""),
        ],
    ),
}


def shown(grid: Grid, width: int | None, encoding: str = "utf-8") -> list[str]:
    return [line.plain for line in layout.lines(grid, Medium(width, encoding))]


def words(grid: Grid, medium: Medium) -> list[str]:
    """Every figure, name and path of a table, as it is shown."""
    return [word for row in grid.rows for cell in row for word in medium.shown(cell).split()]


# No figure is cut, whatever the width.


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [*WIDTHS, None])
@pytest.mark.parametrize("grid", EXAMPLES.values(), ids=EXAMPLES)
def test_every_figure_name_and_path_appears_whole(
    grid: Grid, width: int | None, encoding: str
) -> None:
    printed = shown(grid, width, encoding)
    parts = " ".join(printed).split()
    assert [word for word in words(grid, Medium(width, encoding)) if word not in parts] == []
    if grid is EXAMPLES["figures"] and width:
        assert max(map(cell_len, printed)) <= width
        assert any("3.5 MiB" in line for line in printed)
    assert all(line == line.rstrip() for line in printed)
    if encoding == "ascii" or width is None:
        assert not any("─" in line for line in printed)


texts = st.lists(
    st.text("aé9,.ก้日👩\u0301-/ ", max_size=30) | st.integers(0, 10**12).map("{:,}".format),
    min_size=3,
    max_size=3,
)


@given(rows=st.lists(texts, min_size=1, max_size=4), width=st.integers(1, 120) | st.none())
def test_no_width_cuts_a_word_or_loses_a_row(rows: list[list[str]], width: int | None) -> None:
    grid = Grid("Title", ("name", "some figures", "why"), rows, frozenset((1,)))
    printed = shown(grid, width)
    parts = " ".join(printed).split()
    expected = words(grid, Medium(width))
    assert [word for word in expected if parts.count(word) < expected.count(word)] == []
    longest = max(map(cell_len, [*expected, ""]))
    if width is not None and width > longest + len("  some figures  "):
        assert max(map(cell_len, printed)) <= max(width, longest_figure(rows))


def longest_figure(rows: list[list[str]]) -> int:
    """Names and figures are not even broken at their blanks."""
    return max(cell_len(cell) for row in rows for cell in row) + len("  some figures  ")


@pytest.mark.parametrize("width", [10, 20, 40])
def test_a_figure_stays_with_its_unit(width: int) -> None:
    text = "a move adds about 3.5 MiB of tables to the 1.7 % there are, in 12 s"
    lines = layout.wrapped(text, width)
    assert " ".join(lines) == text
    for whole in ("3.5 MiB", "1.7 %", "12 s"):
        assert any(whole in line for line in lines)


def test_what_is_not_a_terminal_is_neither_padded_nor_coloured() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, highlight=False)
    grids.show(console, EXAMPLES["figures"])
    grids.say(console, "one sentence " * 30, style="red")
    assert "\x1b" not in out.getvalue()
    table, _, sentence = out.getvalue().partition("\n\n")
    assert re.split(r"\s{2,}", table.splitlines()[2]) == list(EXAMPLES["figures"].rows[0])
    assert sentence.count("\n") == 1


# Commands on a terminal and in a pipe.


@dataclass(frozen=True)
class Moved:
    """The sample, moved on a terminal of 80 columns."""

    settings: dict[str, str]
    first: str
    seconds: float
    screen: str


@pytest.fixture(scope="module")
def moved(server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    folder = tmp_path_factory.mktemp("terminal")
    make_sample(folder / "sample.db")
    with new_database(server, "terminal") as made:
        named = usable(SourceFile(folder / "sample.db"), libpq(made), folder)
        yield Moved(named, *on_terminal(80, "migrate", **named))


def on_terminal(width: int, *arguments: str, **given: str) -> tuple[str, float, str]:
    """Run the installed program on a terminal.

    Returns:
        What it shows first, after how many seconds, and what is left on the screen at the end.
    """
    outer, inner = os.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    # Whoever runs the tests may have set the width.
    inherited = {name: v for name, v in environment().items() if name != "COLUMNS"}
    started, first = time.monotonic(), 0.0
    process = subprocess.Popen(
        [PROGRAM, *arguments],
        env=inherited | {"TERM": "xterm"} | given,
        stdin=inner,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    chunks = list[bytes]()
    with contextlib.suppress(OSError):
        while data := os.read(outer, 65536):
            first = first or time.monotonic() - started
            chunks.append(data)
    os.close(outer)
    assert process.wait() == 0
    text = b"".join(chunks).decode()
    return chunks[0].decode(), first, text


def left(text: str) -> str:
    """What remains on a screen: what follows the last display of progress."""
    text = text.rpartition("\x1b[?25h")[2]
    lines = re.split(r"\r?\n", re.sub(r"\x1b\[\d*A", "\n", text))
    kept = [line.rpartition("\x1b[2K")[2] for line in lines]
    plain = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", line) for line in kept]
    return "\n".join(plain)


def test_the_first_sign_comes_before_anything_is_loaded(moved: Moved) -> None:
    assert moved.first.startswith("pipeline migrate: starting")
    assert moved.seconds < 1
    assert "\r\x1b[2Ksource  " in moved.screen
    assert "loading Dagster" in moved.screen


def test_a_migration_on_80_columns_shows_whole_figures_and_ends_with_what_stayed_behind(
    moved: Moved,
) -> None:
    screen = left(moved.screen)
    assert "4 tables: 1,040 rows written, 0 deleted, run" in screen
    for row in (
        r"learning_content +filled +64 +60 +60 +0 +4 +[\d.]+ KiB",
        r"fragment_assets +filled +195 +192 +192 +0 +3 +3\.5 MiB",
    ):
        assert re.search(row, screen), screen
    assert LAST.fullmatch(" ".join(screen.split("\n")[-3:]).strip())
    shown_rows = [line for line in screen.split("\n") if line.startswith("  ")]
    assert max(map(cell_len, shown_rows)) <= 80
    assert "and 7 more reasons: pipeline quarantine show" in screen
    assert "last_review_at" in screen
    assert "passed" not in screen


def test_a_sync_without_changes_prints_five_lines(moved: Moved) -> None:
    ran = pipeline("sync", **moved.settings)
    assert (ran.code, ran.err) == (0, "")
    source, target, summary, evidence, last = ran.out.splitlines()
    assert source == f"source  {moved.settings['SQLITE_DATABASE_URL'].removeprefix('sqlite:///')}"
    assert target.startswith("target  PostgreSQL terminal at ")
    assert re.fullmatch(
        r"nothing has changed in 4 tables; 2 warnings as before \(--verbose\), run \S+", summary
    )
    assert evidence.startswith("evidence ")
    assert LAST.fullmatch(last)


def test_verbose_prints_every_table_every_reason_and_every_check(moved: Moved) -> None:
    ran = pipeline("sync", "--verbose", **moved.settings)
    # The source's rows are known although none was compared.
    assert ran.row("rankings", "synced")[:6] == ["501", "496", "0", "0", "0", "5"]
    assert ran.row("rankings", "1", "assessed_by is NULL") == ["9004"]
    assert ran.row("rankings", "keys")[0] == "passed"
    assert LAST.fullmatch(ran.out.splitlines()[-1])


def test_a_verification_says_what_is_in_quarantine_too(moved: Moved) -> None:
    ran = pipeline("verify", **moved.settings)
    lines = ran.out.splitlines()
    assert lines[2].startswith("44 checks: 38 passed, 6 warnings, run ")
    assert LAST.fullmatch(lines[-1])
    assert "passed  " not in ran.out


COMMANDS = (
    ("plan", "--verbose"),
    ("quarantine", "show"),
    ("doctor",),
    ("cutover", "status"),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_pipe_gets_whole_lines_without_padding(moved: Moved, arguments: tuple[str, ...]) -> None:
    ran = pipeline(*arguments, **moved.settings, COLUMNS="40", FORCE_COLOR="1")
    assert ran.err == "" or arguments[0] == "cutover"
    assert [line for line in ran.out.splitlines() if line != line.rstrip()] == []
    assert "\x1b" not in ran.out
    assert "─" not in ran.out


@pytest.mark.parametrize("width", WIDTHS)
def test_quarantine_fits_every_width(moved: Moved, width: int) -> None:
    _, _, text = on_terminal(width, "quarantine", "show", **moved.settings)
    screen = left(text)
    assert max(map(cell_len, screen.split("\n"))) <= width
    flat = " ".join(screen.split())
    for word in ("content_fragments", "9001, 9002", "has the escape \\u0000", "18 rows are"):
        assert word in flat


ODD = {
    "no colours": {"NO_COLOR": "1"},
    "a dumb terminal": {"TERM": "dumb"},
    "no width": {"COLUMNS": "0"},
    "ASCII only": {"PYTHONIOENCODING": "ascii"},
    "locale C": {"LC_ALL": "C", "LANG": "C"},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_terminal_shows_the_same(moved: Moved, odd: dict[str, str]) -> None:
    _, _, text = on_terminal(0, "quarantine", "show", **moved.settings | odd)
    screen = left(text)
    assert "content_fragments" in screen
    assert "Traceback" not in screen
    assert max(map(cell_len, screen.split("\n"))) <= 80
    if "NO_COLOR" in odd or "TERM" in odd:
        assert not re.search(r"\x1b\[[0-9;]*m", text)
    if "PYTHONIOENCODING" in odd:
        assert screen.isascii()


def test_a_reader_that_leaves_early_is_no_error(moved: Moved) -> None:
    shell = f'"{PROGRAM}" quarantine show | head -1'
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell],
        env=environment(**moved.settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "In quarantine\n", "")


def test_ctrl_c_is_one_sentence(moved: Moved) -> None:
    with start("verify", **moved.settings) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("Interrupted. What was proven before is kept;")
    assert "Traceback" not in err


def test_reasons_as_json_are_the_only_output(moved: Moved) -> None:
    ran = pipeline("quarantine", "show", "--json", "--table", "rankings", **moved.settings)
    found = json.loads(ran.out)
    assert sum(each["rows"] for each in found) == 6
    assert {"table", "reason", "column", "rows", "examples"} <= set(found[0])


# Success means success.


def test_a_table_of_which_nothing_arrived_stands_out(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    source.run("UPDATE rankings SET rank_score = 9")
    named = usable(source, target_url, tmp_path)
    for command in ("migrate", "sync"):
        ran = pipeline(command, **named)
        assert ran.code == 0
        lines = ran.out.splitlines()
        assert lines[-1].endswith(
            "10 of 18 rows; 8 rows (44.4 %) are in quarantine: pipeline quarantine show"
        )
        sentence = "rankings: none of 8 rows arrived; 8 rows (100 %) are in quarantine"
        assert sentence in lines


def test_a_sync_after_a_failed_verification_claims_no_proof(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family()
    named = usable(source, target_url, tmp_path)
    assert pipeline("migrate", **named).code == 0
    query(target_url, "UPDATE rankings SET assessed_by = 'other' WHERE id = 3")
    assert pipeline("verify", **named).code == 1
    for _ in range(2):
        ran = pipeline("sync", **named)
        lines = ran.out.splitlines()
        assert ran.code == 1
        assert lines[-1] == (
            "not proven: a verification has found that rows of rankings differ;"
            " to compare and correct them: pipeline migrate"
        )
        (found,) = ran.row("rankings", "digests", "warning")
        assert found.startswith("failed: rankings 3, assessed_by: source ")
        (page,) = [line.removeprefix("evidence ") for line in lines if line.startswith("evidence")]
        written = json.loads(Path(page).with_suffix(".json").read_text())
        assert not written["proven"]
    assert "proven in" in pipeline("migrate", **named).out.splitlines()[-1]
    assert pipeline("sync", **named).code == 0


def test_new_rows_in_quarantine_are_named_and_old_ones_are_counted(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    source.run("UPDATE rankings SET rank_score = 9 WHERE id = 1")
    move_all(source.path, target_url)
    named = usable(source, target_url, tmp_path)
    source.add("rankings", {"id": 99, "rank_score": 8})
    ran = pipeline("sync", **named)
    assert ran.row("rankings", "1")[1:] == ["99"]
    assert "; 2 rows (10.5 %) are in quarantine" in ran.out.splitlines()[-1]
    assert "In quarantine" not in pipeline("sync", **named).out


def test_a_run_that_ended_before_any_result_counts_nothing() -> None:
    printed = io.StringIO()
    printing.show(grids.console_on(printed), [], run_id="r")
    assert printed.getvalue() == ""


# Errors name what is near.


def test_names_that_are_near_are_suggested() -> None:
    with pytest.raises(SettingsError, match=r"called contnt\. Did you mean content\? Use content"):
        terminal.meant("contnt")
    with pytest.raises(SettingsError, match=r"called rankngs\. Did you mean rankings\? Use one of"):
        terminal.holding("rankngs")
    assert "Did you mean 'migrate'?" in pipeline("migrat").err
    assert "--verbose" in pipeline("migrate", "--verbos").err


EXPECTED = {
    ("MAX_DELETE_SHARE", "abc"): "write a number, not MAX_DELETE_SHARE=abc",
    ("MAX_DELETE_SHARE", "1.5"): "write a number of at most 1, not MAX_DELETE_SHARE=1.5",
    ("KEEP_RUNS", "x"): "write a whole number, not KEEP_RUNS=x",
    ("SYNC_ON", "perhaps"): "write true or false, not SYNC_ON=perhaps",
    ("FEED_HOURS", "0"): "write a number above 0, not FEED_HOURS=0",
    ("POLICY_EXTRA_COLUMNS", "drop"): (
        "write carry, ignore or fail, not POLICY_EXTRA_COLUMNS=drop"
    ),
}


@pytest.mark.parametrize(("given", "said"), EXPECTED.items())
def test_a_bad_setting_says_what_is_expected(
    given: tuple[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*given)
    with pytest.raises(SettingsError) as caught:
        settings.load()
    assert str(caught.value) == (
        f"{given[0]} cannot be used: {said}. Correct it in the environment or .env."
    )


def test_a_misspelt_name_in_the_file_of_settings_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / ".env"
    file.write_text("MAX_DELETE_SHAR=1\nPOLICY_NOTHING=x\nPOSTGRES_PASSWORD=x\nLOCK_SECONDS=1\n")
    for _ in range(2):
        variables.warn_unknown(frozenset(("MAX_DELETE_SHARE", "LOCK_SECONDS")), file)
    assert capsys.readouterr().err.splitlines() == [
        f"MAX_DELETE_SHAR in {file} is not a setting. Did you mean MAX_DELETE_SHARE?",
        f"POLICY_NOTHING in {file} is not a setting. It has no effect.",
    ]
