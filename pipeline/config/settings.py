"""Typed settings from the environment and ``.env``; no other module reads the environment."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import pydantic_settings
from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode
from sqlalchemy.engine import URL

from pipeline.config import variables, wording
from pipeline.config.home import HomeSettings
from pipeline.config.setting_groups import AlertSettings, AnkiSettings, PolicySettings, UiSettings
from pipeline.config.variables import (
    RENAMED,
    ProjectSettings,
    names_of,
    require_readable,
    require_utf8,
    warn_unknown,
)
from pipeline.core import private, urls
from pipeline.core.errors import SettingsError, without_password
from pipeline.core.policies import Policies
from pipeline.migrations import registry
from pipeline.migrations.declaration import Migration
from pipeline.migrations.registry import Registry
from pipeline.sqlite import origin

PROJECT = private.PROJECT
DAGSTER_URL = "PIPELINE_DAGSTER_URL"
"""The variable in dagster.yaml for the database of Dagster's runs."""
DAGSTER_FILES = "PIPELINE_DAGSTER_FILES"
"""The variable in dagster.yaml for the folder of the output of steps."""
CODE_SOCKET = "PIPELINE_CODE_SOCKET"
"""The variable in deploy/workspace.yaml for the socket of the code server."""
TRANSACTION_POOLER = 6543
"""The port of Supabase's transaction pooler."""

_GROUPS: tuple[type[BaseSettings], ...] = (
    PolicySettings,
    AnkiSettings,
    AlertSettings,
    UiSettings,
)
"""All groups of settings with a prefix."""


class Settings(HomeSettings):
    """Settings without a prefix; every field has a default that works.

    Each migration adds a variable for its source, see ``source_url``.

    Attributes:
        migrations_folder: a folder with modules of further migrations; None: see ``registry``.
        migrations: names of the migrations that Dagster loads; see ``Registry.selected``.
        turso_auth_token: the token of a source on Turso.
        database_url: the target, ``postgresql://...``; None uses the embedded server.
        dagster_database_url: the database of Dagster's records; None: see ``records``.
        max_delete_share: a move stops if it would delete more than this share of a table's rows.
        max_quarantine_share: a move stops if more than this share of a table's rows would be in
            quarantine.
        lock_seconds: how long to wait for another run that holds the lock of the target.
        verify_mib: of larger tables, ``verify`` compares the values of a random sample of this many
            MiB; keys are always compared in full.
        verify_seed: the seed of that sample; None selects another sample in every run.
        verify_cron: the schedule of ``verify``, once it is switched on.
        sync_cron: the schedule of ``sync``, once it is switched on.
        sync_on: that schedule and the sensor of the source file are on from the start.
        schedule_zone: the time zone of all schedules.
        keep_runs: how many runs of each job are kept, with their events and evidence.
        keep_backups: how many backups are kept.
        feed_hours: how long the feed keeps changes for disconnected readers.
        adopt_target: see ``Policies``.
        max_value_bytes: see ``Policies``.
        ui_host: the address on which the UI listens.
        ui_port: the port on which the UI listens.
    """

    migrations_folder: Annotated[Path, AfterValidator(lambda path: PROJECT / path)] | None = None
    migrations: Annotated[tuple[str, ...], NoDecode, Field(validate_default=False)] = ()
    turso_auth_token: SecretStr | None = None
    database_url: SecretStr | None = None
    dagster_database_url: SecretStr | None = None
    max_delete_share: float = Field(default=0.25, ge=0, le=1)
    max_quarantine_share: float = Field(default=0.25, ge=0, le=1)
    lock_seconds: float = Field(default=30.0, ge=0)
    verify_mib: float = Field(default=4096, gt=0, allow_inf_nan=False)
    verify_seed: int | None = None
    verify_cron: str = "0 3 * * *"
    sync_cron: str = "*/15 * * * *"
    sync_on: bool = False
    schedule_zone: str = "UTC"
    keep_runs: int = Field(default=500, ge=10)
    keep_backups: int = Field(default=7, ge=1)
    feed_hours: float = Field(default=48, gt=0, le=87_600)
    adopt_target: bool = False
    max_value_bytes: int = Field(default=1_000_000_000, gt=0)
    ui_host: str = "127.0.0.1"
    ui_port: int = Field(default=3000, ge=1, le=65535)

    @field_validator("migrations_folder", mode="before")
    @classmethod
    def _named(cls, given: object) -> object:
        return given or None

    @field_validator("migrations", mode="before")
    @classmethod
    def _known(cls, given: object, info: ValidationInfo) -> tuple[str, ...]:
        named = given.split(",") if isinstance(given, str) else list(given)  # type: ignore[call-overload]
        names = tuple(dict.fromkeys(name.strip() for name in named if name.strip()))
        folder = info.data.get("migrations_folder")
        known = registry.find(folder, wanted=frozenset(names)).names
        if not names or set(names) - set(known):
            raise ValueError(f"name {' or '.join(known)}, or several separated by commas")
        return names

    @property
    def registry(self) -> Registry:
        """All known migrations, enabled or not."""
        return registry.find(self.migrations_folder, wanted=frozenset(self.migrations))

    @property
    def enabled(self) -> list[Migration]:
        """The migrations that Dagster loads; the first is the default of commands."""
        return self.registry.selected(self.migrations, is_set=self.source_url)

    @cached_property
    def _sources(self) -> BaseSettings:
        return _source_settings(self.registry)()

    @cached_property
    def _policies(self) -> Policies:
        return Policies(
            **PolicySettings().model_dump(),
            adopt_target=self.adopt_target,
            max_value_bytes=self.max_value_bytes,
        )

    def policies(self, migration: Migration) -> Policies:
        """The policies of a migration, from POLICY_... in the environment."""
        given = self._policies
        others = [each for each in self.registry if each is not migration]

        def own(named: Mapping[str, Any]) -> dict[str, Any]:
            """The entries that no other migration has, by ``table.column``."""
            holder = self.registry.holding
            return {n: v for n, v in named.items() if holder(n.rpartition(".")[0]) not in others}

        return replace(
            given,
            forbidden_nulls=own(given.forbidden_nulls),
            source_names=own(given.source_names),
            forms=own(given.forms),
        )

    @cached_property
    def anki(self) -> AnkiSettings:
        """Settings of Anki, from ANKI_... in the environment."""
        return AnkiSettings()

    @cached_property
    def alerts(self) -> AlertSettings:
        """Settings of alerts, from ALERT_... in the environment."""
        return AlertSettings()

    @cached_property
    def ui(self) -> UiSettings:
        """Settings of the UI, from UI_... in the environment."""
        return UiSettings()

    def without_secrets(self, text: str) -> str:
        """Mask the secrets of the settings in a text from elsewhere."""
        given = (
            self.database_url,
            self.dagster_database_url,
            self.turso_auth_token,
            self.alerts.webhook_url,
            self.alerts.smtp_url,
            self.anki.connect_key,
            self.ui.token,
            self.ui.password,
        )
        for secret in (each.get_secret_value() for each in given if each is not None):
            if secret:
                text = without_password(text.replace(secret, "***"), secret)
        anki = self.anki.connect_url
        return without_password(text, anki.get_secret_value()) if anki else text

    def source_url(self, migration: Migration) -> str | None:
        """The source of a migration as set or declared; None if the source is its sample.

        Forms: ``sqlite:///PATH``, ``dump:///PATH`` and ``libsql://HOST``.
        """
        given: SecretStr | None = getattr(self._sources, migration.setting.lower())
        return (given and given.get_secret_value()) or migration.source

    def origin(self, migration: Migration) -> origin.Origin:
        """The origin of a source; a relative path starts at the project's folder.

        Raises:
            SettingsError: the URL is malformed.
        """
        given = self.source_url(migration)
        if given is None and migration.make_sample is None:
            raise SettingsError(
                f"{migration.setting} is not set, and {migration.name} has no sample",
                remedy="Set it to sqlite:///PATH, dump:///PATH or libsql://HOST",
            )
        if given is None:
            return origin.File(self.sample_path(migration))
        return origin.parse(given, token=self.turso_auth_token, name=migration.setting)

    def source_path(self, migration: Migration) -> Path:
        """The SQLite file to read; the copy of a dump or of a Turso database may not exist yet.

        Raises:
            SettingsError: the URL is malformed.
        """
        return origin.place(self.origin(migration), home=self.pipeline_home)

    @property
    def configured_target(self) -> URL | None:
        """The configured target, None for the embedded server.

        Raises:
            SettingsError: the URL is malformed or ambiguous.
        """
        return _postgres(self.database_url, name="DATABASE_URL")

    @property
    def configured_records(self) -> URL | None:
        """The configured database of Dagster's records.

        Raises:
            SettingsError: the URL is malformed or ambiguous.
        """
        return _postgres(self.dagster_database_url, name="DAGSTER_DATABASE_URL")


def _postgres(given: SecretStr | None, *, name: str) -> URL | None:
    if given is None or not given.get_secret_value():
        return None
    return urls.postgres(given.get_secret_value(), name=name).set(drivername="postgresql")


def load(**overrides: Any) -> Settings:
    """Read the settings, which are validated again only after the environment has changed.

    Raises:
        SettingsError: a value is not usable; the message names it.
    """
    given = None if overrides else variables.snapshot(PROJECT / ".env")
    if given is None:
        return _load(overrides)
    loaded, registry = _validated(given)
    if loaded.registry is not registry:
        _validated.cache_clear()
        loaded, _ = _validated(given)
    return loaded


@functools.lru_cache(maxsize=1)
def _validated(_given: variables.Snapshot) -> tuple[Settings, Registry]:
    loaded = _load({})
    return loaded, loaded.registry


def _load(overrides: Mapping[str, Any]) -> Settings:
    require_utf8(names_of(Settings, *_GROUPS) | RENAMED.keys())
    require_readable(PROJECT / ".env")
    try:
        loaded = Settings(**overrides)
        sources = names_of(_source_settings(loaded.registry))
        require_utf8(sources)
        known = (
            names_of(Settings, *_GROUPS) | sources | RENAMED.keys() | {DAGSTER_URL, DAGSTER_FILES}
        )
        warn_unknown(known, PROJECT / ".env")
        _ = loaded._sources, loaded._policies, loaded.anki, loaded.alerts, loaded.ui
        return loaded
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        prefix = {group.__name__: group.model_config["env_prefix"] for group in _GROUPS}
        name = f"{prefix.get(error.title, '')}{first['loc'][0]}".upper()
        why = wording.expected(name, first)
    except pydantic_settings.SettingsError as error:
        # The values of these two are parsed as JSON before validation.
        policy = "forbidden_nulls" in str(error)
        name = "POLICY_FORBIDDEN_NULLS" if policy else "ANKI_FIELDS"
        why = f"it is not a JSON {'object' if policy else 'list of two names'} ({error.__cause__})"
    raise SettingsError(
        f"{name} cannot be used: {why}", remedy="Correct it in the environment or .env"
    )


@functools.cache
def _source_settings(known: Registry) -> type[BaseSettings]:
    """One setting per migration, for its source.

    Raises:
        SettingsError: a migration declares a setting that has another meaning.
    """
    taken = [each.setting for each in known if each.setting in names_of(Settings, *_GROUPS)]
    if taken:
        raise SettingsError(
            f"A migration declares {taken[0]} as the setting of its source, but this setting has"
            " another meaning",
            remedy="Declare another setting in that migration",
        )
    fields: Any = {each.setting.lower(): (SecretStr | None, None) for each in known}
    return create_model("Sources", __base__=ProjectSettings, **fields)


def libpq(url: URL) -> str:
    """A URL in the form of libpq, password included."""
    user = quote(url.username or "", safe="")
    password = f":{quote(str(url.password), safe='')}" if url.password is not None else ""
    server = f"[{url.host}]" if url.host and ":" in url.host else url.host or ""
    port = f":{url.port}" if url.port else ""
    options = urlencode(url.normalized_query, doseq=True, quote_via=quote)
    return (
        f"postgresql://{user}{password}{'@' if user or password else ''}{server}{port}"
        f"/{quote(url.database or '', safe='')}{'?' if options else ''}{options}"
    )


def shown(url: URL) -> str:
    """A URL for people: database and host, no password."""
    host = url.host or url.query.get("host", "local socket")
    port = f":{url.port}" if url.port else ""
    return f"PostgreSQL {url.database or ''} at {host}{port}"


def pooled(url: URL) -> bool:
    """Whether the URL names Supabase's transaction pooler, by port and host."""
    return url.port == TRANSACTION_POOLER and "supabase." in (url.host or "")
