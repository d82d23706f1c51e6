"""Where Dagster keeps its records: runs, events and schedules, in a schema ``dagster``.

DAGSTER_DATABASE_URL names the database. Without it, the records are in the target if that is on
this machine, or if it has them already: schedules that are on stay on. Otherwise they are in the
embedded server of PIPELINE_HOME, because a run sends some hundred statements, and each would take
a round trip to the target.
"""

import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import psycopg2
from sqlalchemy.engine import URL, make_url

from pipeline.config import environment
from pipeline.config.settings import DAGSTER_URL, Settings, libpq, pooled, shown
from pipeline.config.web_origins import is_loopback
from pipeline.core.errors import SettingsError, TargetError
from pipeline.core.messages import written
from pipeline.postgres import session
from pipeline.postgres.embedded.server import ensure_server

SETTING = "DAGSTER_DATABASE_URL"
DAGSTER_OPTIONS = session.options(session.DAGSTER)
"""Options that identify the connections of Dagster."""
TABLES_EXIST = (
    "(to_regclass('dagster.runs') IS NOT NULL AND to_regclass('dagster.event_logs') IS NOT NULL"
    " AND to_regclass('dagster.instigators') IS NOT NULL)"
)
"""An SQL condition: the database has Dagster's tables."""
_SECONDS = 10
_TCP = "postgresql://USER:PASSWORD@HOST:5432/DATABASE"


@dataclass(frozen=True)
class Records:
    """The database with Dagster's records.

    Attributes:
        place: DAGSTER_DATABASE_URL names it, it is the target, or it is the embedded server.
    """

    url: URL
    place: Literal["setting", "target", "embedded"]

    @property
    def libpq(self) -> str:
        """The URL in the form of libpq, with its password."""
        return libpq(self.url)

    @property
    def shown(self) -> str:
        """The database in messages, without a password."""
        return shown(self.url)

    @property
    def advice(self) -> tuple[str, str] | None:
        """That the records are better kept nearby, and how to do that; None if they are."""
        if self.place != "target" or is_local(self.url):
            return None
        return (
            f"Dagster's records are in the target, {self.shown}, so a run waits for a round trip"
            " for each of its events",
            f"Set {SETTING} to a database near this machine, or run DROP SCHEMA dagster CASCADE in"
            " the target to keep new records in PIPELINE_HOME. Both begin a new run history, in"
            " which schedules are off until they are switched on",
        )

    def connect(
        self,
        *,
        application_name: str = "pipeline",
        settings: Iterable[session.Setting] = session.MOVES,
    ) -> Any:
        """Open a short session, as ``session.connect``.

        Raises:
            TargetError: no server answers, or a setting cannot be changed.
        """
        try:
            return session.connect(
                self.libpq,
                shown=self.shown,
                application_name=application_name,
                settings=settings,
                seconds=_SECONDS,
            )
        except TargetError as error:
            raise self._naming_setting(error) from None

    def unreachable(self, error: BaseException) -> TargetError:
        """The error for a failure; raise it ``from None``, because drivers repeat URLs."""
        found = TargetError.from_driver(error, where=self.shown, url=self.libpq)
        return self._naming_setting(found)

    def _naming_setting(self, error: TargetError) -> TargetError:
        """The same error; its remedy names the setting of this database."""
        if self.place != "setting":
            return error
        remedy = written(error.advice).replace("DATABASE_URL", SETTING)
        named = type(error)(error.problem, remedy=remedy)
        named.sqlstate = error.sqlstate
        return named


def from_settings(settings: Settings, target: URL) -> Records | None:
    """The place of the records as far as settings tell; None if it depends on the target.

    Raises:
        SettingsError: the setting cannot be used.
    """
    configured = settings.configured_records
    if configured is not None:
        if pooled(configured):
            raise SettingsError(
                f"{SETTING} names a transaction pooler (port {configured.port}), which does not"
                " support Dagster's sessions",
                remedy="Use the direct or the session connection (port 5432)",
            )
        return Records(configured, "setting")
    if settings.configured_target is None:
        return Records(target, "embedded")
    return Records(target, "target") if is_local(target) else None


def choose(settings: Settings, target: URL, *, in_target: bool) -> Records:
    """The place of the records; starts the embedded server if they are there.

    Args:
        settings: the settings.
        target: the target.
        in_target: whether the target has Dagster's tables.

    Raises:
        SettingsError: the setting cannot be used.
        TargetError: the embedded server does not start.
    """
    found = from_settings(settings, target)
    if found is None and in_target:
        return Records(target, "target")
    return found or Records(ensure_server(settings.server_data), "embedded")


def locate(settings: Settings, target: URL) -> Records:
    """The place of the records; asks the target only if settings do not tell.

    Raises:
        SettingsError: the setting cannot be used.
        TargetError: the target does not answer, or the embedded server does not start.
    """
    found = from_settings(settings, target)
    if found is not None:
        return found
    asked = Records(target, "target")
    try:
        with closing(asked.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT {TABLES_EXIST}")
            (there,) = cursor.fetchone()
    except psycopg2.Error as error:
        raise asked.unreachable(error) from None
    return choose(settings, target, in_target=bool(there))


def in_use(settings: Settings) -> Records:
    """The place of the records that this process uses, or the target before it uses any.

    Raises:
        SettingsError: a URL is malformed.
    """
    named = os.environ.get(DAGSTER_URL, "")
    configured = (
        Records(settings.configured_records, "setting") if settings.configured_records else None,
        Records(settings.configured_target, "target") if settings.configured_target else None,
    )
    for each in configured:
        if each is not None and dagster_url(each.url) == named:
            return each
    if not named:
        target = environment.server(settings).target
        return Records(target, "target" if settings.configured_target else "embedded")
    found = make_url(named).set(drivername="postgresql")
    return Records(found.difference_update_query(["options", "client_encoding"]), "embedded")


def require_shared(settings: Settings) -> None:
    """Refuse to run services whose records other processes could not reach.

    Raises:
        SettingsError: the setting is missing, or names a Unix socket.
    """
    configured = settings.configured_records
    if configured is None:
        raise SettingsError(
            f"{SETTING} is not set, but all services need the same records of runs and schedules",
            remedy=f"Set it to a PostgreSQL database near the services, {_TCP}; to keep records"
            " that are in the target, set it to the value of DATABASE_URL",
        )
    if any(host.startswith("/") for host in _hosts(configured)) or not _hosts(configured):
        raise SettingsError(
            f"{SETTING} names a Unix socket, which services in other containers or on other"
            " machines cannot reach",
            remedy=f"Write it with a host and a port, {_TCP}",
        )


def is_local(url: URL) -> bool:
    """Whether a server is on this machine: by a Unix socket or a loopback address."""
    return all(host.startswith("/") or is_loopback(host) for host in _hosts(url))


def _hosts(url: URL) -> list[str]:
    """Hosts of a URL, sockets included; none means the default socket of libpq."""
    query = url.normalized_query
    listed = query.get("hostaddr") or query.get("host") or (url.host or "",)
    named = [host for each in listed for host in each.split(",") if host]
    # Each of several hosts may have a port.
    return [host if host.count(":") != 1 else host.partition(":")[0] for host in named]


def dagster_url(url: URL) -> str:
    """The URL of Dagster's storage in a database: schema ``dagster``."""
    own = " ".join(url.normalized_query.get("options", ()))
    stated = {"options": f"{own} {DAGSTER_OPTIONS}".lstrip(), "client_encoding": "UTF8"}
    whole = url.set(drivername="postgresql+psycopg2").update_query_dict(stated)
    return whole.render_as_string(hide_password=False)
