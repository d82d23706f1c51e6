"""Anki and PostgreSQL may be far away: a sync asks them for what changed, not for each note."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from bench.proxy import Proxy, relay
from pipeline.anki import checks
from pipeline.anki.rendering import Renderer
from pipeline.anki.store import batches
from pipeline.anki.store.connect import AnkiConnect
from pipeline.anki.store.notes import NewNote
from pipeline.application.manager import HybridDatabaseManager
from pipeline.config.settings import libpq
from pipeline_tests.support.anki_server import AnkiServer
from pipeline_tests.support.anki_world import DECK, KEY, World

FIELDS = ("Front", "Back")


@dataclass(frozen=True)
class Cost:
    """What passed: requests to Anki, each on a connection of its own, and statements."""

    requests: int
    statements: int


class Far:
    """A world whose Anki and PostgreSQL are behind relays."""

    def __init__(self, world: World, anki: Proxy, postgres: Proxy) -> None:
        """Take what there is."""
        self.world, self._anki, self._postgres = world, anki, postgres

    def cost(self, what: Callable[[], object]) -> Cost:
        """What an action costs."""
        self._anki.taken(), self._postgres.taken()
        what()
        anki, postgres = self._anki.taken(), self._postgres.taken()
        assert anki.round_trips == 2 * anki.connections
        # Whether a pooled connection has to be reset depends on what used it before.
        statements = [text for text in postgres.statements if not text.startswith("SET ")]
        assert postgres.round_trips <= len(postgres.statements) + 5 * postgres.connections
        return Cost(anki.connections, len(statements))

    def nothing(self) -> None:
        """Sync without a change."""
        assert set(self.world.sync().counts) == {"skipped"}

    def change(self, *contents: int) -> None:
        """Change texts and recordings of contents, and sync."""
        ids = list(contents)
        self.world.run("UPDATE learning_content SET ipa = ipa || '!' WHERE id = ANY(%s)", ids)
        assets = [100 * number for number in ids]
        self.world.run(
            "UPDATE fragment_assets SET asset_data = %s WHERE id = ANY(%s)",
            self.world.run("SELECT now()::text")[0][0].encode(),
            assets,
        )
        assert self.world.sync().counts["updated"] == len(ids)

    def check(self) -> None:
        """Compare all cards, notes and recordings."""
        manager = self.world.manager
        found = checks.of_cards(manager, Renderer(), FIELDS)
        with self.world.strategy.open() as anki:
            found += checks.of_notes(manager, anki, FIELDS)
        assert [each.name for each in found if not each.passed] == []


@pytest.fixture
def far(server_world: World, anki_server: AnkiServer) -> Iterator[Far]:
    """The world behind relays."""
    near = server_world.manager
    with relay(anki_server.url) as anki, relay(make_url(server_world.url)) as postgres:
        anki_server.url = str(anki.url)
        server_world.manager = HybridDatabaseManager(server_world.sqlite, libpq(postgres.url))
        yield Far(server_world, anki, postgres)
        server_world.manager.close()
        server_world.manager = near


def test_a_sync_and_its_checks_cost_what_changed_and_not_what_there_is(far: Far) -> None:
    far.world.words(*range(1, 21))
    far.world.sync()
    few = [
        far.cost(far.nothing),
        far.cost(lambda: far.change(*range(1, 11))),
        far.cost(far.check),
    ]
    far.world.words(*range(21, 221))
    first = far.cost(far.world.sync)
    many = [
        far.cost(far.nothing),
        far.cost(lambda: far.change(*range(1, 220, 22))),
        far.cost(far.check),
    ]
    assert many == few
    # A run that writes asks for the profile and for notes of other sources, and reads notes and
    # recordings again at its end.
    assert [cost.requests for cost in few] == [7, 13 + 4, 4]
    # Two batches of a hundred notes, each with two recordings, and what is asked once for all.
    assert first.requests == few[0].requests + 2 * 6 + 5
    assert first.statements < few[0].statements + 2 * 20


def test_notes_whose_contents_were_deleted_and_come_back_cost_no_request_each(far: Far) -> None:
    def costs(numbers: range) -> list[Cost]:
        far.world.words(*numbers)
        far.world.sync()
        far.world.remove(*numbers)
        gone = far.cost(lambda: far.world.sync(removed="suspend"))
        far.world.words(*numbers)
        back = far.cost(lambda: far.world.sync(removed="suspend"))
        assert far.world.sync().counts == {"skipped": len(numbers)}
        return [gone, back]

    few = costs(range(1, 3))
    far.world.sql("DELETE FROM anki_cards")
    far.world.remove(1, 2)
    far.world.delete(*(note.id for note in far.world.notes()))
    assert costs(range(11, 41)) == few


def test_notes_that_anki_makes_without_saying_so_cost_no_request_each(
    far: Far, anki_server: AnkiServer
) -> None:
    far.world.words(1)
    far.world.sync()
    costs = []
    for numbers in (range(2, 4), range(4, 34)):
        far.world.words(*numbers)
        with anki_server.fault("null, made", "addNote"):
            costs.append(far.cost(far.world.sync))
        assert far.world.followed() == far.world.all_followed()
    assert costs[0] == costs[1]


def test_requests_and_answers_are_bounded_by_bytes(
    far: Far, anki_server: AnkiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"asset_{number}.mp3": b"x" * 250_000 for number in range(1, 7)}
    text = "ก" * 200_000
    with AnkiConnect(anki_server.url, key=SecretStr(KEY)) as anki:
        new = [NewNote(DECK, "Basic", {"Front": f"{n}", "Back": text}, ()) for n in range(12)]
        assert far.cost(lambda: anki.add(new)).requests == 12
        assert far.cost(lambda: anki.store(iter(files.items()))).requests == 3
        assert far.cost(lambda: anki.media(dict.fromkeys(files, 250_000))).requests == 1
        assert far.cost(lambda: anki.media(dict.fromkeys(files, 2_000_000))).requests == 3
        monkeypatch.setattr(batches, "_FIRST", 2)
        numbers = [note.id for note in far.world.notes()]
        # Two notes have 1.2 MB, so six may come next, and four are left.
        assert far.cost(lambda: anki.notes(numbers)).requests == 3
