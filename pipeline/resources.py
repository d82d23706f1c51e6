"""Source and target as Dagster resources: opened at first use, closed when the run ends.

Their configuration holds no URL, so no password ever stands in a run's configuration; URLs come
from the settings of the process that runs the step.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
from pydantic import Field, PrivateAttr

from pipeline import settings
from pipeline.environment import Databases, databases
from pipeline.locks import locked
from pipeline.move import mending
from pipeline.move.extract import Source
from pipeline.move.mover import Mover
from pipeline.move.snapshot import BUSY_SECONDS, take_snapshot
from pipeline.move.target import Target


class SourceDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One consistent copy of the SQLite source for a whole run.

    The copy is taken at first use and deleted when the run ends.
    """

    busy_seconds: float = Field(
        default=BUSY_SECONDS, description="How long to wait for a source that is locked."
    )

    _exit: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _source: Source | None = PrivateAttr(default=None)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Delete the copy."""
        self._exit.close()

    def open(self, tables: Sequence[sa.Table], *, target: Target, run_id: str) -> Source:
        """The source, readable as it was when the run first asked.

        Args:
            tables: what the run will read.
            target: its ledger knows which values a person has mended.
            run_id: names the copy.

        Raises:
            SourceError: the file cannot be read; nothing was changed.
        """
        if self._source is None:
            found = databases(settings.load())
            folder = self._exit.enter_context(_run_folder(found.snapshots, run_id))
            snapshot = take_snapshot(
                found.source, folder / "source.db", tables=tables, busy_seconds=self.busy_seconds
            )
            self._source = Source(snapshot)
            names = [table.name for table in tables]
            mending.apply(self._source, tables, mending.read(target, names))
        return self._source


class TargetDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The PostgreSQL target; while a run has it open, no other run can write."""

    application_name: str = Field(
        default="pipeline", description="What the server's list of sessions calls this one."
    )

    _exit: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _target: Target | None = PrivateAttr(default=None)
    _mover: Mover | None = PrivateAttr(default=None)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Let the target go."""
        self._exit.close()

    def open(self) -> Target:
        """A session that is in no transaction.

        Raises:
            TargetError: no server answers, or it refuses this user.
            LockedError: another run holds the target.
        """
        if self._target is None:
            loaded = settings.load()
            found: Databases = databases(loaded)
            target = self._exit.enter_context(
                Target.connect(
                    found.target_url,
                    shown=found.target_shown,
                    application_name=self.application_name,
                )
            )
            self._exit.enter_context(target.lock(seconds=loaded.lock_seconds))
            self._target = target
        # While a table is filled ahead, one of the mover's two sessions is not free.
        return self._mover.idle if self._mover else self._target

    def mover(self, source: Source, *, run_id: str) -> Mover:
        """What moves the tables of a run into this target.

        Raises:
            TargetError: no server answers, or it refuses this user.
            LockedError: another run holds the target.
        """
        if self._mover is None:
            loaded = settings.load()
            mover = Mover.over(
                source,
                self.open(),
                run_id=run_id,
                delete_share=loaded.max_delete_share,
                policies=loaded.policies,
            )
            self._mover = self._exit.enter_context(mover)
        return self._mover


@contextlib.contextmanager
def _run_folder(snapshots: Path, run_id: str) -> Iterator[Path]:
    """A folder of one run; folders of runs that were killed are cleared away."""
    snapshots.mkdir(parents=True, exist_ok=True)
    folder = snapshots / run_id
    with contextlib.ExitStack() as held:
        # One run at a time clears and makes folders.
        with locked(snapshots.with_suffix(".lock"), wait=True):
            for old in snapshots.iterdir():
                # Held by a run that goes on, or just cleared away by one that ended.
                held_or_gone = contextlib.suppress(BlockingIOError, FileNotFoundError)
                with held_or_gone, locked(old / "lock", wait=False):
                    shutil.rmtree(old, ignore_errors=True)
            folder.mkdir(exist_ok=True)
            held.enter_context(locked(folder / "lock", wait=False))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
