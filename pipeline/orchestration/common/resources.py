"""Source, target, application and Anki as Dagster resources.

They are opened at first use and closed when the run ends. Their configuration contains no URL, so
a run's configuration never contains a password; URLs come from the settings of the process.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
from pydantic import Field, PrivateAttr

from pipeline.anki.store.connect import TIMEOUT
from pipeline.anki.store.notes import Anki
from pipeline.anki.store.open import configured_anki
from pipeline.application.manager import POOL_SIZE, HybridDatabaseManager
from pipeline.config import environment, settings
from pipeline.config.environment import databases
from pipeline.cutover import states
from pipeline.migrations.declaration import Migration
from pipeline.move.engine import Engine
from pipeline.move.run.views import SourceViews
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import BUSY_SECONDS

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
    """The PostgreSQL target, locked against other runs while it is open."""

    application_name: str = Field(
        default="pipeline", description="Name of the session in pg_stat_activity."
    )

    _exit: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _target: Target | None = PrivateAttr(default=None)
    _engines: dict[str, Engine] = PrivateAttr(default_factory=dict)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Close the target and release its lock."""
        self._exit.close()

    def open(self) -> Target:
        """An idle session.

        Raises:
            TargetError: the server does not answer, or refuses the user.
            LockedError: another run holds the target.
        """
        if self._target is None:
            loaded = settings.load()
            found = environment.server(loaded)
            environment.require_session(found)
            target = self._exit.enter_context(
                Target.connect(
                    found.target_url,
                    shown=found.target_shown,
                    application_name=self.application_name,
                )
            )
            self._exit.enter_context(target.lock(seconds=loaded.lock_seconds))
            self._target = target
        # One of the engine's two sessions may be busy filling the next table.
        for engine in self._engines.values():
            return engine.idle
        return self._target

    def engine(self, open_engine: OpenEngine, *, migration: Migration) -> Engine:
        """The engine that moves the tables of a migration; opened at first use.

        Raises:
            WrongState: the application writes to the target.
            PipelineError: source or target is not usable; nothing was changed.
        """
        if migration.name not in self._engines:
            session = self.open()
            states.require_following(session, migration.name)
            if self._engines:
                # The engine of the other migration uses both of its sessions.
                session = self._exit.enter_context(session.another())
            self._engines[migration.name] = self._exit.enter_context(open_engine(session))
        return self._engines[migration.name]

    def reset(self) -> None:
        """Close the target, so that the next attempt connects again."""
        self._target = None
        self._engines.clear()
        self._exit.close()


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
