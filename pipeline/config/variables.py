"""Variables of the environment and of ``.env``: which are valid, and which were renamed."""

import difflib
import functools
import io
import os
import sys
from collections.abc import Set
from pathlib import Path

from dotenv.parser import parse_stream
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pipeline.core.errors import SettingsError
from pipeline.core.private import PROJECT
from pipeline.core.quoting import printable

_GROUPS = ("POLICY_", "ANKI_", "ALERT_", "UI_", "PIPELINE_")
"""What names of settings begin with, and others hardly do."""
_ALIKE = 0.85
"""Names at least this similar are taken for a slip; other programs' names are less so."""

RENAMED = {"POLICY_DOUBLED_JSON": "POLICY_DOUBLE_ENCODED_JSON"}
"""Old -> new names of settings. The old name is accepted for one version, with a warning."""

Snapshot = tuple[frozenset[tuple[str, str]], bytes | None]
"""The environment and the contents of ``.env``."""


def snapshot(env_file: Path) -> Snapshot | None:
    """Everything that settings are read from; None if ``.env`` is not a regular file."""
    environment = frozenset(os.environ.items())
    try:
        if not env_file.exists():
            return environment, None
        return (environment, env_file.read_bytes()) if env_file.is_file() else None
    except OSError:
        return None


class ProjectSettings(BaseSettings):
    """Settings from the environment, ``.env`` and, below both, variables with an old name."""

    model_config = SettingsConfigDict(env_file=PROJECT / ".env", extra="ignore")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the renamed variables."""
        renamed = _RenamedSource(settings_cls, env_settings, dotenv_settings)
        return init_settings, env_settings, dotenv_settings, file_secret_settings, renamed


class _RenamedSource(EnvSettingsSource):
    """Variables with an old name, under their new name."""

    def __init__(
        self, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource
    ) -> None:
        super().__init__(settings_cls)
        given: dict[str, str | None] = {}
        for source in reversed(sources):
            if isinstance(source, EnvSettingsSource | DotEnvSettingsSource):
                given |= source.env_vars
        used = {old: new for old, new in RENAMED.items() if old.lower() in given}
        self.env_vars = {new.lower(): given[old.lower()] for old, new in used.items()}
        for old in used:
            _warn(old)


@functools.cache
def _warn(old: str) -> None:
    """Warn once per process, and so once per command."""
    print(
        f"The setting {old} is deprecated and is now called {RENAMED[old]}. Rename it: the next"
        " version will ignore the old name.",
        file=sys.stderr,
        flush=True,
    )


def warn_unknown(known: Set[str], env_file: Path) -> None:
    """Warn of names in ``.env`` that are almost a setting, or that begin as settings do."""
    if not env_file.is_file():
        return
    bindings = parse_stream(io.StringIO(env_file.read_text("utf-8-sig")))
    for name in dict.fromkeys((binding.key or "").upper() for binding in bindings):
        near = difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)
        if name not in known and (near or name.startswith(_GROUPS)):
            _warn_unknown(name, env_file, near[0] if near else None)


@functools.cache
def _warn_unknown(name: str, env_file: Path, near: str | None) -> None:
    """Warn once per process."""
    advice = f"Did you mean {near}?" if near else "It has no effect."
    print(
        printable(f"{name} in {env_file} is not a setting. {advice}"), file=sys.stderr, flush=True
    )


@functools.cache
def names_of(*groups: type[BaseSettings]) -> frozenset[str]:
    """The variables of some groups of settings."""
    return frozenset(
        str(field.validation_alias or f"{group.model_config.get('env_prefix', '')}{name}").upper()
        for group in groups
        for name, field in group.model_fields.items()
    )


def require_readable(path: Path) -> None:
    """Reject a ``.env`` of which a part would be ignored; a missing file is accepted.

    Raises:
        SettingsError: the file cannot be read, is not UTF-8, or has a line that is not a setting.
    """
    if path.is_fifo():
        return  # It can be read only once, by the settings themselves.
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror})",
            remedy="Replace it with a file that this user can read, or remove it",
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
            f"{path} contains a NUL character, as text in UTF-16 does", remedy="Save it as UTF-8"
        )
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise SettingsError(
                f"Line {binding.original.line} of {path} is not a setting",
                remedy="Write it as NAME=VALUE, or as a comment that begins with #",
            )


def require_utf8(names: Set[str]) -> None:
    """Reject variables with bytes that no database, page or message can repeat.

    Raises:
        SettingsError: one of these variables, or the path of the project, is not valid UTF-8.
    """
    for name, value in os.environ.items():
        if name.upper() in names and not _is_utf8(value):
            raise SettingsError(
                f"{name.upper()} cannot be used: it contains bytes that are not UTF-8",
                remedy="Correct it; if it names a file or folder, rename that in UTF-8",
            )
    if not _is_utf8(str(PROJECT)):
        raise SettingsError(
            f"The path of the project's folder {PROJECT} is not UTF-8",
            remedy="Rename the folder, or move the project elsewhere",
        )


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
