"""Groups of settings whose names begin with a prefix."""

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from pipeline.config.variables import ProjectSettings
from pipeline.config.web_origins import Origin
from pipeline.core import urls
from pipeline.core.policies import (
    Conflicts,
    DoubleEncodedJson,
    ExtraColumns,
    LossyConversions,
    MissingColumns,
)
from pipeline.core.private import PROJECT
from pipeline.mapping.casts.moments import knows_zone


class PolicySettings(ProjectSettings):
    """Policies, from POLICY_... in the environment; see ``Policies`` for their meaning."""

    model_config = SettingsConfigDict(env_prefix="POLICY_")

    naive_zone: str = "UTC"
    forbidden_nulls: dict[str, str | int | float] = Field(default_factory=dict)
    extra_columns: ExtraColumns = "carry"
    missing_columns: MissingColumns = "fail"
    source_names: dict[str, str] = Field(default_factory=dict)
    forms: dict[str, str] = Field(default_factory=dict)
    lossy_conversions: LossyConversions = "keep"
    conflicts: Conflicts = "target"
    double_encoded_json: DoubleEncodedJson = "unwrap"

    @field_validator("naive_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        if not knows_zone(name):
            raise ValueError("it is not a usable time zone; write it like UTC or Asia/Bangkok")
        return name


class AnkiSettings(ProjectSettings):
    """Settings of Anki, from ANKI_... in the environment.

    Without ``collection`` and ``connect_url``, a sample collection is created if the source is the
    sample.

    Attributes:
        collection: the collection's file, for use while the desktop program is not running.
        connect_url: the address of AnkiConnect, for use while the desktop program is running.
        connect_key: AnkiConnect's ``apiKey``, if it has one.
        deck: the deck of new notes.
        note_type: the type of new notes.
        fields: names of the note type's fields for front and back.
        templates: a folder with ``front.html`` and ``back.html`` that replace the project's own.
        cron: the schedule of ``anki_sync``, once it is switched on.
    """

    model_config = SettingsConfigDict(env_prefix="ANKI_", env_ignore_empty=True)

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


class AlertSettings(ProjectSettings):
    """Settings of alerts, from ALERT_... in the environment.

    Attributes:
        webhook_url: receives a POST with JSON.
        smtp_url: the mail server, ``smtp://USER:PASSWORD@HOST:587`` or ``smtps://...``.
        sender: the sender of mails, ALERT_FROM.
        to: the recipients of mails, separated by commas.
        ui_url: the address of the UI; alerts then link to the run.
        warnings: alert on failed checks that only warn, too.
    """

    model_config = SettingsConfigDict(env_prefix="ALERT_", env_ignore_empty=True)

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
            # The recipients of alerts can read it.
            raise ValueError("write it like https://HOST, without a user or password")
        return url and url.rstrip("/")


class UiSettings(ProjectSettings):
    """Settings of the UI, from UI_... in the environment.

    Attributes:
        origin: the public address of a UI behind a proxy, ``https://HOST``; several are separated
            by commas.
        token: authenticates scripts by ``Authorization: Bearer``.
        password: the password of the login page; None disables it.
        session_hours: how long a login is valid.
        user_header: the header in which a proxy names the authenticated user.
        proxies: addresses from which that header is trusted.
        without_login: allows the UI to listen on other addresses than loopback without a login.
    """

    model_config = SettingsConfigDict(env_prefix="UI_", env_ignore_empty=True)

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
            return _parse_list(given, Origin.parse)
        except ValueError:
            raise ValueError("write it like https://pipeline.example.org") from None

    @field_validator("proxies", mode="before")
    @classmethod
    def _networks(cls, given: object) -> object:
        try:
            return _parse_list(given, ip_network)
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
        """Whether the UI requires a login."""
        return self.password is not None or self.user_header is not None

    @property
    def secure(self) -> bool:
        """Whether the public address uses TLS."""
        return any(origin.scheme == "https" for origin in self.origin)


def _parse_list(given: object, read: Callable[[str], Any]) -> object:
    """Parse a text of values separated by commas; other values do not change."""
    if not isinstance(given, str):
        return given
    return tuple(read(each.strip()) for each in given.split(",") if each.strip())


def _require_server(url: SecretStr, schemes: set[str], form: str) -> None:
    """Reject a malformed URL.

    Raises:
        ValueError: names the form, and nothing of the URL.
    """
    if urls.server(url.get_secret_value(), schemes) is None:
        raise ValueError(f"write it like {form}; {urls.ESCAPED}")
