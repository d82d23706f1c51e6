"""From settings to what answers: the sample source, the embedded server, Anki."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.anki.collection import CollectionFile, make_collection
from pipeline.anki.connect import TIMEOUT, AnkiConnect
from pipeline.anki.notes import Anki
from pipeline.doctor.source import examine as examine_source
from pipeline.doctor.symptoms import Symptom
from pipeline.doctor.target import examine as examine_target
from pipeline.embedded import ensure_server
from pipeline.move.errors import SettingsError
from pipeline.sample import make_sample
from pipeline.settings import Settings, libpq, pooled, shown


@dataclass(frozen=True)
class Databases:
    """Where everything is.

    Attributes:
        source: the SQLite file.
        target: the PostgreSQL database, with its password.
        snapshots: where runs keep their private copies of the source.
    """

    source: Path
    target: URL
    snapshots: Path

    @property
    def target_url(self) -> str:
        """The target as libpq reads it."""
        return libpq(self.target)

    @property
    def target_shown(self) -> str:
        """The target for people, without a password."""
        return shown(self.target)


def databases(settings: Settings) -> Databases:
    """Make sure that source and target are there.

    A sample is made, and the embedded server started, only where the settings name none.

    Raises:
        TargetError: the embedded server does not start.
        SettingsError: a URL is malformed.
    """
    source = settings.source_path
    if source == settings.sample_path and not source.exists():
        # Two processes may come here together; the sample is the same whoever makes it.
        with contextlib.suppress(FileExistsError):
            make_sample(source)
    target = settings.given_target or ensure_server(settings.server_data)
    return Databases(source, target, settings.snapshots)


def examine(settings: Settings, tables: Sequence[sa.Table]) -> list[Symptom]:
    """Whether source and target are fit for moving these tables; nothing is changed.

    Raises:
        TargetError: the embedded server does not start.
        SettingsError: a URL is malformed.
    """
    found = databases(settings)
    size = found.source.stat().st_size if found.source.exists() else 0
    return [
        *examine_source(found.source, snapshots=found.snapshots, tables=tables),
        *examine_target(found.target, tables=tables, bytes_needed=size),
    ]


def demand_session(found: Databases) -> None:
    """Refuse bulk work over a connection that holds for one transaction only.

    Raises:
        SettingsError: the target is reached by a transaction pooler.
    """
    if pooled(found.target):
        raise SettingsError(
            f"DATABASE_URL names a transaction pooler (port {found.target.port}), which cannot hold"
            " the lock and the transaction that a move needs",
            remedy="Take the direct or the session connection (port 5432)",
        )


def anki(settings: Settings, *, timeout: float = TIMEOUT) -> Anki:
    """Anki as the settings name it; it is opened by entering it.

    A sample collection is made where the sample is the source and the settings name none.

    Args:
        settings: name it.
        timeout: how many seconds AnkiConnect may take to answer a request.

    Raises:
        SettingsError: there is none, or more than one.
        AnkiError: the sample collection cannot be made.
    """
    named = settings.anki
    if named.collection and named.connect_url:
        raise SettingsError(
            "ANKI_COLLECTION and ANKI_CONNECT_URL are both set",
            remedy="Set the file while Anki is closed, the URL while it is running",
        )
    if named.connect_url:
        return AnkiConnect(named.connect_url, key=named.connect_key, timeout=timeout)
    if named.collection:
        return CollectionFile(named.collection)
    if settings.source_path != settings.sample_path:
        raise SettingsError(
            "No Anki is named",
            remedy="Set ANKI_CONNECT_URL (http://127.0.0.1:8765) or ANKI_COLLECTION",
        )
    if not settings.sample_collection.exists():
        make_collection(settings.sample_collection, decks=[named.deck])
    return CollectionFile(settings.sample_collection)
