"""The group spaces go over to PostgreSQL and back while people write and others listen."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from pipeline.application.realtime.context import RealtimeContext
from pipeline.application.realtime.transports.events import MessageNew
from pipeline.backup import store
from pipeline.backup.create import make
from pipeline.backup.restore import restore
from pipeline.config.environment import Databases
from pipeline.migrations.spaces import SPACES
from pipeline_tests.support.cutover_world import World, set_up
from pipeline_tests.support.feeds import switch_on
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.spaces_world import add, move
from pipeline_tests.support.subscribers import opened, until
from pipeline_tests.support.targets import query

FIRST = 10_000
"""Messages from here on are written while the cut-over and the way back are under way."""


@pytest.fixture
def world(target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The sample, moved once, with realtime on; what was rejected is let go."""
    path = tmp_path / "spaces.db"
    SPACES.make_sample(path)
    with closing(sqlite3.connect(path)) as source, source:
        for table in ("space_members", "messages", "note_blocks", "notifications"):
            source.execute(f"DELETE FROM {table} WHERE id > 9000")
        source.execute("PRAGMA journal_mode = WAL")
    set_up(path, target_url, monkeypatch)
    made = World(SourceFile(path), target_url, tmp_path)
    made.tables = SPACES.tables
    move(made.source, target_url)
    switch_on(target_url)
    return made


class Writer:
    """People who write wherever they may, all the time."""

    def __init__(self, world: World) -> None:
        """Nothing is written yet."""
        self.world = world
        self.in_source: list[int] = []
        self.in_target: list[int] = []
        self.stop = threading.Event()

    def run(self) -> None:
        """Write one message after the other; what was refused is tried again elsewhere."""
        number = FIRST
        while not self.stop.is_set():
            number += 1
            while not self.stop.is_set():
                if self._write(number):
                    break
            time.sleep(0.002)

    def _write(self, number: int) -> bool:
        moment = "2026-01-01T00:00:00.000Z"
        try:
            with closing(sqlite3.connect(self.world.source.path, timeout=5)) as own, own:
                own.execute(
                    "INSERT INTO messages VALUES (?, 1, 1, 'busy', '[]', ?, ?)",
                    (number, moment, moment),
                )
        except sqlite3.IntegrityError:
            return self.world.state == "live" and self._write_there(number)
        self.in_source.append(number)
        return True

    def _write_there(self, number: int) -> bool:
        try:
            query(
                self.world.url,
                "INSERT INTO messages (id, space_id, user_id, content) VALUES (%s, 1, 1, 'busy')",
                (number,),
            )
        except psycopg2.Error:
            return False
        self.in_target.append(number)
        return True


def while_writing(writer: Writer, do: Callable[[], None]) -> None:
    """Do something while people write."""
    writer.stop.clear()
    thread = threading.Thread(target=writer.run)
    thread.start()
    try:
        do()
    finally:
        writer.stop.set()
        thread.join()


def test_people_who_write_all_the_time_lose_nothing_and_are_heard(world: World) -> None:
    writer, heard = Writer(world), []

    def go_live() -> None:
        time.sleep(0.2)
        assert world.live().state == "live"
        time.sleep(0.3)

    async def listen() -> None:
        async with opened(world.url) as hub, RealtimeContext(hub) as context:
            context.subscribe(MessageNew, lambda event: heard.append(int(event.key)))
            await asyncio.to_thread(while_writing, writer, go_live)
            await until(lambda: len(heard) >= len(writer.in_target))

    asyncio.run(listen())
    assert writer.in_source
    assert writer.in_target
    # A move is no news: what the sync brought over was not told, what people wrote was, once.
    assert heard == writer.in_target
    there = {i for (i,) in query(world.url, f"SELECT id FROM messages WHERE id > {FIRST}")}
    assert there == {*writer.in_source, *writer.in_target}
    query(world.url, "UPDATE notes SET status = 'published' WHERE id = 1")
    world.rollback()
    with closing(sqlite3.connect(world.source.path)) as source:
        back = source.execute(f"SELECT id FROM messages WHERE id > {FIRST}").fetchall()
        assert {i for (i,) in back} == there
        shape = "____-__-__T__:__:__.%Z"
        odd = "SELECT count(*) FROM messages WHERE created_at NOT LIKE ? OR updated_at NOT LIKE ?"
        assert source.execute(odd, (shape, shape)).fetchone() == (0,)
    moved = move(world.source, world.url)
    assert {name: each.strategy for name, each in moved.items()} == dict.fromkeys(
        moved, "unchanged"
    )


def test_a_session_made_before_the_move_is_valid_after_it(world: World) -> None:
    with closing(sqlite3.connect(world.source.path)) as source:
        sessions = source.execute("SELECT id, token, user_id, expires_at FROM session").fetchall()
        accounts = source.execute("SELECT id, password FROM account").fetchall()
    for key, token, user, expires in sessions:
        # As Better Auth asks: who is it that shows this token now.
        asked = (
            'SELECT s.id, u.id FROM session s JOIN "user" u ON u.id = s.user_id'
            " WHERE s.token = %s AND s.expires_at = %s"
        )
        assert query(world.url, asked, (token, expires)) == [(key, user)]
    assert query(world.url, "SELECT id, password FROM account ORDER BY id") == sorted(accounts)


def test_a_published_table_that_was_emptied_is_filled_again(world: World) -> None:
    add(world.source, "messages", {"id": 9901, "space_id": 99_999})
    add(world.source, "note_blocks", {"id": 9901, "note_id": 99_999})
    query(world.url, "TRUNCATE messages, note_blocks")
    moved = move(world.source, world.url)
    assert moved["messages"].strategy == moved["note_blocks"].strategy == "filled"
    assert query(world.url, "SELECT count(*) FROM messages WHERE id = 9901") == [(0,)]


def test_a_backup_is_restorable_with_realtime_on(world: World, tmp_path: Path) -> None:
    found = Databases(make_url(world.url), world.source.path, tmp_path / "snapshots")
    made = make(tmp_path / "home", found, SPACES, keep=7)
    assert (made.source.fault, made.target.fault) == (None, None)
    query(world.url, "DELETE FROM messages WHERE id < 100")
    restore(
        world.url,
        shown="the target",
        tables=made.manifest.target_tables,
        folder=store.place(tmp_path / "home", made.manifest.name),
    )
    with closing(sqlite3.connect(world.source.path)) as source:
        there = source.execute("SELECT count(*) FROM messages").fetchone()
    assert query(world.url, "SELECT count(*) FROM messages") == [there]
