"""A small world for the tests of Anki: contents in PostgreSQL, cards in SQLite, notes in Anki.

Anki is reached in both ways: by its collection file, and by a server that speaks AnkiConnect's
protocol over such a file. All three are real, and each test has them for itself.
"""

import hashlib
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import psycopg2
import pytest
import sqlalchemy as sa
from anki.collection import Collection
from psycopg2.extras import Json
from pydantic import SecretStr
from sqlalchemy.engine import URL

from pipeline.anki import cards, contents
from pipeline.anki import sync as syncing
from pipeline.anki.contents import EXAMPLE, ITEM
from pipeline.anki.export import Exporter
from pipeline.anki.outcomes import Options, Report
from pipeline.anki.rendering import Rendered, Renderer
from pipeline.anki.store.collection import CollectionFile, make_collection
from pipeline.anki.store.connect import AnkiConnect
from pipeline.anki.store.notes import SUCCESS, Anki, source_tags, tagged_contents
from pipeline.application import anki_tables
from pipeline.application.manager import HybridDatabaseManager, _driver
from pipeline.config.settings import libpq
from pipeline.declared import ledger
from pipeline.migrations import content as content_tables
from pipeline_tests.support.anki_server import AnkiServer

DECK = "top-thai-2000"
KEY = "Kk-9x7-secret"
"""What AnkiConnect wants; it has to stand in no message."""

NEW_YEAR = datetime(2025, 1, 1, tzinfo=UTC)
SQLITE = _driver()
"""The manager's own SQLite: of a second library in one process it would not see the locks."""

_TABLES = [table.name for table in content_tables.metadata.sorted_tables]
_OF_ANKI = ("col", "notes", "cards", "revlog", "graves", "decks", "notetypes", "tags")


class Way(Protocol):
    """A way to Anki, and past it for whoever learns."""

    def open(self) -> Anki:
        """Anki, as the project reaches it."""
        ...

    def collection(self) -> AbstractContextManager[Collection]:
        """The collection itself, as the learner's Anki has it."""
        ...


@dataclass(frozen=True)
class FileWay:
    """The collection file; nobody has it open between two blocks."""

    path: Path

    def open(self) -> CollectionFile:
        """Anki, as the project reaches it."""
        return CollectionFile(self.path)

    @contextmanager
    def collection(self) -> Iterator[Collection]:
        """The collection itself."""
        found = Collection(str(self.path))
        try:
            yield found
        finally:
            found.close()


@dataclass(frozen=True)
class ServerWay:
    """A server that has the collection open."""

    server: AnkiServer
    timeout: float = 30.0
    settle_seconds: float = 0.0
    """Nobody has an editor open in most tests."""

    def open(self) -> AnkiConnect:
        """Anki, as the project reaches it."""
        return AnkiConnect(
            self.server.url,
            key=SecretStr(KEY),
            timeout=self.timeout,
            settle_seconds=self.settle_seconds,
        )

    def collection(self) -> AbstractContextManager[Collection]:
        """The collection itself."""
        return self.server.held()


@dataclass(frozen=True)
class SeenNote:
    """A note as the learner sees it; ``source`` are the tags that name the source."""

    id: int
    fields: dict[str, str]
    tags: frozenset[str]
    decks: tuple[str, ...]
    suspended: tuple[bool, ...]
    source: tuple[str, ...]


@dataclass(frozen=True)
class SeenCard:
    """A row of ``anki_cards``, its dates left out."""

    id: int
    note: int | None
    deck: str
    tags: str | None
    content: int | None
    export_hash: str | None


class World:
    """Both databases and Anki.

    Attributes:
        manager: sessions with both databases.
        url: PostgreSQL's, as libpq reads it.
        sqlite: the SQLite file.
        strategy: the way to Anki.
    """

    def __init__(
        self, manager: HybridDatabaseManager, url: str, sqlite: Path, strategy: Way
    ) -> None:
        """Connect to what is there."""
        self.manager, self.url, self.sqlite, self.strategy = manager, url, sqlite, strategy
        self._postgres = psycopg2.connect(url, options="-c synchronous_commit=off")
        self._postgres.autocommit = True

    def close(self) -> None:
        """End every connection."""
        self._postgres.close()
        self.manager.close()

    # contents

    def run(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Execute a statement in PostgreSQL and commit it."""
        with self._postgres.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def _add(self, table: str, row: Mapping[str, Any]) -> None:
        marks = ", ".join(["%s"] * len(row))
        values = [
            Json(value) if isinstance(value, list | dict) else value for value in row.values()
        ]
        self.run(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", *values)

    def content(self, number: int, **values: Any) -> None:
        """Add a content without fragments."""
        sound = {
            "title": f"คำ {number} (word)",
            "content_type": "vocabulary",
            "language": "thai",
            "native_text": f"คำ {number}",
            "translation": f"word {number}",
            "ipa": f"kʰam {number}",
        }
        self._add("learning_content", {"id": number, **sound, **values})

    def fragment(self, number: int, content: int, kind: str = EXAMPLE, **values: Any) -> None:
        """Add a fragment; a larger id is a later one."""
        sound = {
            "native_text": f"ตัวอย่าง {number}",
            "body_text": f"example {number}",
            "ipa": f"tua {number}",
            "created_at": NEW_YEAR + timedelta(minutes=number),
        }
        row = {"id": number, "learning_content_id": content, "fragment_type": kind}
        self._add("content_fragments", {**row, **sound, **values})

    def asset(self, number: int, fragment: int, data: bytes | None = None, **values: Any) -> None:
        """Add a recording; a larger id is a later one."""
        sound = {
            "asset_type": "audio",
            "asset_data": data if data is not None else b"ID3 recording %d" % number,
            "created_at": NEW_YEAR + timedelta(minutes=number),
        }
        self._add("fragment_assets", {"id": number, "fragment_id": fragment, **sound, **values})

    def rate(
        self, score: float | None, *, fragment: int | None = None, asset: int | None = None
    ) -> None:
        """Rate a fragment, or a recording."""
        row = {"fragment_id": fragment, "asset_id": asset, "rank_score": score}
        self._add("rankings", {**row, "assessed_by": "somchai"})

    def words(self, *numbers: int) -> None:
        """Add contents with an item and two examples; item and first example have a recording."""
        for n in numbers:
            self.content(n)
            self.fragment(10 * n, n, ITEM)
            self.asset(100 * n, 10 * n)
            self.fragment(10 * n + 1, n)
            self.asset(100 * n + 1, 10 * n + 1)
            self.fragment(10 * n + 2, n)
            self.rate(4.5, fragment=10 * n + 1)
            self.rate(3, fragment=10 * n + 2)

    def change(self, number: int, **values: Any) -> None:
        """Change a content."""
        for name, value in values.items():
            self.run(f"UPDATE learning_content SET {name} = %s WHERE id = %s", value, number)

    def remove(self, *numbers: int) -> None:
        """Remove contents with all that hangs below them."""
        self.run("DELETE FROM learning_content WHERE id = ANY(%s)", list(numbers))

    def wait_in_quarantine(self, *numbers: int) -> None:
        """Say that contents could not be taken."""
        self.run("CREATE SCHEMA IF NOT EXISTS migration")
        engine = sa.create_engine(
            "postgresql+psycopg2://", creator=lambda: psycopg2.connect(self.url)
        )
        ledger.metadata.create_all(engine)
        engine.dispose()
        row = {"table_name": "learning_content", "fingerprint": "f", "run_id": "r"}
        for n in numbers:
            keys = {"row_id": str(n), "source_key": str(n), "reasons": [{"code": "json"}]}
            self._add("migration.quarantine", {**row, **keys})

    # cards

    def sql(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Execute a statement in the SQLite file and commit it."""
        with closing(SQLITE.connect(self.sqlite)) as connection, connection:
            return connection.execute(sql, parameters).fetchall()

    def card(self, content: int | None, note: int | None = None, **values: Any) -> int:
        """Add a card; its id."""
        row = {
            "learning_content_id": content,
            "anki_note_id": note,
            "deck_name": DECK,
            "tags": '["sync::new"]',
            **values,
        }
        marks = ", ".join("?" * len(row))
        sql = f"INSERT INTO anki_cards ({', '.join(row)}) VALUES ({marks}) RETURNING id"
        return int(self.sql(sql, *row.values())[0][0])

    def cards(self) -> list[SeenCard]:
        """All cards by id."""
        names = "id, anki_note_id, deck_name, tags, learning_content_id, export_hash"
        return [SeenCard(*row) for row in self.sql(f"SELECT {names} FROM anki_cards ORDER BY id")]

    # Anki

    def notes(self) -> list[SeenNote]:
        """All notes by id."""
        with self.strategy.collection() as collection:
            return [_seen(collection, number) for number in sorted(collection.find_notes(""))]

    def by_content(self) -> dict[int, list[SeenNote]]:
        """The notes of each content, as their tags say."""
        found: dict[int, list[SeenNote]] = {}
        for note in self.notes():
            for number in tagged_contents(note.tags):
                found.setdefault(number, []).append(note)
        return dict(sorted(found.items()))

    def note(self, content: int) -> SeenNote:
        """The one note of a content."""
        (found,) = self.by_content()[content]
        return found

    def add_note(self, front: str, back: str, *tags: str, model: str = "Basic") -> int:
        """Make a note as the learner does."""
        with self.strategy.collection() as collection:
            kind = collection.models.by_name(model)
            assert kind is not None
            note = collection.new_note(kind)
            note.fields[:2] = [front, back]
            note.tags = list(tags)
            deck = collection.decks.id_for_name(DECK)
            assert deck is not None
            collection.add_note(note, deck)
            return int(note.id)

    def edit(self, number: int, **fields: str) -> None:
        """Edit a note as the learner does."""
        with self.strategy.collection() as collection:
            note = collection.get_note(number)
            for name, value in fields.items():
                note[name] = value
            collection.update_note(note)

    def tag(self, number: int, *tags: str) -> None:
        """Tag a note as the learner does."""
        with self.strategy.collection() as collection:
            collection.tags.bulk_add([number], " ".join(tags))

    def untag(self, number: int, *tags: str) -> None:
        """Take tags from a note as the learner does."""
        with self.strategy.collection() as collection:
            collection.tags.bulk_remove([number], " ".join(tags))

    def delete(self, *numbers: int) -> None:
        """Delete notes as the learner does."""
        with self.strategy.collection() as collection:
            collection.remove_notes(list(numbers))

    def media(self) -> dict[str, bytes]:
        """The media folder."""
        with self.strategy.collection() as collection:
            files = Path(collection.media.dir()).iterdir()
            return {file.name: file.read_bytes() for file in sorted(files)}

    # all of it

    def sync(
        self,
        *,
        deck: str = DECK,
        templates: Path | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _of: None,
        happens: Callable[[str], None] = lambda _moment: None,
        **options: Any,
    ) -> Report:
        """Let the notes follow the contents."""
        with Interposed(self.strategy.open(), happens) as anki:
            return syncing.sync(
                self.manager,
                anki,
                _renderer(templates),
                Options(deck=deck, **options),
                on_progress=on_progress,
            )

    def everything(self) -> dict[str, Any]:
        """Every row of both databases and of the collection, and all media."""
        with self.strategy.collection() as collection:
            database = collection.db
            assert database is not None
            anki = {name: database.all(f"SELECT * FROM {name}") for name in _OF_ANKI}
        with closing(SQLITE.connect(self.sqlite)) as connection:
            file = {
                name: connection.execute(f"SELECT * FROM {name} ORDER BY id").fetchall()
                for name in anki_tables.metadata.tables
            }
        postgres = {name: self.run(f"SELECT * FROM {name} ORDER BY id") for name in _TABLES}
        blobs = [bytes(data) for (data,) in self.run("SELECT asset_data FROM fragment_assets")]
        postgres["fragment_assets"] = [
            tuple(value for value in row if not isinstance(value, memoryview))
            for row in postgres["fragment_assets"]
        ]
        return {
            "anki": anki,
            "sqlite": file,
            "postgres": postgres,
            "blobs": sorted(blobs),
            "media": self.media(),
        }

    def rendered(self, *, templates: Path | None = None) -> dict[int, Rendered]:
        """The contents as they should be in Anki."""
        renderer = _renderer(templates)
        with self.manager.get_postgres_session(snapshot=True) as session:
            made = [renderer.render(content) for content in contents.read(session)]
        return {each.content_id: each for each in made}

    def followed(self, *, templates: Path | None = None) -> dict[str, Any]:
        """Notes, cards and recordings as they are, and what a sync would do yet."""
        notes, media = self.by_content(), self.media()
        wanted = {
            sound.file
            for each in self.rendered(templates=templates).values()
            for sound in each.sounds
        }
        return {
            "notes": {
                number: [(tuple(note.fields.values()), SUCCESS in note.tags) for note in some]
                for number, some in notes.items()
            },
            "cards": [(card.content, card.note, card.export_hash) for card in self._by_content()],
            # Nothing is ever taken out of the folder.
            "media": {
                name: hashlib.md5(data).hexdigest()
                for name, data in media.items()
                if name in wanted
            },
            "to do": told(self.sync(dry_run=True, templates=templates)),
        }

    def all_followed(self, *, templates: Path | None = None) -> dict[str, Any]:
        """What ``followed`` is when each content has one right note and one right card."""
        wanted = self.rendered(templates=templates)
        notes = self.by_content()
        media = {sound.file: sound.md5 for each in wanted.values() for sound in each.sounds}
        return {
            "notes": {number: [(each.fields, True)] for number, each in wanted.items()},
            "cards": [
                (number, notes[number][0].id if number in notes else None, str(each.hash))
                for number, each in wanted.items()
            ],
            "media": dict(sorted(media.items())),
            "to do": [],
        }

    def _by_content(self) -> list[SeenCard]:
        return sorted(self.cards(), key=lambda card: card.content or 0)


def _renderer(templates: Path | None) -> Renderer:
    return Renderer(templates) if templates else _OWN


_OWN = Renderer()
"""Loading the templates takes longer than rendering with them."""


def _seen(collection: Collection, number: Any) -> SeenNote:
    note = collection.get_note(number)
    found = note.cards()
    return SeenNote(
        int(note.id),
        dict(note.items()),
        frozenset(note.tags) - set(source_tags(note.tags)),
        tuple(collection.decks.name(card.did) for card in found),
        tuple(card.queue == -1 for card in found),
        tuple(source_tags(note.tags)),
    )


def told(report: Report) -> list[tuple[int, str, str]]:
    """What became of contents: which, what, and the detail."""
    return [(each.content_id, each.action, each.detail) for each in report.outcomes]


def actions(report: Report) -> list[tuple[int, str]]:
    """What became of contents: which and what."""
    return [(each.content_id, each.action) for each in report.outcomes]


FRONT = """\
<div class="native">คำ {n}</div>
<div class="ipa">kʰam {n}</div>[sound:asset_{n}00.mp3]"""
BACK = """\
<div class="translation">word {n}</div>
<div class="example">
<div class="native">ตัวอย่าง {n}1 [sound:asset_{n}01.mp3]</div>
<div class="ipa">tua {n}1</div><div class="body">example {n}1</div>
</div>
<div class="example">
<div class="native">ตัวอย่าง {n}2</div>
<div class="ipa">tua {n}2</div><div class="body">example {n}2</div>
</div>"""
"""What ``World.words`` looks like."""


def field_names(number: int) -> dict[str, str]:
    """The fields of a content that ``World.words`` made."""
    return {"Front": FRONT.format(n=number), "Back": BACK.format(n=number)}


# Sudden death


class Interposed:
    """Anki, with something that happens before and after each of its writes."""

    WRITES = ("create_deck", "add", "write", "tag", "untag", "suspend", "store")

    def __init__(self, anki: Anki, happens: Callable[[str], None]) -> None:
        """Take an Anki that is not open, and who is told ``before add``, ``after add``, ..."""
        self._anki, self._happens = anki, happens

    def __enter__(self) -> Any:
        """Open it."""
        self._anki.__enter__()
        return self

    def __exit__(self, *of: Any) -> None:
        """Let it go."""
        self._anki.__exit__(*of)

    def __getattr__(self, name: str) -> Any:
        """Anki's own, with what happens around it."""
        found = getattr(self._anki, name)
        if name not in self.WRITES:
            return found

        def interposed(*arguments: Any) -> Any:
            self._happens(f"before {name}")
            answer = found(*arguments)
            self._happens(f"after {name}")
            return answer

        return interposed


def sync_until(
    sqlite: Path, url: str, reach: tuple[str, ...], moment: str, options: dict[str, Any]
) -> None:
    """Let the notes follow, and die by SIGKILL at a moment, such as ``after add``."""

    def dies(now: str) -> None:
        if now == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    save = cards.save

    def mortal_save(session: Any, exported: Sequence[Any]) -> None:
        dies("before save")
        save(session, exported)
        dies("before commit")

    settle = Exporter.settle

    def mortal_settle(exporter: Exporter) -> None:
        dies("before settle")
        settle(exporter)

    Exporter.settle = mortal_settle  # type: ignore[method-assign]
    syncing.cards.save = mortal_save  # type: ignore[attr-defined]
    manager = HybridDatabaseManager(sqlite, url)
    anki: Anki = (
        CollectionFile(Path(reach[1]))
        if reach[0] == "file"
        else AnkiConnect(reach[1], key=SecretStr(KEY))
    )
    with Interposed(anki, dies) as mortal:
        syncing.sync(manager, mortal, Renderer(), Options(deck=DECK, **options))


def die_at(world: World, moment: str, **options: Any) -> int | None:
    """Let another process sync and end suddenly at a moment; its exit code."""
    match world.strategy:
        case FileWay(path):
            reach: tuple[str, ...] = ("file", str(path))
        case ServerWay(server):
            reach = ("server", server.url)
    process = _FORK.Process(
        target=sync_until, args=(world.sqlite, world.url, reach, moment, options)
    )
    process.start()
    process.join(60)
    return process.exitcode


_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload([__name__])


# Fixtures


@pytest.fixture(scope="session")
def anki_blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty collection and an empty SQLite file, for others to copy."""
    folder = tmp_path_factory.mktemp("anki") / "blank"
    make_collection(folder / "collection.anki2", decks=[DECK])
    engine = sa.create_engine(f"sqlite:///{folder / 'cards.db'}")
    anki_tables.metadata.create_all(engine)
    engine.dispose()
    return folder


@pytest.fixture(scope="session")
def anki_contents(server: URL) -> str:
    """A database with the tables of the contents."""
    with closing(psycopg2.connect(libpq(server))) as connection:
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE anki_contents")
    url = server.set(database="anki_contents")
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg2"))
    content_tables.metadata.create_all(engine)
    engine.dispose()
    return libpq(url)


@pytest.fixture
def anki_folder(anki_blank: Path) -> Iterator[Path]:
    """An empty collection and an empty SQLite file, in memory where there is such a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        folder = Path(made, "anki")
        shutil.copytree(anki_blank, folder)
        yield folder


@contextmanager
def make_world(folder: Path, url: str, strategy: Way) -> Iterator[World]:
    """An empty world on what there is."""
    manager = HybridDatabaseManager(folder / "cards.db", url, busy_seconds=0.3)
    world = World(manager, url, folder / "cards.db", strategy)
    for name in reversed(_TABLES):
        world.run(f"DELETE FROM {name}")
    world.run("DROP SCHEMA IF EXISTS migration CASCADE")
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are sent again at once."""
    calm = SimpleNamespace(sleep=lambda _seconds: None)
    monkeypatch.setattr("pipeline.anki.store.connect.time", calm)


@pytest.fixture
def anki_server(anki_folder: Path, no_pauses: None) -> Iterator[AnkiServer]:
    """A server over the collection."""
    with AnkiServer(anki_folder / "collection.anki2", key=KEY) as server:
        yield server


@pytest.fixture
def file_world(anki_folder: Path, anki_contents: str) -> Iterator[World]:
    """An empty world whose collection nobody has open."""
    strategy = FileWay(anki_folder / "collection.anki2")
    with make_world(anki_folder, anki_contents, strategy) as made:
        yield made


@pytest.fixture
def server_world(anki_folder: Path, anki_contents: str, anki_server: AnkiServer) -> Iterator[World]:
    """An empty world whose collection is reached over HTTP."""
    with make_world(anki_folder, anki_contents, ServerWay(anki_server)) as made:
        yield made


@pytest.fixture(params=["file", "server"])
def world(request: pytest.FixtureRequest) -> World:
    """An empty world, reached in either way."""
    found: World = request.getfixturevalue(f"{request.param}_world")
    return found
