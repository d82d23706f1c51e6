"""A hostile surrounding ends in one sentence or changes nothing: file names, locale, output."""

import contextlib
import fcntl
import os
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import PROJECT, libpq
from pipeline.config.variables import require_readable
from pipeline.core.errors import SettingsError
from pipeline.migrations.content_sample import make_sample
from pipeline_tests.support.commands import PROGRAM, Ran, environment, pipeline, usable
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

NO_TEXT = os.fsdecode(b"caf\xe9-\xff")
"""A name in Latin-1, as the system hands it to Python: it is not valid UTF-8."""

THAI = "ข้าว"
ASCII_NAMES = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@dataclass(frozen=True)
class World:
    """A sample that was moved and backed up, in a folder with a Thai name.

    Attributes:
        folder: holds the source and what the pipeline keeps.
        settings: of a command that works on it.
        target: the database's URL.
    """

    folder: Path
    settings: dict[str, str]
    target: str


@pytest.fixture(scope="module")
def world(
    server: URL, dagster_tables: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A sample that was moved by a command whose locale knows only ASCII, and was backed up."""
    folder = tmp_path_factory.mktemp("world") / THAI
    folder.mkdir()
    make_sample(folder / f"{THAI}.db")
    with new_database(server, "surroundings", template=dagster_tables) as made:
        settings = usable(SourceFile(folder / f"{THAI}.db"), libpq(made), folder)
        moved = in_shell("migrate", **settings, **ASCII_NAMES)
        assert (moved.code, moved.err) == (0, "")
        assert THAI.encode("ascii", "backslashreplace").decode() in moved.out
        assert pipeline("backup", **settings).code == 0
        yield World(folder, settings, libpq(made))


def in_shell(command: str, *, redirected: str = "", shell: str = "sh", **settings: str) -> Ran:
    """Run the installed program in a shell, with its streams redirected."""
    ran = subprocess.run(
        [shell, "-c", f'"$0" {command} {redirected}', PROGRAM],
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())


def sentence(ran: Ran) -> str:
    """The one sentence by which a command was refused."""
    assert ran.code in (1, 2)
    # The source is named before the target is reached.
    assert all(line.startswith("source  ") for line in ran.out.splitlines())
    (said,) = ran.err.splitlines()
    return said


def test_thai_names_and_values_move_where_the_locale_knows_only_ascii(world: World) -> None:
    assert query(world.target, "SELECT count(*) FROM learning_content") == [(60,)]


@pytest.mark.parametrize(
    ("name", "value"),
    {
        "SQLITE_DATABASE_URL": f"sqlite:////tmp/{NO_TEXT}.db",
        "PIPELINE_HOME": f"/tmp/{NO_TEXT}",
        "DATABASE_URL": f"postgresql://u:s3cret{NO_TEXT}@127.0.0.1:1/x",
        "ANKI_COLLECTION": f"/tmp/{NO_TEXT}.anki2",
        "ANKI_TEMPLATES": f"/tmp/{NO_TEXT}",
        "ALERT_FROM": f"{NO_TEXT}@example.org",
    }.items(),
)
def test_a_setting_that_is_no_text_is_refused_by_its_name(
    world: World, name: str, value: str
) -> None:
    said = sentence(pipeline("migrate", **{**world.settings, name: value}))
    assert said.startswith(f"{name} cannot be used: it contains bytes that are not UTF-8.")
    assert "s3cret" not in said


def test_a_dump_whose_name_is_no_text_is_refused_as_well(world: World) -> None:
    named = {**world.settings, "SQLITE_DATABASE_URL": f"dump:////tmp/{NO_TEXT}.sql"}
    assert sentence(pipeline("doctor", **named)).startswith("SQLITE_DATABASE_URL cannot be used")


def test_files_that_a_command_writes_may_have_any_name(world: World, tmp_path: Path) -> None:
    folder = tmp_path / NO_TEXT
    folder.mkdir()
    for command in (
        ("quarantine", "export", str(folder / "q.csv")),
        ("quarantine", "override", str(folder / "q.csv")),
        ("restore", "source", "--yes", "--to", str(folder / "s.db")),
    ):
        ran = pipeline(*command, **world.settings)
        assert (ran.code, ran.err) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == ["q.csv", "s.db"]
    unknown = pipeline("restore", "source", "--yes", "--from", NO_TEXT, **world.settings)
    assert r"caf\udce9-\udcff contains no backup" in sentence(unknown)


LONG = "x" * 300


@pytest.mark.parametrize(
    ("command", "changed", "detail"),
    [
        ("plan", {"SQLITE_DATABASE_URL": f"sqlite:////{LONG}"}, "cannot be opened (File name too"),
        ("plan", {"PIPELINE_HOME": f"/tmp/{LONG}"}, "cannot be written (File name too long)"),
        (f"restore source --yes --to /tmp/{LONG}", {}, "cannot be written (File name too long)"),
        (f"quarantine export /tmp/{LONG}.csv", {}, "cannot be written (File name too long)"),
        ("quarantine export {folder}/q.txt", {}, "ends neither in .csv nor in .json"),
        ("plan", {"DAGSTER_HOME": "/nowhere"}, "DAGSTER_HOME names /nowhere"),
    ],
)
def test_a_place_that_cannot_be_is_named(
    command: str, changed: dict[str, str], detail: str, world: World
) -> None:
    named = command.format(folder=world.folder).split()
    assert detail in sentence(pipeline(*named, **{**world.settings, **changed}))
    assert not (world.folder / "q.txt").exists()


def test_doctor_goes_on_where_a_source_cannot_be(world: World) -> None:
    named = {**world.settings, "SQLITE_DATABASE_URL": f"sqlite:////{LONG}"}
    ran = pipeline("doctor", **named)
    assert ran.code == 1
    assert ran.row("source", "readable")[0] == "error"
    assert ran.row("target", "reachable")[0] == "ok"


ENV_FILES = {
    "Latin-1": ("KEEP_RUNS=20\nANKI_DECK=café\n".encode("latin-1"), "is not UTF-8 text (line 2)"),
    "UTF-16": ("KEEP_RUNS=20\n".encode("utf-16"), "is not UTF-8 text (line 1)"),
    "UTF-16 without a mark": ("KEEP_RUNS=20\n".encode("utf-16-le"), "contains a NUL"),
    "NUL": (b"PIPELINE_HOME=/tmp/a\0b\n", "contains a NUL"),
    "no assignment": (b"KEEP_RUNS=20\nDATABASE_URL postgresql://u:s3cret@h/d\n", "Line 2 of"),
    "an open quote": (b"ANKI_DECK='a\n", "Line 1 of"),
}


@pytest.mark.parametrize(("content", "said"), ENV_FILES.values(), ids=ENV_FILES.keys())
def test_a_file_of_settings_that_cannot_be_read_is_refused(
    content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / ".env"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        require_readable(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_file_of_settings_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    require_readable(path)
    path.symlink_to(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        require_readable(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(SettingsError, match=r"cannot be read \(Is a directory\)"):
        require_readable(path)
    path.rmdir()
    path.write_bytes("\ufeff# กิน\nexport KEEP_RUNS=20\nANKI_DECK='a\nb'\n\n".encode())
    require_readable(path)


def test_a_project_whose_settings_cannot_be_read_starts_nothing(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    (project / ".env").write_bytes(b"ANKI_DECK=\xe9\n")
    assert "/.env is not UTF-8 text (line 1)" in sentence(run_in(project, "doctor"))


@pytest.mark.slow
def test_a_project_whose_folder_is_no_text_is_refused(tmp_path: Path) -> None:
    said = sentence(run_in(copy_of_the_project(tmp_path / NO_TEXT), "doctor"))
    assert re.match(r"The path of the project's folder .*caf\\udce9-\\udcff is not UTF-8", said)


def test_a_fault_of_the_program_is_one_sentence_and_its_traceback_a_file(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    settings = usable(source, target_url, tmp_path) | {"TURSO_AUTH_TOKEN": "s3cret-token"}
    project = copy_of_the_project(tmp_path / "project")
    plant(
        project / "pipeline/doctor/examination.py",
        "    found = databases(",
        "    raise RuntimeError(settings.turso_auth_token.get_secret_value())\n",
    )
    ran = run_in(project, "doctor", **settings)
    assert ran.code == 1
    (file,) = (tmp_path / "home" / "faults").iterdir()
    assert sentence(ran) == (
        f"This is a bug in the pipeline (RuntimeError). Report it with the traceback in {file}."
    )
    kept = file.read_text()
    assert kept.startswith("pipeline doctor\nTraceback")
    assert kept.endswith("RuntimeError: ***\n")
    assert file.stat().st_mode & 0o077 == 0


def test_a_fault_of_the_program_in_a_step_is_told_as_one(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    project = copy_of_the_project(tmp_path / "project")
    shutil.copy(PROJECT / "dagster.yaml", project)
    plant(
        project / "pipeline/move/reading/prepare.py",
        "    return surveyed(source.match(",
        "    {}['x']\n",
    )
    ran = run_in(project, "migrate", **usable(source, target_url, tmp_path))
    assert ran.code == 1
    assert ran.err.splitlines()[0] == (
        "learning_content failed because of a bug in the pipeline (KeyError: 'x')."
        " Report it with the traceback that the UI shows for the run."
    )


def copy_of_the_project(folder: Path) -> Path:
    """The program alone, elsewhere, for a test to change."""
    shutil.copytree(PROJECT / "pipeline", folder / "pipeline")
    return folder


def plant(file: Path, before: str, line: str) -> None:
    """Put a line before the only place of a text."""
    (head, tail) = file.read_text().split(before)
    file.write_text(head + line + before + tail)


def run_in(project: Path, command: str, **settings: str) -> Ran:
    """Run a command of another copy of the project."""
    ran = subprocess.run(
        [sys.executable, "-m", "pipeline", command],
        cwd=project,
        env=environment(**settings),
        capture_output=True,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())


def test_what_programs_read_is_utf_8_whatever_the_terminal(world: World) -> None:
    usual = pipeline("schema", **world.settings).out
    assert not usual.isascii()
    shown = in_shell("schema", **world.settings, PYTHONIOENCODING="latin-1")
    assert (shown.code, shown.out) == (0, usual)


def test_output_that_nobody_reads_stops_nothing(world: World) -> None:
    ran = in_shell("plan", redirected="<&- >&- 2>&-", **world.settings)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    query(world.target, "DELETE FROM rankings")
    # The shell tells what becomes of the command, and not of the reader that leaves.
    piped = "| head -1; exit ${PIPESTATUS[0]}"
    ran = in_shell("migrate", redirected=piped, shell="bash", **world.settings)
    assert (ran.code, len(ran.out.splitlines()), ran.err) == (0, 1, "")
    assert query(world.target, "SELECT count(*) FROM rankings") == [(496,)]


def test_output_that_has_no_room_is_told_before_anything_moves(world: World) -> None:
    query(world.target, "DELETE FROM rankings")
    said = sentence(in_shell("migrate", redirected="> /dev/full", **world.settings))
    assert said == (
        "The output cannot be written (No space left on device)."
        " Free disk space, or redirect the output."
    )
    assert query(world.target, "SELECT count(*) FROM rankings") == [(0,)]


COMMANDS = [
    *("doctor", "plan", "plan --json", "schema", "migrate", "sync", "verify", "redrive", "backup"),
    *("backup list", "restore source --yes", "cutover status", "track status", "--help"),
]
SURROUNDINGS: dict[str, tuple[str, dict[str, str]]] = {
    "C": ("", {"LC_ALL": "C"}),
    "ASCII names": ("", ASCII_NAMES),
    "Latin-1 output": ("", {"PYTHONIOENCODING": "latin-1"}),
    "ASCII output": ("", {"PYTHONIOENCODING": "ascii"}),
    "no reader": ("| true; exit ${PIPESTATUS[0]}", {}),
    "no streams": ("<&- >&- 2>&-", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("surrounding", SURROUNDINGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works_in_every_surrounding(
    command: str, surrounding: str, world: World
) -> None:
    redirected, variables = SURROUNDINGS[surrounding]
    ran = in_shell(command, redirected=redirected, shell="bash", **{**world.settings, **variables})
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_ends_in_a_traceback_where_output_has_no_room(
    command: str, world: World
) -> None:
    ran = in_shell(command, redirected="> /dev/full", **world.settings)
    assert sentence(ran).startswith("The output cannot be written")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["doctor", "plan", "migrate", "backup", "cutover status"])
def test_a_terminal_of_twenty_columns_is_wide_enough(command: str, world: World) -> None:
    outer, inner = os.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 20, 0, 0))
    process = subprocess.Popen(
        [PROGRAM, *command.split()], env=environment(**world.settings), stdout=inner, stderr=inner
    )
    os.close(inner)
    shown = b""
    with contextlib.suppress(OSError):  # which is how a terminal tells that nobody writes any more
        while read := os.read(outer, 65536):
            shown += read
    os.close(outer)
    assert process.wait() == 0
    assert b"Traceback" not in shown
