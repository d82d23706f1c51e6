"""Plant each listed fault in a copy of the project and see that its tests fail.

``make planted`` runs it. The working tree is never changed: files as they are there, committed or
not, are copied to a temporary folder, and tests run on that copy, in processes that import
nothing of the original. The tests first have to pass without any fault.
"""

import argparse
import contextlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipeline_tests.planted_faults import FAULTS, PlantedFault

PROJECT = Path(__file__).parent.parent
_PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n", "0", "-m", "")
_FAILED = 1
"""How pytest ends when a test failed; other codes say that tests could not be run."""
_SECONDS = 600
"""A test that takes longer than this has not caught anything."""


@dataclass(frozen=True)
class Verdict:
    """What the tests of a fault said: for each of them whether it failed."""

    fault: PlantedFault
    failed: dict[str, bool]
    seconds: float

    @property
    def caught(self) -> bool:
        """Whether every test that is listed for the fault failed."""
        return bool(self.failed) and all(self.failed.values())


@dataclass
class Copy:
    """A copy of the project in which faults are planted, one at a time."""

    folder: Path
    _planted: int = field(default=0, init=False)

    @classmethod
    def make(cls, folder: Path) -> "Copy":
        """Copy what Git tracks and what is new, as it is in the working tree."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=PROJECT,
            check=True,
            capture_output=True,
        ).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (PROJECT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / name, folder / name)
        made = cls(folder)
        made.require_own_code()
        return made

    def run(
        self, *arguments: str, seconds: float | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run Python in the copy; programs that it starts find the copy's code as well."""
        # Named here, it comes before the working tree, which is installed as an editable package.
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def require_own_code(self) -> None:
        """Refuse to go on where a process started elsewhere would import another copy's code."""
        where = f"import os; os.chdir({os.sep!r}); import pipeline; print(pipeline.__file__)"
        found = self.run("-c", where).stdout.strip()
        if Path(found).resolve() != (self.folder / "pipeline" / "__init__.py").resolve():
            raise SystemExit(f"The copy would import {found or 'nothing'} and not its own code")

    @contextlib.contextmanager
    def planted(self, fault: PlantedFault) -> Iterator[None]:
        """Let a fault stand in the copy for as long as a block lasts."""
        path = self.folder / fault.file
        before, found = path.read_text(), path.stat()
        self._planted += 1
        path.write_text(fault.planted(before))
        # Python takes what it compiled before for current by time and size.
        os.utime(path, (found.st_atime, found.st_mtime + 10 * self._planted))
        try:
            yield
        finally:
            path.write_text(before)
            os.utime(path, (found.st_atime, found.st_mtime))

    def judge(self, fault: PlantedFault) -> Verdict:
        """Run the tests of a fault with the fault in place, each by itself."""
        started = time.monotonic()
        with self.planted(fault):
            failed = {test: self._fails(test) for test in fault.caught_by}
        return Verdict(fault, failed, time.monotonic() - started)

    def _fails(self, test: str) -> bool:
        try:
            return self.run(*_PYTEST, test, seconds=_SECONDS).returncode == _FAILED
        except subprocess.TimeoutExpired:
            return False


def contract_checked(faults: Sequence[PlantedFault], *, jobs: int) -> Iterator[Verdict]:
    """Plant the faults, as many at once as there are jobs, and yield what their tests said."""
    with tempfile.TemporaryDirectory(prefix="planted") as folder:
        copies: queue.Queue[Copy] = queue.Queue()
        for number in range(jobs):
            copies.put(Copy.make(Path(folder, f"copy{number}")))
        first = copies.get()
        _require_sound(first, faults, jobs=jobs)
        copies.put(first)

        def judge(fault: PlantedFault) -> Verdict:
            copy = copies.get()
            try:
                return copy.judge(fault)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(judge, faults)


def _require_sound(copy: Copy, faults: Sequence[PlantedFault], *, jobs: int) -> None:
    """Refuse to go on if a test fails, or is skipped, although nothing is planted."""
    tests = dict.fromkeys(test for fault in faults for test in fault.caught_by)
    done = copy.run(*_PYTEST, "-n", str(jobs), "-rs", *tests)
    if done.returncode or "SKIPPED" in done.stdout:
        raise SystemExit(f"{done.stdout}{done.stderr}\nWithout a fault these tests have to pass")


def main() -> None:
    """Judge the faults, print a line for each, and exit with 1 if one was not caught."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", metavar="NAME", help="only faults with this text in their names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once")
    asked = parser.parse_args()
    faults = [fault for fault in FAULTS if (asked.only or "") in fault.name]
    if not faults:
        raise SystemExit(f"No fault has {asked.only!r} in its name")
    missed = 0
    for verdict in contract_checked(faults, jobs=min(asked.jobs, len(faults))):
        missed += not verdict.caught
        state = "caught by" if verdict.caught else "NOT CAUGHT by"
        tests = ", ".join(test for test, failed in verdict.failed.items() if failed or missed)
        print(f"{verdict.seconds:5.1f} s  {verdict.fault.name}: {state} {tests}", flush=True)
    print(f"{len(faults) - missed} of {len(faults)} faults were caught")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
