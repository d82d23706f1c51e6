"""Where backups lie: what is unfinished never looks like one, and old ones go."""

import hashlib
import json
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest

import pipeline.backup
from pipeline.backup import restore, store
from pipeline.backup.create import make
from pipeline.backup.errors import BackupError
from pipeline.backup.manifest import Manifest
from pipeline.config.environment import Databases
from pipeline.core.errors import TargetError
from pipeline.migrations.content import CONTENT
from pipeline_tests.support.backups import Place, until
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query

BACK_UP = """
import sys
from pathlib import Path
from pipeline_tests.support.backups import Place
Place.at(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])).back_up()
"""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def planted(home: Path, *, days: int, restore_verified: bool = True) -> Manifest:
    """A backup of so many days ago, which holds nothing."""
    at = NOW - timedelta(days=days)
    made = Manifest(
        name=store.stamp(at),
        at=at,
        source="/source.db",
        source_sha256="",
        source_bytes=0,
        source_tables=(),
        target="PostgreSQL at home",
        target_tables=(),
        migration="content",
    )
    with store.unfinished(home, made.name) as folder:
        store.finish(home, folder, made)
    return store.mark_restore_verified(home, made) if restore_verified else made


def names(home: Path) -> list[str]:
    return [manifest.name for manifest in store.finished(home)]


def test_the_newest_backup_is_found_among_rubbish(tmp_path: Path) -> None:
    assert pipeline.backup.newest(tmp_path, "content") is None
    old = planted(tmp_path, days=3)
    new = planted(tmp_path, days=1, restore_verified=False)
    damaged = planted(tmp_path, days=0)
    manifest = store.place(tmp_path, damaged.name) / "manifest.json"
    manifest.write_text(manifest.read_text().replace("/source.db", "/sourcE.db"))
    for name, text in (("empty", None), ("list", "[1]"), ("binary", "\x00\ud800"), ("cut", '{"a')):
        store.place(tmp_path, name).mkdir()
        if text is not None:
            (store.place(tmp_path, name) / "manifest.json").write_bytes(
                text.encode("utf-8", "surrogatepass")
            )
    (tmp_path / "backups" / "file").write_text("rubbish")
    store.place(tmp_path, old.name).with_name("renamed").mkdir()
    assert pipeline.backup.newest(tmp_path, "content") == new
    assert store.newest(tmp_path, "content", restore_verified=True) == old
    assert new.at.tzinfo is not None
    assert old.restore_verified is not None
    with pytest.raises(BackupError, match="is damaged or was changed"):
        store.named(tmp_path, "content", damaged.name)
    with pytest.raises(BackupError, match=r"contains no backup\. Run pipeline backup list"):
        store.named(tmp_path, "content", "../../etc")


def test_so_many_backups_stay_and_the_newest_that_is_restorable_in_any_case(tmp_path: Path) -> None:
    made = [planted(tmp_path, days=days, restore_verified=days == 8) for days in range(10)]
    (tmp_path / "backups" / "mine").mkdir()
    replaced = [store.replaced(tmp_path).with_name(f"{n}.db") for n in range(5)]
    for path in replaced:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    removed = store.retain(tmp_path, "content", 3)
    assert names(tmp_path) == [made[at].name for at in (0, 1, 2, 8)]
    assert removed == [made[at].name for at in (3, 4, 5, 6, 7, 9)]
    assert sorted(replaced[0].parent.iterdir()) == replaced[2:]
    assert (tmp_path / "backups" / "mine").exists()
    assert list((tmp_path / "backups" / "unfinished").iterdir()) == []


def test_without_a_restorable_backup_nothing_is_removed(tmp_path: Path) -> None:
    for days in range(3):
        planted(tmp_path, days=days, restore_verified=False)
    assert store.retain(tmp_path, "content", 1) == []
    assert len(names(tmp_path)) == 3


def under_the_old_name(manifest: Path) -> None:
    """Rewrite a manifest as older versions wrote it: the old field name, and a new digest."""
    whole = json.loads(manifest.read_text())
    del whole["seal"]
    whole["rehearsed"] = whole.pop("restore_verified")
    text = json.dumps(whole, sort_keys=True, ensure_ascii=True)
    seal = hashlib.sha256(text.encode()).hexdigest()
    manifest.write_text(json.dumps(whole | {"seal": seal}, ensure_ascii=False, indent=1))


def test_a_manifest_of_an_older_version_is_read_as_verified(tmp_path: Path) -> None:
    made = planted(tmp_path, days=1)
    assert made.restore_verified is not None
    under_the_old_name(store.place(tmp_path, made.name) / "manifest.json")
    assert store.named(tmp_path, "content", None) == made
    assert store.newest(tmp_path, "content", restore_verified=True) == made
    marked = store.mark_restore_verified(tmp_path, made)
    stored = json.loads((store.place(tmp_path, made.name) / "manifest.json").read_text())
    assert "rehearsed" not in stored
    assert store.named(tmp_path, "content", made.name) == marked


def test_a_backup_of_an_older_version_is_restored(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    query(
        target_url, "CREATE TABLE learning_content (id int); INSERT INTO learning_content SELECT 7"
    )
    place = Place.at(source.path, target_url, tmp_path)
    made = place.back_up().manifest
    under_the_old_name(place.folder(made) / "manifest.json")
    query(target_url, "UPDATE learning_content SET id = 8")
    manifest = store.named(place.home, "content", None)
    assert manifest == made
    folder = place.folder(manifest)
    restore.restore(target_url, shown="it", tables=manifest.target_tables, folder=folder)
    assert query(target_url, "SELECT id FROM learning_content") == [(7,)]


def test_a_backup_that_is_killed_is_none_and_is_cleared_away(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    query(target_url, "CREATE TABLE learning_content (id int)")
    unfinished = tmp_path / "home" / "backups" / "unfinished"
    command = [sys.executable, "-c", BACK_UP, str(source.path), target_url, str(tmp_path)]
    with closing(psycopg2.connect(target_url)) as other, other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE learning_content")
        process = subprocess.Popen(command)
        try:
            until(target_url, "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted")
        finally:
            process.kill()
            process.wait()
    (left,) = unfinished.iterdir()
    assert (left / "source.db").exists()
    assert names(tmp_path / "home") == []
    made = Place.at(source.path, target_url, tmp_path).back_up()
    assert names(tmp_path / "home") == [made.manifest.name]
    assert list(unfinished.iterdir()) == []


def test_a_backup_that_fails_leaves_nothing_and_no_password(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    place = Place.at(source.path, "postgresql://me:s3cr3t@127.0.0.1:1/x", tmp_path)
    found = Databases(place.target, source.path, tmp_path)
    with pytest.raises(TargetError, match="the server does not respond") as failed:
        make(place.home, found, CONTENT, keep=7)
    assert "s3cr3t" not in f"{failed.value!r} {failed.value.__cause__!r}"
    assert list((place.home / "backups" / "unfinished").iterdir()) == []
    assert names(place.home) == []


def test_a_folder_that_cannot_be_written_gives_a_sentence(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(BackupError, match=r"cannot be written in .*home/backups \(Not a directory"):
        Place.at(source.path, target_url, tmp_path).back_up()


def test_a_backup_tells_what_it_holds_and_is_nobody_elses_to_read(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    place = Place.at(source.path, target_url, tmp_path)
    manifest = place.back_up().manifest
    copy = place.folder(manifest) / "source.db"
    assert manifest.source == str(source.path)
    assert manifest.source_sha256 == store.file_sha256(copy)
    assert manifest.source_bytes == copy.stat().st_size
    assert {table.name: table.rows for table in manifest.source_tables} == {
        "learning_content": 2,
        "content_fragments": 4,
        "fragment_assets": 4,
        "rankings": 8,
    }
    assert manifest.restore_verified is not None
    assert manifest.restore_verified > manifest.at
    assert {path.name for path in place.folder(manifest).iterdir()} == {
        "source.db",
        "manifest.json",
    }
    assert (place.home / "backups").stat().st_mode & 0o077 == 0
    copy.write_bytes(copy.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BackupError, match="its SHA-256 differs"):
        store.require_intact(copy, manifest.source_sha256)
