"""Source, target, application and Anki as Dagster resources.

They are opened at first use and closed when the run ends.

Their configuration holds no URL, so no password ever stands in a run's configuration; URLs come
from the settings of the process that runs the step.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
from pydantic import Field, PrivateAttr

from pipeline.anki.store.connect import TIMEOUT
from pipeline.anki.store.notes import Anki
from pipeline.anki.store.open import named_anki
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
    """One consistent view of a SQLite source for a whole run: a copy, or the pinned live file.

    It is taken at first use; what was copied is deleted when the run ends. A run of tables of two
    migrations has a view of the source of each.
    """

    busy_seconds: float = Field(
        default=BUSY_SECONDS, description="How long to wait for a source that is locked."
    )

    _views: dict[str, SourceViews] = PrivateAttr(default_factory=dict)
    _had_turns: set[str] = PrivateAttr(default_factory=set)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Let the live files go, and delete what was copied."""
        # Where one of them cannot be released, the others are.
        with contextlib.ExitStack() as gone:
            for views in self._views.values():
                gone.enter_context(views)

    def views(self, migration: Migration, *, run_id: str) -> SourceViews:
        """Views of a migration's source, which all steps of a run share.

        Args:
            migration: whose source is read.
            run_id: names what is copied.
        """

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
        """Those of a run's tables that have not had their turn yet, now that one has.

        Dagster keeps to references between the tables of a run and to no other order.
        """
        self._had_turns.add(table.name)
        return [each for each in of if each.name not in self._had_turns]


class TargetDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The PostgreSQL target; while a run has it open, no other run can write."""

    application_name: str = Field(
        default="pipeline", description="What the server's list of sessions calls this one."
    )

    _exit: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _target: Target | None = PrivateAttr(default=None)
    _engines: dict[str, Engine] = PrivateAttr(default_factory=dict)

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
        # While a table is filled ahead, one of the mover's two sessions is not free.
        for engine in self._engines.values():
            return engine.idle
        return self._target

    def engine(self, open_engine: OpenEngine, *, migration: Migration) -> Engine:
        """What moves the tables of a migration into this target; opened at first use.

        Args:
            open_engine: opens it, given a session.
            migration: the tables' own.

        Raises:
            WrongState: the application writes to the target itself.
            PipelineError: source or target is not usable; nothing was changed.
        """
        if migration.name not in self._engines:
            session = self.open()
            states.require_following(session, migration.name)
            if self._engines:
                # While the other one fills a table ahead, it needs both sessions that it has.
                session = self._exit.enter_context(session.another())
            self._engines[migration.name] = self._exit.enter_context(open_engine(session))
        return self._engines[migration.name]

    def reset(self) -> None:
        """Let the target go, so that another attempt makes a connection of its own."""
        self._target = None
        self._engines.clear()
        self._exit.close()


class Application(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The application's own door to both databases."""

    pool_size: int = Field(default=POOL_SIZE, description="Connections to each, at most.")

    _exit: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _manager: HybridDatabaseManager | None = PrivateAttr(default=None)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Close all connections."""
        self._exit.close()

    def open(self) -> HybridDatabaseManager:
        """Sessions with both databases.

        Raises:
            SettingsError: a URL is malformed.
            TargetError: the embedded server does not start.
        """
        if self._manager is None:
            made = HybridDatabaseManager.of_settings(pool_size=self.pool_size, limits=False)
            self._manager = self._exit.enter_context(made)
        return self._manager


class AnkiCollection(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Anki, by its collection's file or by AnkiConnect; a file is locked until the run ends."""

    timeout: float = Field(
        default=TIMEOUT, description="How many seconds AnkiConnect may take to answer."
    )

    _exit: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _anki: Anki | None = PrivateAttr(default=None)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Let Anki go."""
        self._exit.close()

    def open(self) -> Anki:
        """Anki, ready to be asked.

        Raises:
            SettingsError: the settings name none, or more than one.
            AnkiGone: it does not answer, or another program has the file open.
            AnkiError: it cannot be used.
        """
        if self._anki is None:
            self._anki = self._exit.enter_context(named_anki(settings.load(), timeout=self.timeout))
        return self._anki
