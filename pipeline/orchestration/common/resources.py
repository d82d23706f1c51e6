"""Source, target, application and Anki as Dagster resources.

They are opened at first use and closed when the run ends. Their configuration contains no URL, so
a run's configuration never contains a password; URLs come from the settings of the process.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import dagster as dg
import sqlalchemy as sa
from pydantic import Field, PrivateAttr

from pipeline.anki.store.connect import TIMEOUT
from pipeline.anki.store.notes import Anki
from pipeline.anki.store.open import configured_anki
from pipeline.application.manager import POOL_SIZE, HybridDatabaseManager
from pipeline.config import environment, settings
from pipeline.config.environment import databases
from pipeline.core.errors import LockedError
from pipeline.cutover import states
from pipeline.migrations.declaration import Migration
from pipeline.move.engine import Engine
from pipeline.move.ledger import watermarks
from pipeline.move.run.views import SourceViews
from pipeline.postgres.driver import locks
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import BUSY_SECONDS


@dataclass(frozen=True)
class Moment:
    """A moment of two clocks: one stops while the machine sleeps, the other one can be set."""

    monotonic: float
    wall: float

    @classmethod
    def now(cls) -> Self:
        """This moment."""
        return cls(time.monotonic(), time.time())

    @property
    def age(self) -> float:
        """Seconds since this moment, rather too many than too few."""
        now = Moment.now()
        return max(now.monotonic - self.monotonic, now.wall - self.wall)


OpenEngine = Callable[[Target], contextlib.AbstractContextManager[Engine]]


class SourceDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One consistent view of each SQLite source of a run: a copy, or the pinned live file.

    The copy is deleted when the run ends.
    """

    busy_seconds: float = Field(
        default=BUSY_SECONDS, description="Seconds to wait for a locked source."
    )

    _views: dict[str, SourceViews] = PrivateAttr(default_factory=dict)
    _had_turns: set[str] = PrivateAttr(default_factory=set)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Release the live files and delete the copies."""
        # If one of them cannot be released, the others are.
        with contextlib.ExitStack() as released:
            for views in self._views.values():
                released.enter_context(views)

    def views(self, migration: Migration, *, run_id: str) -> SourceViews:
        """Views of a migration's source, which all steps of a run share."""

        def locate() -> Path:
            return databases(settings.load(), migration, fresh=True).source

        if migration.name not in self._views:
            self._views[migration.name] = SourceViews(
                locate,
                settings.load().snapshots,
                name=f"{run_id}-{migration.name}",
                busy_seconds=self.busy_seconds,
            )
        return self._views[migration.name]

    def upcoming(self, table: sa.Table, *, of: Sequence[sa.Table]) -> list[sa.Table]:
        """The tables of a run that are still to move after this one.

        Dagster orders the tables by their references only.
        """
        self._had_turns.add(table.name)
        return [each for each in of if each.name not in self._had_turns]


class TargetDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The PostgreSQL target, locked against other runs while it is open.

    After a lost connection, ``reset`` and the next use continue the run in new sessions.
    """

    application_name: str = Field(
        default="pipeline", description="Name of the session in pg_stat_activity."
    )

    _exit: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _sessions: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _target: Target | None = PrivateAttr(default=None)
    _engines: dict[str, Engine] = PrivateAttr(default_factory=dict)
    _following: set[str] = PrivateAttr(default_factory=set)
    _run_id: str = PrivateAttr(default="")
    _mark: int = PrivateAttr(default_factory=lambda: secrets.randbits(63))
    _lost: bool = PrivateAttr(default=False)
    _locked_at: Moment | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Remember the run."""
        self._run_id = context.run.run_id if context.run else ""

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Close the target and release its lock."""
        with self._sessions, self._exit:
            pass

    def open(self) -> Target:
        """An idle session.

        Raises:
            TargetError: the server does not answer, or refuses the user.
            LockedError: another run holds the target, or has moved tables while the connection was
                lost.
        """
        if self._target is None:
            self._target = self._connect()
            self._resume(self._target)
        # One of the engine's two sessions may be busy filling the next table.
        engine = next(iter(self._engines.values()), None)
        return engine.idle if engine else self._target

    def engine(self, open_engine: OpenEngine, *, migration: Migration) -> Engine:
        """The engine that moves the tables of a migration; opened at first use.

        Raises:
            WrongState: the application writes to the target.
            PipelineError: source or target is not usable; nothing was changed.
        """
        session = self.open()
        if migration.name not in self._engines:
            self.require_following(migration)
            if self._engines:
                # The engine of the other migration uses both of its sessions.
                session = self._sessions.enter_context(session.another())
            self._engines[migration.name] = self._exit.enter_context(open_engine(session))
        return self._engines[migration.name]

    def require_following(self, migration: Migration) -> None:
        """Refuse a target that no longer follows the source; asked once, as the lock is held.

        Raises:
            WrongState: the application writes to the target.
        """
        session = self.open()
        if migration.name not in self._following:
            states.require_following(session, migration.name)
            self._following.add(migration.name)

    def reset(self) -> None:
        """Close all sessions; the next use opens new ones and continues the run."""
        self._target, self._lost = None, True
        self._following.clear()
        for engine in self._engines.values():
            engine.suspend()
        self._sessions.close()

    def _connect(self) -> Target:
        loaded = settings.load()
        found = environment.server(loaded)
        environment.require_session(found)
        target = self._sessions.enter_context(
            Target.connect(
                found.target_url,
                shown=found.target_shown,
                application_name=self.application_name,
                mark=self._mark,
            )
        )
        if self._lost:
            # The server may not have noticed yet that they are lost; they may hold locks for hours.
            locks.end_marked(target.rows, self._mark)
        self._sessions.enter_context(target.lock(seconds=loaded.lock_seconds))
        return target

    def _resume(self, target: Target) -> None:
        """Continue the run, unless it could not know what it writes.

        Raises:
            LockedError: another run has moved tables, so the view of the source may be outdated.
            WrongState: the application writes to the target.
        """
        if self._locked_at is None:
            self._locked_at = Moment.now()
            return
        moved = watermarks.moved_by_others(target, run_id=self._run_id, seconds=self._locked_at.age)
        if moved:
            raise LockedError(
                f"Another run moved {', '.join(moved)} while the connection was lost",
                remedy="Run again; tables that this run has committed are kept",
            )
        for number, (name, engine) in enumerate(self._engines.items()):
            states.require_following(target, name)
            another = number and self._sessions.enter_context(target.another())
            engine.resume(another or target)


class Application(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The application's services on both databases."""

    pool_size: int = Field(
        default=POOL_SIZE, description="Maximum number of connections to each database."
    )

    _exit: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _manager: HybridDatabaseManager | None = PrivateAttr(default=None)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Close all connections."""
        self._exit.close()

    def open(self) -> HybridDatabaseManager:
        """The manager of sessions with both databases.

        Raises:
            SettingsError: a URL is malformed.
            TargetError: the embedded server does not start.
        """
        if self._manager is None:
            made = HybridDatabaseManager.of_settings(pool_size=self.pool_size, limits=False)
            self._manager = self._exit.enter_context(made)
        return self._manager


class AnkiCollection(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Anki: a collection's file, locked until the run ends, or AnkiConnect."""

    timeout: float = Field(
        default=TIMEOUT, description="Seconds to wait for an answer of AnkiConnect."
    )

    _exit: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _anki: Anki | None = PrivateAttr(default=None)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Close Anki."""
        self._exit.close()

    def open(self) -> Anki:
        """An open connection to Anki.

        Raises:
            SettingsError: the settings name no Anki, or more than one.
            AnkiGone: it does not answer, or another program has the file open.
            AnkiError: it cannot be used.
        """
        if self._anki is None:
            self._anki = self._exit.enter_context(
                configured_anki(settings.load(), timeout=self.timeout)
            )
        return self._anki
