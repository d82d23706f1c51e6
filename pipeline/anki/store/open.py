"""Open the Anki that the settings name."""

from pipeline.anki.store.collection import CollectionFile, make_collection
from pipeline.anki.store.connect import TIMEOUT, AnkiConnect
from pipeline.anki.store.notes import Anki
from pipeline.config.settings import Settings
from pipeline.core.errors import SettingsError
from pipeline.migrations.content import CONTENT


def configured_anki(settings: Settings, *, timeout: float = TIMEOUT) -> Anki:
    """The Anki that the settings name, to be opened as a context manager.

    If the sample is the source and the settings name no Anki, a sample collection is created.

    ``timeout`` is in seconds, for one answer of AnkiConnect.

    Raises:
        SettingsError: no Anki is named, or two are.
        AnkiError: the sample collection cannot be created.
    """
    named = settings.anki
    if named.collection and named.connect_url:
        raise SettingsError(
            "ANKI_COLLECTION and ANKI_CONNECT_URL are both set",
            remedy="Set only ANKI_COLLECTION if Anki is closed, or only ANKI_CONNECT_URL if it is"
            " running",
        )
    if named.connect_url:
        return AnkiConnect(
            named.connect_url.get_secret_value(), key=named.connect_key, timeout=timeout
        )
    if named.collection:
        return CollectionFile(named.collection)
    if settings.source_path(CONTENT) != settings.sample_path(CONTENT):
        raise SettingsError(
            "No Anki is configured",
            remedy="Set ANKI_CONNECT_URL (http://127.0.0.1:8765) or ANKI_COLLECTION",
        )
    if not settings.sample_collection.exists():
        make_collection(settings.sample_collection, decks=[named.deck])
    return CollectionFile(settings.sample_collection)
