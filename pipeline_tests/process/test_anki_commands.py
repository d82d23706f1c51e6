"""The job `anki_sync`, its gate and its schedule, and the commands of `pipeline anki`.

Jobs are run in this process, recorded in Dagster's schema of a real target; commands as a user runs
them. The source is the sample, Anki a collection's file.
"""

import itertools
import shutil
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy.engine import URL

from pipeline.anki.outcomes import ACTIONS
from pipeline.anki.store.collection import CollectionFile
from pipeline.anki.store.notes import content_tag
from pipeline.anki.store.open import configured_anki
from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.models import LearningContentCreate
from pipeline.application.services.learning_content import LearningContentService
from pipeline.config import settings
from pipeline.config.settings import libpq
from pipeline.migrations.content_sample import make_sample
from pipeline.orchestration import runs
from pipeline.orchestration.assets.anki import CARDS, EMBEDDINGS, STEP
from pipeline.orchestration.common.metadata import NOTES, OUTCOMES
from pipeline.orchestration.definitions import defs
from pipeline.postgres.target import Target
from pipeline_tests.support.commands import pipeline
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import everything_stored, new_database, query

_numbers = itertools.count()
WORDS = 60
KEY = "k3y-that-nobody-may-see"
ALL_CHECKS = {
    (NOTES, "confirmed"),
    (NOTES, "note_exists"),
    (NOTES, "edited"),
    (NOTES, "recordings"),
    (CARDS, "content_exists"),
    (CARDS, "one_card"),
    (CARDS, "export_hash"),
    (EMBEDDINGS, "embedding_card"),
    (EMBEDDINGS, "embedding_dimension"),
    (EMBEDDINGS, "vector_search"),
}


@pytest.fixture(scope="module")
def moved_home(
    server: URL, dagster_tables: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A home whose sample has been moved into a database ``moved_home``, both to be copied."""
    home = tmp_path_factory.mktemp("moved") / "home"
    make_sample(home / "sample.db")
    with new_database(server, "moved_home", template=dagster_tables) as made:
        move_all(home / "sample.db", libpq(made))
        yield home


@pytest.fixture
def database(server: URL, moved_home: Path) -> Iterator[URL]:
    """A database of a test's own, into which the sample has been moved."""
    with new_database(server, f"home_{next(_numbers)}", template="moved_home") as made:
        yield made


@pytest.fixture
def variables(moved_home: Path, target_url: str, tmp_path: Path) -> dict[str, str]:
    """Settings of a home whose sample has been moved."""
    home = tmp_path / "home"
    shutil.copytree(moved_home, home)
    return {"PIPELINE_HOME": str(home), "DATABASE_URL": target_url, "LOCK_SECONDS": "0"}


@pytest.fixture
def instance(
    variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster's own instance in the target."""
    use(monkeypatch, variables)
    with runs.instance() as opened:
        yield opened


@pytest.fixture
def sample(variables: Mapping[str, str]) -> SourceFile:
    """The sample."""
    return SourceFile(Path(variables["PIPELINE_HOME"], "sample.db"))


def follow(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    """Run the job with a configuration of its step."""
    return runs.run("anki_sync", opened=instance, config={"ops": {STEP: {"config": config}}})


def counts(result: dg.ExecuteInProcessResult, asset: str = NOTES) -> dict[str, int]:
    """What the materialization of the notes or cards counts, what is nothing left out."""
    (found,) = [
        made
        for made in result.asset_materializations_for_node(STEP)
        if made.asset_key == dg.AssetKey(asset)
    ]
    values = {name: value.value for name, value in found.metadata.items()}
    named = [action.replace(" ", "_") for action in ACTIONS]
    return {name: values[name] for name in named if values.get(name)}


def observed(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """What a run observed, by asset."""
    return {
        observation.asset_key.to_user_string(): {
            name: value.value for name, value in observation.metadata.items()
        }
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.ASSET_OBSERVATION
        for observation in [event.asset_observation_data.asset_observation]
    }


def said(result: dg.ExecuteInProcessResult) -> list[str]:
    """What failed steps said."""
    return [
        event.step_failure_data.user_failure_data.description
        for event in result.all_events
        if event.is_step_failure
    ]


def notes() -> dict[int, str]:
    """The fronts of all notes in Anki."""
    with configured_anki(settings.load()) as opened:
        found = opened.notes(opened.find("sync::content::*"))
    return {number: note.fields["Front"] for number, note in found.items()}


def test_a_run_makes_notes_and_cards_and_checks_them_and_the_next_one_skips_all(
    instance: dg.DagsterInstance, sample: SourceFile
) -> None:
    first = follow(instance)
    assert first.success
    assert counts(first) == counts(first, CARDS) == {"created": WORDS}
    evaluations = first.get_asset_check_evaluations()
    assert {(e.asset_key.to_user_string(), e.check_name) for e in evaluations} == ALL_CHECKS
    # Four cards of the sample belong to contents that wait in quarantine.
    (warned,) = [e for e in evaluations if not e.passed]
    assert (warned.check_name, warned.severity) == ("content_exists", dg.AssetCheckSeverity.WARN)
    assert observed(first)[EMBEDDINGS]["by_type"] == {"back": 5, "combined": 5, "front": 5}
    assert len(notes()) == WORDS
    exported = sample.run("SELECT count(*) FROM anki_cards WHERE anki_note_id IS NOT NULL")
    assert exported == [(WORDS,)]
    second = follow(instance)
    assert second.success
    assert counts(second) == counts(second, CARDS) == {"skipped": WORDS}


def test_a_dry_run_materializes_nothing_and_shows_what_would_be_done(
    instance: dg.DagsterInstance, sample: SourceFile
) -> None:
    before = sample.path.read_bytes()
    result = follow(instance, dry_run=True, ids=[1, 2])
    assert result.success
    assert result.asset_materializations_for_node(STEP) == []
    seen = observed(result)[NOTES]
    assert seen["created"] == 2
    assert [(o["content_id"], o["action"]) for o in seen[OUTCOMES]] == [
        (1, "created"),
        (2, "created"),
    ]
    assert notes() == {}
    assert sample.path.read_bytes() == before


def test_a_target_whose_proof_has_failed_is_not_followed_until_it_is_mended(
    instance: dg.DagsterInstance, target_url: str
) -> None:
    query(target_url, "UPDATE learning_content SET translation = 'planted' WHERE id = 3")
    assert not any(
        e.passed
        for e in runs.run("verify", opened=instance).get_asset_check_evaluations()
        if (e.asset_key.to_user_string(), e.check_name) == ("learning_content", "digests")
    )
    refused = follow(instance)
    assert not refused.success
    assert said(refused) == [
        "The target is not proven: digests of learning_content, witness of learning_content failed"
        " in its last run."
        " Inspect the findings and repair the target, then run pipeline migrate or pipeline verify."
    ]
    assert notes() == {}
    assert runs.run("migrate", opened=instance).success
    assert counts(follow(instance)) == {"created": WORDS}


def test_checks_that_were_planned_and_never_made_do_not_count(
    instance: dg.DagsterInstance, target_url: str
) -> None:
    with Target.connect(target_url, shown="the target") as mover, mover.lock():
        assert not runs.run("migrate", opened=instance).success
    planned = "SELECT count(*) FROM dagster.asset_check_executions"
    assert query(target_url, f"{planned} WHERE execution_status = 'PLANNED'") != [(0,)]
    assert counts(follow(instance)) == {"created": WORDS}


def test_it_does_not_run_during_a_move(instance: dg.DagsterInstance, target_url: str) -> None:
    with Target.connect(target_url, shown="the target") as mover, mover.lock():
        refused = follow(instance)
    assert not refused.success
    assert "is in use by another run" in said(refused)[0]
    assert notes() == {}


def test_it_says_that_the_tables_have_never_been_moved(
    instance: dg.DagsterInstance, target_url: str
) -> None:
    query(target_url, "DROP TABLE rankings")
    assert said(follow(instance)) == [
        "The target has no table rankings. Run pipeline migrate first."
    ]


def test_contents_that_the_application_writes_to_postgresql_are_followed_alike(
    instance: dg.DagsterInstance, target_url: str, sample: SourceFile
) -> None:
    assert follow(instance).success
    with HybridDatabaseManager(sample.path, target_url) as manager:
        number = LearningContentService(manager).create_content(
            LearningContentCreate(
                title="ทะเล (sea)",
                content_type="vocabulary",
                native_text="ทะเล",
                translation="sea",
                ipa="[tʰá.leː]",
            )
        )
    assert counts(follow(instance)) == {"skipped": WORDS, "created": 1}
    with configured_anki(settings.load()) as opened:
        (note,) = opened.notes(opened.find(content_tag(number))).values()
    assert note.fields["Front"] == (
        '<div class="native">ทะเล</div>\n<div class="ipa">[tʰá.leː]</div>'
    )


def test_a_card_that_points_to_nowhere_fails_its_check_and_the_command(
    variables: dict[str, str], sample: SourceFile
) -> None:
    sample.run("UPDATE anki_cards SET learning_content_id = 777 WHERE id = 2")
    ran = pipeline("anki", "check", **variables)
    assert ran.code == 1
    assert ran.row("anki_cards", "content_exists")[0] == "failed"


def test_the_commands_tell_what_they_would_do_and_did(variables: dict[str, str]) -> None:
    planned = pipeline("anki", "sync", "--dry-run", "--only", "1", **variables)
    assert (planned.code, planned.err) == (0, "")
    assert planned.row("1") == ["น้ำ (water)", "created", "in deck top-thai-2000"]
    assert "nothing was changed in" in planned.out
    done = pipeline("anki", "sync", "--verbose", **variables)
    assert (done.code, done.err) == (0, "")
    assert "60 created; 143 recordings\n" in done.out
    assert done.row("anki_notes", "recordings") == ["passed", "files 143, compared 143"]
    again = pipeline("anki", "sync", **variables)
    assert "60 skipped; 0 recordings\n" in again.out
    # A collection belongs to one program at a time.
    home = Path(variables["PIPELINE_HOME"])
    with CollectionFile(home / "anki" / "collection.anki2"):
        locked = pipeline("anki", "sync", **variables)
    assert locked.code == 1
    assert "another program has opened it" in locked.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        (("sync", "--removed", "delete"), {}, "--removed cannot be delete."),
        (("sync", "--only", "1,x"), {}, "--only cannot be '1,x'."),
        (("sync",), {"ANKI_CONNECT_URL": "localhost"}, "ANKI_CONNECT_URL cannot be used"),
        (("sync",), {"ANKI_FIELDS": "Front"}, "ANKI_FIELDS cannot be used"),
        (
            ("check",),
            {"ANKI_CONNECT_URL": "http://127.0.0.1:9", "ANKI_COLLECTION": "a.anki2"},
            "ANKI_COLLECTION and ANKI_CONNECT_URL are both set.",
        ),
        (
            ("sync",),
            {"SQLITE_DATABASE_URL": "sqlite:///other.db"},
            "No Anki is configured. Set ANKI_CONNECT_URL",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_tried(
    arguments: tuple[str, ...],
    more: dict[str, str],
    message: str,
    target_url: str,
    tmp_path: Path,
) -> None:
    needed = {"PIPELINE_HOME": str(tmp_path), "DATABASE_URL": target_url}
    ran = pipeline("anki", *arguments, **needed | more)
    assert ran.code == 2
    assert ran.err.startswith(message)


def test_a_refused_sync_shows_the_reason_and_no_success(variables: dict[str, str]) -> None:
    ran = pipeline("anki", "sync", "--deck", "Nowhere", **variables)
    assert ran.code == 1
    # The checks of embeddings have passed, which says nothing of the notes.
    assert ran.out.splitlines()[-1].startswith("anki    the collection ")
    assert " has no deck Nowhere. Create it in Anki" in ran.err.splitlines()[0]


def test_no_key_of_ankiconnect_is_stored_or_printed(
    variables: dict[str, str], target_url: str
) -> None:
    url = f"http://user:{KEY}@127.0.0.1:9"
    ran = pipeline("anki", "sync", **variables, ANKI_CONNECT_URL=url, ANKI_CONNECT_KEY=KEY)
    assert ran.code == 1
    assert ran.err.startswith("Anki at http://127.0.0.1:9 does not answer. Start Anki")
    assert KEY not in ran.out + ran.err
    assert [table for table, text in everything_stored(target_url) if KEY in text] == []


def test_a_password_in_the_url_is_not_stored_when_a_proxy_refuses(
    variables: dict[str, str], target_url: str
) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://user:{KEY}@127.0.0.1:{server.server_port}"
        ran = pipeline("anki", "sync", **variables, ANKI_CONNECT_URL=url)
        server.shutdown()
    assert ran.code == 1
    assert "answered version in a format that is not AnkiConnect's" in ran.err
    assert KEY not in ran.out + ran.err
    assert [table for table, text in everything_stored(target_url) if KEY in text] == []


def test_a_sync_is_proven_though_the_search_indexes_cannot_be_made(
    instance: dg.DagsterInstance, target_url: str
) -> None:
    query(target_url, "CREATE INDEX idx_learning_content_search ON learning_content (title)")
    result = runs.run("sync", opened=instance)
    assert result.success
    (search,) = [
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == "search_indexes"
    ]
    assert (search.passed, search.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "idx_learning_content_search of learning_content has another definition" in str(
        search.description
    )


def test_the_schedule_is_hourly_and_off_until_it_is_switched_on() -> None:
    schedule = defs.resolve_schedule_def("anki_sync_schedule")
    assert schedule.cron_schedule == "0 * * * *"
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert schedule.job_name == "anki_sync"
