"""The sample source: deterministic, playable, flawed as announced, and never half written."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

from pipeline.migrations.content_sample import make_sample
from pipeline_tests.support.sources import rows


def make_with_full_disk(
    path: Path, *, on_full: signal.Handlers
) -> subprocess.CompletedProcess[str]:
    """Run `make_sample` in a process that may write only 1 MB per file."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    code = (
        "import signal, sys; from pathlib import Path;"
        "from pipeline.migrations.content_sample import make_sample;"
        f"signal.signal(signal.SIGXFSZ, signal.Handlers({on_full.value}));"
        "make_sample(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-B", "-c", code, str(path)]
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    done = make_with_full_disk(tmp_path / "source.db", on_full=signal.SIG_IGN)
    assert done.returncode == 1
    assert "sqlite3.OperationalError" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_killed_while_it_writes_leaves_no_half_file(tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    done = make_with_full_disk(path, on_full=signal.SIG_DFL)
    assert done.returncode == -signal.SIGXFSZ
    assert not path.exists()
    assert [left.stat().st_size > 0 for left in tmp_path.glob(".source.db.*/source.db")] == [True]
    make_sample(path)
    assert len(rows(path, "learning_content")) == 64
