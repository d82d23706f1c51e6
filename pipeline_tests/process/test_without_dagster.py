"""Commands that run no job load no Dagster, which takes longer than what they do."""

import json
import subprocess
import sys
from pathlib import Path

from pipeline.postgres.embedded.server import leave
from pipeline_tests.support.commands import environment, usable
from pipeline_tests.support.sources import SourceFile

RUN = """
import json, sys
from pipeline.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["pipeline", *arguments]
    try:
        main.main()
    except SystemExit as ended:
        print(arguments, "ended with", ended.code)
    found = sorted({name.split(".")[0] for name in sys.modules if name.startswith("dagster")})
    assert not found, (arguments, found)
"""


def test_a_copy_needs_no_setting_and_loads_no_dagster(source: SourceFile, tmp_path: Path) -> None:
    source.add_family(contents=1)
    commands = [["copy", f"sqlite:///{source.path}"], ["copy", f"sqlite:///{source.path}"]]
    home = tmp_path / "home"
    try:
        ran = subprocess.run(
            [sys.executable, "-c", RUN, json.dumps(commands)],
            env=environment(PIPELINE_HOME=home),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        leave(home / "postgres")
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = ran.stdout.splitlines()
    assert [line for line in lines if " ended with " in line] == [
        f"{arguments} ended with 0" for arguments in commands
    ]
    # A long path has a socket elsewhere.
    assert any(line.startswith("target  PostgreSQL postgres at /") for line in lines)
    assert sum(": every value proven in " in line for line in lines) == 2


def test_help_schema_doctor_and_quarantine_load_no_dagster(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    file = str(tmp_path / "rejected.csv")
    commands = [
        ["--help"],
        ["plan", "--help"],
        ["schema"],
        ["doctor"],
        ["quarantine", "export", file],
        ["quarantine", "override", file],
        ["quarantine", "forget", "rankings"],
        ["track", "status"],
        ["backup", "list"],
    ]
    ran = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)],
        env=environment(**usable(source, target_url, tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    ended = [line for line in ran.stdout.splitlines() if " ended with " in line]
    assert ended == [f"{arguments} ended with 0" for arguments in commands]
    assert Path(file).exists()
