"""Environment and ``.env`` to typed settings; nothing else of the project reads the environment."""

import functools
import io
import os
import re
from collections.abc import Callable, Set
from dataclasses import replace
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import pydantic_settings
from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL

from pipeline.config.origins import Origin
from pipeline.core import urls
from pipeline.core.errors import SettingsError, without_password
from pipeline.core.policies import (
    Conflicts,
    DoubleEncodedJson,
    ExtraColumns,
    LossyConversions,
    Policies,
)
from pipeline.mapping.types import knows_zone
from pipeline.migrations import registry
from pipeline.migrations.declaration import Migration
from pipeline.migrations.registry import Registry
from pipeline.postgres import session
from pipeline.sqlite import origin

PROJECT = Path(__file__).resolve().parent.parent.parent
DAGSTER_URL = "PIPELINE_DAGSTER_URL"
"""The variable by which dagster.yaml learns where Dagster keeps its runs."""
DAGSTER_FILES = "PIPELINE_DAGSTER_FILES"
"""The variable by which dagster.yaml learns where Dagster keeps what steps print."""
CODE_SOCKET = "PIPELINE_CODE_SOCKET"
"""The variable by which deploy/workspace.yaml learns where the code server listens."""
TRANSACTION_POOLER = 6543
"""The port on which Supabase gives a session for one transaction only."""
DAGSTER_OPTIONS = session.options(session.DAGSTER)
"""By these a connection of Dagster's own is known."""
_SOCKET_BYTES = 100
"""A Unix socket's address has room for about a hundred bytes."""
_ALL = ("*",)
"""Stands for every migration."""


class PolicySettings(BaseSettings):
    """Decisions about the data; each is named POLICY_... in the environment.

    Attributes are those of ``Policies``, which says what they mean.
    """

    model_config = SettingsConfigDict(
        env_file=PROJECT / ".env", env_prefix="POLICY_", extra="ignore"
    )

    naive_zone: str = "UTC"
    forbidden_nulls: dict[str, str | int | float] = {}
    extra_columns: ExtraColumns = "carry"
    lossy_conversions: LossyConversions = "keep"
    conflicts: Conflicts = "target"
    double_encoded_json: DoubleEncodedJson = "unwrap"

    @field_validator("naive_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        if not knows_zone(name):
            raise ValueError("no moment can be placed in it; write it like UTC or Asia/Bangkok")
        return name


class AnkiSettings(BaseSettings):
    """Where Anki is and what its notes look like; each is named ANKI_... in the environment.

    Attributes:
        collection: the collection's file, when the desktop program is not running.
        connect_url: where AnkiConnect listens, when it is; None of both
            makes a sample collection where the sample is the source.
        connect_key: AnkiConnect's ``apiKey``, if it has one.
        deck: where notes of new cards go.
        note_type: the type of new notes.
        fields: names of the note type's fields for front and back.
        templates: a folder with ``front.html`` and ``back.html`` in place of the project's own.
        cron: when the schedule of ``anki_sync`` starts it, once that is switched on.
    """

    model_config = SettingsConfigDict(
        env_file=PROJECT / ".env", env_prefix="ANKI_", extra="ignore", env_ignore_empty=True
    )

    collection: Annotated[Path, AfterValidator(lambda path: PROJECT / path)] | None = None
    connect_url: SecretStr | None = None
    connect_key: SecretStr | None = None
    deck: str = Field(default="top-thai-2000", min_length=1)
    note_type: str = Field(default="Basic", min_length=1)
    fields: tuple[str, str] = ("Front", "Back")
    templates: Annotated[Path, AfterValidator(lambda path: PROJECT / path)] | None = None
    cron: str = "0 * * * *"

    @field_validator("connect_url")
    @classmethod
    def _http(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            _require_server(url, {"http", "https"}, "http://127.0.0.1:8765")
        return url


class AlertSettings(BaseSettings):
    """Who is told of failures; each is named ALERT_... in the environment.

    Attributes:
        webhook_url: takes a POST of JSON.
        smtp_url: the mail server, ``smtp://USER:PASSWORD@HOST:587`` or ``smtps://...``.
        sender: ALERT_FROM, whom mails are from.
        to: whom mails are for; several with commas between.
        ui_url: where people open the UI; alerts then link to the run.
        warnings: whether checks that only warn are told, too.
    """

    model_config = SettingsConfigDict(
        env_file=PROJECT / ".env", env_prefix="ALERT_", extra="ignore", env_ignore_empty=True
    )

    webhook_url: SecretStr | None = None
    smtp_url: SecretStr | None = None
    sender: str | None = Field(default=None, validation_alias="ALERT_FROM")
    to: str | None = None
    ui_url: str | None = None
    warnings: bool = False

    @field_validator("webhook_url")
    @classmethod
    def _http(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            _require_server(url, {"http", "https"}, "https://HOST/PATH")
        return url

    @field_validator("smtp_url")
    @classmethod
    def _smtp(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            _require_server(url, {"smtp", "smtps"}, "smtp://USER:PASSWORD@HOST:587")
        return url

    @field_validator("ui_url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        parts = urls.server(url, {"http", "https"}) if url else None
        if url and (parts is None or parts.username is not None):
            # Whoever is alerted reads it.
            raise ValueError("write it like https://HOST, without a user or password")
        return url and url.rstrip("/")


class UiSettings(BaseSettings):
    """Who may use the UI, and from where; each is named UI_... in the environment.

    Attributes:
        origin: where people open the UI if a proxy stands before it, ``https://HOST``; several
            with commas between.
        token: lets scripts in, by ``Authorization: Bearer``.
        password: what people are asked for; None asks nobody.
        session_hours: how long somebody stays logged in.
        user_header: the header in which a proxy names who has logged in there.
        proxies: addresses from which that header is believed.
        without_login: the UI may listen on other addresses than the loopback one without a login.
    """

    model_config = SettingsConfigDict(
        env_file=PROJECT / ".env", env_prefix="UI_", extra="ignore", env_ignore_empty=True
    )

    origin: Annotated[tuple[Origin, ...], NoDecode] = ()
    token: SecretStr | None = None
    password: SecretStr | None = None
    session_hours: float = Field(default=12.0, gt=0, le=720)
    user_header: str | None = Field(default=None, pattern="^[A-Za-z0-9-]+$")
    proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = (
        IPv4Network("127.0.0.0/8"),
        IPv6Network("::1"),
    )
    without_login: bool = False

    @field_validator("origin", mode="before")
    @classmethod
    def _origins(cls, given: object) -> object:
        try:
            return _listed(given, Origin.parse)
        except ValueError:
            raise ValueError("write it like https://pipeline.example.org") from None

    @field_validator("proxies", mode="before")
    @classmethod
    def _networks(cls, given: object) -> object:
        try:
            return _listed(given, ip_network)
        except ValueError:
            raise ValueError("write it like 127.0.0.1,10.0.0.0/8") from None

    @field_validator("token", "password")
    @classmethod
    def _long(cls, given: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        least = {"token": 32, "password": 12}[f"{info.field_name}"]
        if given is not None and len(given.get_secret_value()) < least:
            raise ValueError(f"it needs at least {least} characters")
        return given

    @field_validator("token")
    @classmethod
    def _sendable(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None and not re.fullmatch("[!-~]*", given.get_secret_value()):
            raise ValueError("use printable ASCII characters without spaces")
        return given

    @property
    def has_login(self) -> bool:
        """Whether the UI itself wants to know who somebody is."""
        return self.password is not None or self.user_header is not None

    @property
    def secure(self) -> bool:
        """Whether people reach it by TLS."""
        return any(origin.scheme == "https" for origin in self.origin)


class _SourceSettings(BaseSettings):
    """Where the sources of the migrations are."""

    model_config = SettingsConfigDict(env_file=PROJECT / ".env", extra="ignore")


_GROUPS: tuple[type[BaseSettings], ...] = (
    PolicySettings,
    AnkiSettings,
    AlertSettings,
    UiSettings,
)
"""Settings whose names begin with a prefix."""


class Settings(BaseSettings):
    """What a user can set; every field has a default that works.

    Each migration names one more variable, for its source: see ``source_url``.

    Attributes:
        migrations_folder: a folder with the modules of further migrations.
        migrations: names of those that Dagster loads; the first is meant where none is named.
        turso_auth_token: lets us into a source on Turso.
        database_url: the target, ``postgresql://...``; None starts and uses the embedded server.
        pipeline_home: where the sample, the embedded server's data and snapshots lie.
        max_delete_share: a move stops when it would delete more of a table's rows than this.
        lock_seconds: how long to wait for another run that holds the target.
        verify_mib: of a table with more, ``verify`` compares the values of so many MiB, chosen at
            random; keys are always compared in full.
        verify_seed: chooses them; None takes another choice in every run.
        verify_cron: when the schedule of ``verify`` starts it, once that is switched on.
        sync_cron: when the schedule of ``sync`` starts it, once that is switched on.
        sync_on: whether that schedule and the sensor on the source file are on from the start.
        schedule_zone: time zone of every schedule.
        keep_runs: how many runs of each job are remembered, with their events and evidence.
        keep_backups: how many backups are kept.
        feed_hours: how long changes stay in the feed for who was away.
        adopt_target: rows of the target that no move has put there are made equal to the source.
        max_value_bytes: a larger row of the source stops a move, before it takes the memory.
        ui_host: the address on which the UI listens.
        ui_port: the port on which it does.
    """

    model_config = SettingsConfigDict(env_file=PROJECT / ".env", extra="ignore")

    migrations_folder: Annotated[Path, AfterValidator(lambda path: PROJECT / path)] | None = None
    migrations: Annotated[tuple[str, ...], NoDecode, Field(validate_default=True)] = _ALL
    turso_auth_token: SecretStr | None = None
    database_url: SecretStr | None = None
    pipeline_home: Annotated[Path, AfterValidator(lambda path: PROJECT / path)] = (
        PROJECT / ".pipeline"
    )
    max_delete_share: float = Field(default=0.25, ge=0, le=1)
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
        known = registry.find(info.data.get("migrations_folder")).names
        if given == _ALL:
            return tuple(known)
        named = given.split(",") if isinstance(given, str) else list(given)  # type: ignore[call-overload]
        names = tuple(dict.fromkeys(name.strip() for name in named if name.strip()))
        if not names or not set(names) <= set(known):
            raise ValueError(f"name {' or '.join(known)}, or several with commas between")
        return names

    @property
    def registry(self) -> Registry:
        """Every migration there is, enabled or not."""
        return registry.find(self.migrations_folder)

    @property
    def enabled(self) -> list[Migration]:
        """The migrations that Dagster loads; the first is meant where none is named."""
        known = {migration.name: migration for migration in self.registry}
        return [known[name] for name in self.migrations]

    @cached_property
    def _sources(self) -> BaseSettings:
        return _sources_of(self.registry)()

    @cached_property
    def _policies(self) -> Policies:
        return Policies(
            **PolicySettings().model_dump(),
            adopt_target=self.adopt_target,
            max_value_bytes=self.max_value_bytes,
        )

    def policies(self, migration: Migration) -> Policies:
        """What is to be done where a person has to decide; POLICY_... in the environment."""
        given = self._policies.forbidden_nulls
        others = [each for each in self.registry if each is not migration]
        mine = {
            name: value
            for name, value in given.items()
            if self.registry.holding(name.rpartition(".")[0]) not in others
        }
        return replace(self._policies, forbidden_nulls=mine)

    @cached_property
    def anki(self) -> AnkiSettings:
        """Where Anki is and what its notes look like; ANKI_... in the environment."""
        return AnkiSettings()

    @cached_property
    def alerts(self) -> AlertSettings:
        """Who is told of failures; ALERT_... in the environment."""
        return AlertSettings()

    @cached_property
    def ui(self) -> UiSettings:
        """Who may use the UI, and from where; UI_... in the environment."""
        return UiSettings()

    @property
    def sample_collection(self) -> Path:
        """Where the sample collection is made."""
        return self.pipeline_home / "anki" / "collection.anki2"

    def without_secrets(self, text: str) -> str:
        """A text without the secrets of the settings, in case somebody else's words hold one."""
        given = (
            self.database_url,
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
        """The source of a migration as set, None where its sample is the source.

        It is written ``sqlite:///PATH``, ``dump:///PATH`` or ``libsql://HOST``.
        """
        given: SecretStr | None = getattr(self._sources, migration.setting.lower())
        return (given and given.get_secret_value()) or None

    def origin(self, migration: Migration) -> origin.Origin:
        """Where a source comes from; a relative path begins at the project's folder.

        Raises:
            SettingsError: the URL has another form.
        """
        given = self.source_url(migration)
        if given is None:
            return origin.File(self.sample_path(migration))
        return origin.parse(given, token=self.turso_auth_token, name=migration.setting)

    def source_path(self, migration: Migration) -> Path:
        """The SQLite file that is read; of a dump or a database on Turso it need not be there yet.

        Raises:
            SettingsError: the URL has another form.
        """
        return origin.place(self.origin(migration), home=self.pipeline_home)

    def sample_path(self, migration: Migration) -> Path:
        """Where the sample source of a migration is made."""
        return self.pipeline_home / migration.sample

    @property
    def snapshots(self) -> Path:
        """Where runs keep their private copies of the source."""
        return self.pipeline_home / "snapshots"

    @property
    def reports(self) -> Path:
        """Where runs leave their evidence, a folder each."""
        return self.pipeline_home / "reports"

    @property
    def faults(self) -> Path:
        """Where tracebacks are kept of faults of the program itself."""
        return self.pipeline_home / "faults"

    @property
    def dagster_files(self) -> Path:
        """Where Dagster keeps what steps print."""
        return self.pipeline_home / "dagster"

    @property
    def code_socket(self) -> Path:
        """Where the code server listens: who may not write there cannot reach it.

        Raises:
            SettingsError: the path has no room in a socket's address.
        """
        path = self.pipeline_home / "code.sock"
        if len(os.fsencode(path)) > _SOCKET_BYTES:
            raise SettingsError(
                f"PIPELINE_HOME is too long for a socket's address ({path})",
                remedy=f"Name a folder whose path has at most {_SOCKET_BYTES - 10} letters",
            )
        return path

    @property
    def server_data(self) -> Path:
        """The embedded server's data folder."""
        return self.pipeline_home / "postgres"

    @property
    def given_target(self) -> URL | None:
        """The target as set, None for the embedded server.

        Raises:
            SettingsError: the URL is not one of PostgreSQL, or has more than one reading.
        """
        if self.database_url is None or not self.database_url.get_secret_value():
            return None
        url = urls.postgres(self.database_url.get_secret_value(), name="DATABASE_URL")
        return url.set(drivername="postgresql")


def load(**overrides: Any) -> Settings:
    """Read the settings.

    Raises:
        SettingsError: a value cannot be used; the message names it.
    """
    _require_text(_names(Settings, *_GROUPS))
    require_readable(PROJECT / ".env")
    try:
        loaded = Settings(**overrides)
        _require_text(_names(_sources_of(loaded.registry)))
        _ = loaded._sources, loaded._policies, loaded.anki, loaded.alerts, loaded.ui
        return loaded
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        prefix = {group.__name__: group.model_config["env_prefix"] for group in _GROUPS}
        name, why = (
            f"{prefix.get(error.title, '')}{first['loc'][0]}".upper(),
            first["msg"].removeprefix("Value error, "),
        )
    except pydantic_settings.SettingsError as error:
        # These are parsed as JSON before they are validated.
        policy = "forbidden_nulls" in str(error)
        name = "POLICY_FORBIDDEN_NULLS" if policy else "ANKI_FIELDS"
        why = f"it is no JSON {'object' if policy else 'list of two names'} ({error.__cause__})"
    raise SettingsError(
        f"{name} cannot be used: {why}", remedy="Correct it in the environment or .env"
    )


def require_readable(path: Path) -> None:
    """Refuse a file of settings of which a part would be ignored; a missing one is none.

    Raises:
        SettingsError: it cannot be read, is not UTF-8, or has a line that sets nothing.
    """
    if path.is_fifo():
        return  # It can be read only once, which is done elsewhere.
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror})",
            remedy="Make it a file that this user may read, or remove it",
        ) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{path} is not UTF-8 text (line {line})", remedy="Save it as UTF-8"
        ) from None
    if "\0" in text:
        raise SettingsError(
            f"{path} holds a NUL character, as text in UTF-16 does", remedy="Save it as UTF-8"
        )
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise SettingsError(
                f"line {binding.original.line} of {path} is not a setting",
                remedy="Write it as NAME=VALUE, or as a comment that begins with #",
            )


def _require_text(names: Set[str]) -> None:
    """Refuse what no database, page or message can repeat.

    Raises:
        SettingsError: one of these settings, or the project's folder, is not valid UTF-8.
    """
    for name, value in os.environ.items():
        if name.upper() in names and not _is_text(value):
            raise SettingsError(
                f"{name.upper()} cannot be used: it holds bytes that are not UTF-8",
                remedy="Correct it, and give the file or folder that it names a name in UTF-8",
            )
    if not _is_text(str(PROJECT)):
        raise SettingsError(
            f"The name of the project's folder {PROJECT} is not UTF-8",
            remedy="Rename the folder, or move the project elsewhere",
        )


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def _sources_of(known: Registry) -> type[BaseSettings]:
    """One setting for each migration: where its source is.

    Raises:
        SettingsError: a migration claims a setting that means something else.
    """
    taken = [each.setting for each in known if each.setting in _names(Settings, *_GROUPS)]
    if taken:
        raise SettingsError(
            f"A migration cannot have its source in {taken[0]}, which means something else",
            remedy="Let it declare another setting",
        )
    fields: Any = {each.setting.lower(): (SecretStr | None, None) for each in known}
    return create_model("Sources", __base__=_SourceSettings, **fields)


@functools.cache
def _names(*groups: type[BaseSettings]) -> frozenset[str]:
    """The settings of some groups, as they are named in the environment."""
    return frozenset(
        str(field.validation_alias or f"{group.model_config.get('env_prefix', '')}{name}").upper()
        for group in groups
        for name, field in group.model_fields.items()
    )


def libpq(url: URL) -> str:
    """A URL as PostgreSQL's own client library reads it, password included."""
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
    """A URL for people: host and database, no password."""
    host = url.host or url.query.get("host", "local socket")
    port = f":{url.port}" if url.port else ""
    return f"PostgreSQL {url.database or ''} at {host}{port}"


def pooled(url: URL) -> bool:
    """Whether this is Supabase's transaction pooler, by its port and host."""
    return url.port == TRANSACTION_POOLER and "supabase." in (url.host or "")


def dagster_url(url: URL) -> str:
    """Where Dagster keeps its runs: the same database, in a schema ``dagster`` of its own."""
    own = " ".join(url.normalized_query.get("options", ()))
    stated = {"options": f"{own} {DAGSTER_OPTIONS}".lstrip(), "client_encoding": "UTF8"}
    whole = url.set(drivername="postgresql+psycopg2").update_query_dict(stated)
    return whole.render_as_string(hide_password=False)


def _listed(given: object, read: Callable[[str], Any]) -> object:
    """What stands in a text with commas between, each read; anything else as it is."""
    if not isinstance(given, str):
        return given
    return tuple(read(each.strip()) for each in given.split(",") if each.strip())


def _require_server(url: SecretStr, schemes: set[str], form: str) -> None:
    """Refuse a URL of another form.

    Raises:
        ValueError: says how it is written, and nothing of what it was.
    """
    if urls.server(url.get_secret_value(), schemes) is None:
        raise ValueError(f"write it like {form}; {urls.ESCAPED}")
