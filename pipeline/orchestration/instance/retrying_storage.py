"""Dagster's storage, which retries a call whose connection was lost.

Dagster retries to connect for about six seconds, but fails a run whose connection is lost during a
statement: a restart of the server would fail every third run.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log import EventLogStorage
from dagster._core.storage.runs import RunStorage
from dagster._core.storage.schedules import ScheduleStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres import (
    DagsterPostgresStorage,
    PostgresEventLogStorage,
    PostgresRunStorage,
    PostgresScheduleStorage,
)
from dagster_postgres.utils import pg_url_from_config

from pipeline.orchestration.instance import processes

_ATTEMPTS = 4
_Storage = TypeVar("_Storage", bound=type)


def again(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a call of the storage so that it is made again after its connection was lost.

    Dagster commits each statement by itself and may run it twice: an event is recorded twice if the
    connection is lost right after its commit.
    """

    @functools.wraps(method)
    def called(*given: Any, **named: Any) -> Any:
        for _ in range(_ATTEMPTS - 1):
            try:
                return method(*given, **named)
            except sa.exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
        return method(*given, **named)

    return called


def _patient(storage: _Storage, interface: type) -> _Storage:
    """A storage class in which every method of Dagster's interface is retried."""
    names: frozenset[str] = interface.__abstractmethods__  # type: ignore[attr-defined]
    methods = {name: getattr(storage, name) for name in names}
    retried = {name: again(method) for name, method in methods.items() if callable(method)}
    return cast("_Storage", type(storage.__name__, (storage,), retried))


class _LocatingRunStorage(PostgresRunStorage):
    """Records runs of commands in the place where the UI looks for them."""

    def add_run(self, dagster_run: dg.DagsterRun) -> dg.DagsterRun:
        return super().add_run(processes.located(dagster_run))


class _PreparedEventStorage(PostgresEventLogStorage):
    """Does not ask whether a table exists before it records each result of a check."""

    @functools.cached_property
    def supports_asset_checks(self) -> bool:
        return bool(super().supports_asset_checks)


_Events = _patient(_PreparedEventStorage, EventLogStorage)
_Runs = _patient(_LocatingRunStorage, RunStorage)
_Schedules = _patient(PostgresScheduleStorage, ScheduleStorage)


class RetryingStorage(DagsterPostgresStorage):
    """Dagster's storage in PostgreSQL; dagster.yaml names it."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        """Open the storages for runs, events and schedules.

        Args:
            postgres_url: URL of the database, with the schema in its options.
            inst_data: the configuration from dagster.yaml.
        """
        # The parent's constructor would open three storages of its own.
        DagsterStorage.__init__(self)  # type: ignore[no-untyped-call, arg-type]
        self.postgres_url, self._inst_data = postgres_url, inst_data
        self.should_autocreate_tables = True
        self._run_storage = _Runs(postgres_url)
        self._event_log_storage = _Events(postgres_url)
        self._schedule_storage = _Schedules(postgres_url)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "RetryingStorage":
        """Create the storage from dagster.yaml."""
        return cls(pg_url_from_config(config_value), inst_data)
