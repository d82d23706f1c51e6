"""From settings to the Anki that they name."""

from pipeline.anki.store.collection import CollectionFile, make_collection
from pipeline.anki.store.connect import TIMEOUT, AnkiConnect
from pipeline.anki.store.notes import Anki
from pipeline.config.settings import Settings
from pipeline.core.errors import SettingsError
from pipeline.migrations.content import CONTENT


def named_anki(settings: Settings, *, timeout: float = TIMEOUT) -> Anki:
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
        return AnkiConnect(
            named.connect_url.get_secret_value(), key=named.connect_key, timeout=timeout
        )
    if named.collection:
        return CollectionFile(named.collection)
    if settings.source_path(CONTENT) != settings.sample_path(CONTENT):
        raise SettingsError(
            "No Anki is named",
            remedy="Set ANKI_CONNECT_URL (http://127.0.0.1:8765) or ANKI_COLLECTION",
        )
    if not settings.sample_collection.exists():
        make_collection(settings.sample_collection, decks=[named.deck])
    return CollectionFile(settings.sample_collection)
