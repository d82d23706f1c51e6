"""Source, target, application and Anki as Dagster resources.

They are opened at first use and closed when the run ends.

Their configuration holds no URL, so no password ever stands in a run's configuration; URLs come
from the settings of the process that runs the step.
"""

import contextlib
from collections.abc import Callable, Sequence

import dagster as dg
import sqlalchemy as sa
from pydantic import Field, PrivateAttr

from pipeline import environment, settings
from pipeline.anki.connect import TIMEOUT
from pipeline.anki.named import named_anki
from pipeline.anki.notes import Anki
from pipeline.cutover import states
from pipeline.environment import databases
from pipeline.locks import private_folder
from pipeline.migrations.declaration import Migration
from pipeline.move import mending
from pipeline.move.errors import SettingsError
from pipeline.move.extract import Source
from pipeline.move.live import LiveSource, pinned
from pipeline.move.snapshot import BUSY_SECONDS, take_snapshot
from pipeline.move.target import Target
from pipeline.move.transaction import TableMover
from pipeline.services.manager import POOL_SIZE, HybridDatabaseManager
from pipeline.settings import Settings

MakeMover = Callable[[Target, Settings], contextlib.AbstractContextManager[TableMover]]


class SourceDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One consistent view of a SQLite source for a whole run: a copy, or the pinned live file.

    It is taken at first use; what was copied is deleted when the run ends. A run of tables of two
    migrations has a view of the source of each.
    """

    busy_seconds: float = Field(
        default=BUSY_SECONDS, description="How long to wait for a source that is locked."
    )

    _exits: dict[str, contextlib.ExitStack] = PrivateAttr(default_factory=dict)
    _sources: dict[str, Source] = PrivateAttr(default_factory=dict)
    _live: dict[str, LiveSource] = PrivateAttr(default_factory=dict)
    _had_turns: set[str] = PrivateAttr(default_factory=set)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Let the live files go, and delete what was copied."""
        self.release()

    def open(self, tables: Sequence[sa.Table], *, target: Target, run_id: str) -> Source:
        """The source, readable as it was when the run first asked.

        Args:
            tables: what the run will read.
            target: its ledger knows which values a person has mended.
            run_id: names the copy.

        Raises:
            SourceError: the file cannot be read; nothing was changed.
        """
        loaded = settings.load()
        migration = loaded.registry.of(tables)
        if migration.name not in self._sources:
            found = databases(loaded, migration, fresh=True)
            name = f"{run_id}-{migration.name}"
            # A copy that fails leaves nothing, so that the next step may try again.
            with contextlib.ExitStack() as opened:
                folder = opened.enter_context(private_folder(found.snapshots, name))
                into = folder / "source.db"
                snapshot = take_snapshot(
                    found.source, into, tables=tables, busy_seconds=self.busy_seconds
                )
                source = Source(snapshot)
                names = [table.name for table in tables]
                mending.apply(source, tables, mending.read(target, names))
                self._sources[migration.name] = source
                self._keep(migration, opened)
        return self._sources[migration.name]

    def pin(self, tables: Sequence[sa.Table], *, run_id: str) -> LiveSource:
        """The live source as it was when the run first asked; ``release`` ends that.

        Raises:
            SourceError: the file cannot be read; nothing was changed.
        """
        loaded = settings.load()
        migration = loaded.registry.of(tables)
        if migration.name not in self._live:
            found = databases(loaded, migration, fresh=True)
            name = f"{run_id}-{migration.name}-live"
            with contextlib.ExitStack() as opened:
                folder = opened.enter_context(private_folder(found.snapshots, name))
                live = pinned(found.source, folder, tables=tables, busy_seconds=self.busy_seconds)
                self._live[migration.name] = opened.enter_context(live)
                self._keep(migration, opened)
        return self._live[migration.name]

    def _keep(self, migration: Migration, opened: contextlib.ExitStack) -> None:
        """Close what was opened for a migration when its sources are let go."""
        kept = self._exits.setdefault(migration.name, contextlib.ExitStack())
        kept.push(opened.pop_all())

    def upcoming(self, table: sa.Table, *, of: Sequence[sa.Table]) -> list[sa.Table]:
        """Those of a run's tables that have not had their turn yet, now that one has.

        Dagster keeps to references between the tables of a run and to no other order.
        """
        self._had_turns.add(table.name)
        return [each for each in of if each.name not in self._had_turns]

    def copied(self, tables: Sequence[sa.Table]) -> bool:
        """Whether this run has a copy of the whole source of some tables."""
        return settings.load().registry.of(tables).name in self._sources

    def release(self, tables: Sequence[sa.Table] | None = None) -> None:
        """Let the source of some tables go, or all of them; the next one to ask gets a new view."""
        named = [settings.load().registry.of(tables).name] if tables else list(self._exits)
        # Where one of them cannot be closed, the others are.
        with contextlib.ExitStack() as gone:
            for name in named:
                self._live.pop(name, None)
                self._sources.pop(name, None)
                gone.push(self._exits.pop(name, contextlib.ExitStack()))


class TargetDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The PostgreSQL target; while a run has it open, no other run can write."""

    application_name: str = Field(
        default="pipeline", description="What the server's list of sessions calls this one."
    )

    _exit: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _target: Target | None = PrivateAttr(default=None)
    _movers: dict[str, tuple[TableMover, str]] = PrivateAttr(default_factory=dict)

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
            environment.demand_session(found)
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
        for mover, _ in self._movers.values():
            return mover.idle
        return self._target

    def mover(self, make: MakeMover, *, migration: Migration, way: str) -> TableMover:
        """What moves the tables of a migration into this target; made at first use.

        Args:
            make: makes it.
            migration: the tables' own.
            way: how it moves them; all its tables of a run are moved in one way.

        Raises:
            SettingsError: another table of the run was moved in another way.
            WrongState: the application writes to the target itself.
            PipelineError: source or target is not usable; nothing was changed.
        """
        if migration.name not in self._movers:
            session = self.open()
            states.demand_following(session, migration.name)
            if self._movers:
                # While the other one fills a table ahead, it needs both sessions that it has.
                session = self._exit.enter_context(session.another())
            mover = self._exit.enter_context(make(session, settings.load()))
            self._movers[migration.name] = (mover, way)
        mover, first = self._movers[migration.name]
        if way != first:
            raise SettingsError(
                "The tables of this run are configured to be moved in different ways",
                remedy="Give all of them the same configuration",
            )
        return mover

    def reset(self) -> None:
        """Let the target go, so that another attempt makes a connection of its own."""
        self._target = None
        self._movers.clear()
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
