"""What Dagster loads and shows: assets, checks, the job, and what a run records of a table."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from pipeline.core.proof import BLOCKING, OF_A_VERIFICATION
from pipeline.declared.rules import TableRules
from pipeline.migrations import content
from pipeline_tests.support.commands import usable
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import NAMES
from pipeline_tests.support.targets import CHANGE_ON_INSERT, query

LOAD = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import dagster
    from pipeline.orchestration.definitions import defs
    dagster.Definitions.validate_loadable(defs)
for w in caught:
    words = f"{w.category.__mro__} {w.message}".lower()
    if any(word in words for word in ("deprecat", "supersed", "preview", "beta", "experimental")):
        print(w.category.__name__, w.message)
"""
CHECKS = {
    *("conservation", "keys", "digests", "foreign_keys", "sequences", "witness"),
    *("drift", "quarantine", "conversions", "overrides", "conflicts"),
}
"""The checks of a move."""


@pytest.fixture
def defs() -> dg.Definitions:
    """What Dagster loads."""
    from pipeline.orchestration.definitions import defs

    return defs


@pytest.fixture
def settings(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings of this process that name the test's source and target."""
    for name, value in usable(source, target_url, tmp_path).items():
        monkeypatch.setenv(name, value)


def run(defs: dg.Definitions, *tables: str, **options: Any) -> dg.ExecuteInProcessResult:
    """Run the job, or only these tables of it, in this process."""
    return defs.resolve_job_def("migrate").execute_in_process(
        instance=dg.DagsterInstance.ephemeral(),
        asset_selection=[dg.AssetKey(table) for table in tables] or None,
        **options,
    )


def shown(result: dg.ExecuteInProcessResult, table: str) -> dict[str, Any]:
    """The metadata of a table's materialization."""
    (materialization,) = result.asset_materializations_for_node(table)
    return {name: value.value for name, value in materialization.metadata.items()}


def columns_of(url: str, table: str) -> list[tuple[str, str, bool]]:
    """Name, type and whether NULL is allowed of each column, as PostgreSQL has it."""
    return query(
        url,
        "SELECT attname::text, format_type(atttypid, atttypmod), NOT attnotnull FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
        (table,),
    )


def test_definitions_load_without_a_deprecated_superseded_or_preview_call() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    assert sorted(set(done.stdout.splitlines())) == []


def test_a_table_comes_after_the_tables_that_it_refers_to(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents == {
        "learning_content": set(),
        "content_fragments": {"learning_content"},
        "fragment_assets": {"content_fragments"},
        "rankings": {"content_fragments", "fragment_assets"},
        "census": set(),
        "plan": set(),
        "source_backup": set(),
        "target_backup": {"source_backup"},
        "housekeeping": set(),
        "cutover": set(NAMES),
        "content_search": {"learning_content", "content_fragments"},
        "anki_notes": set(NAMES),
        "anki_cards": {"anki_notes"},
        "vector_embeddings": {"anki_cards"},
    }


@pytest.mark.parametrize("table", NAMES)
def test_an_asset_says_what_it_is_and_whose(defs: dg.Definitions, table: str) -> None:
    node = defs.resolve_asset_graph().get(dg.AssetKey(table))
    assert node.group_name == "content"
    assert node.kinds >= {"sqlite", "postgres"}
    assert node.owners
    assert node.description == TableRules.of(content.metadata.tables[table]).description


def test_housekeeping_says_what_it_is_and_whose_and_has_no_check(defs: dg.Definitions) -> None:
    node = defs.resolve_asset_graph().get(dg.AssetKey("housekeeping"))
    assert node.group_name == "operations"
    assert node.kinds == {"postgres"}
    assert node.owners == ["team:learning-content"]
    assert node.description is not None
    assert "KEEP_RUNS" in node.description
    assert node.check_keys == set()


@pytest.mark.parametrize("table", NAMES)
def test_an_asset_has_twelve_checks_of_which_six_block_and_says_what_a_failure_means(
    defs: dg.Definitions, table: str
) -> None:
    specs = list(defs.get_assets_def(dg.AssetKey(table)).check_specs)
    assert sorted(spec.name for spec in specs) == sorted(CHECKS | set(OF_A_VERIFICATION))
    assert len(specs) == 12
    assert {spec.name for spec in specs if spec.blocking} == set(BLOCKING)
    assert len(BLOCKING) == 6
    for spec in specs:
        assert re.search("A (failure|warning) (names|means|counts) ", spec.description or "")


JOBS = {
    "census": {"census"},
    "plan": {"plan"},
    "migrate": set(NAMES),
    "redrive": set(NAMES),
    "sync": {*NAMES, "content_search", "housekeeping"},
    "verify": set[str](),
    "backup": {"source_backup", "target_backup"},
    "cutover": {"cutover"},
}
FOLLOWING = {
    "anki_notes": {"confirmed", "note_exists", "edited", "recordings"},
    "anki_cards": {"content_exists", "one_card", "export_hash"},
    "vector_embeddings": {"embedding_card", "embedding_dimension", "vector_search"},
}


@pytest.mark.parametrize(("job", "assets"), JOBS.items())
def test_a_job_materializes_its_assets_alone(
    defs: dg.Definitions, job: str, assets: set[str]
) -> None:
    layer = defs.resolve_job_def(job).asset_layer
    assert {key.to_user_string() for key in layer.selected_asset_keys} == assets
    checks = layer.asset_graph.asset_check_keys
    made = {(key.asset_key.to_user_string(), key.name) for key in checks}
    search = {("content_search", "search_indexes")} if "content_search" in assets else set()
    kept = {(asset, "restorable") for asset in assets if asset.endswith("_backup")}
    kept |= {("cutover", "gate")} & {(asset, "gate") for asset in assets}
    verified = {(t, check) for t in NAMES for check in OF_A_VERIFICATION if job == "verify"}
    moved = {(t, check) for t in assets & set(NAMES) for check in CHECKS}
    assert made == moved | verified | search | kept


def test_a_run_is_configured_once_for_all_tables(defs: dg.Definitions) -> None:
    job = defs.resolve_job_def("migrate")
    assert dg.validate_run_config(job, {"resources": {"options": {"config": {"limit": 3}}}})
    for table in NAMES:
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(job, {"ops": {table: {"config": {"limit": 3}}}})


@pytest.mark.parametrize(
    ("job", "assets", "checks"),
    [
        ("anki_sync", {"anki_notes", "anki_cards"}, FOLLOWING),
        ("anki_check", set(), FOLLOWING | {"anki_notes": {"note_exists", "edited", "recordings"}}),
    ],
)
def test_a_job_of_anki_makes_all_checks_across_the_databases(
    defs: dg.Definitions, job: str, assets: set[str], checks: dict[str, set[str]]
) -> None:
    layer = defs.resolve_job_def(job).asset_layer
    assert {key.to_user_string() for key in layer.selected_asset_keys} == assets
    made: dict[str, set[str]] = {}
    for key in layer.asset_graph.asset_check_keys:
        made.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
    assert made == checks


@pytest.mark.parametrize("asset", ["content_search", *FOLLOWING])
def test_what_follows_says_what_it_is(defs: dg.Definitions, asset: str) -> None:
    node = defs.resolve_asset_graph().get(dg.AssetKey(asset))
    assert node.group_name == ("content" if asset == "content_search" else "anki")
    assert node.kinds
    assert node.description


def test_there_is_no_other_job_schedule_or_sensor(defs: dg.Definitions) -> None:
    jobs = {job.name for job in defs.resolve_all_job_defs()}
    assert {name for name in jobs if not name.startswith("__")} == {
        *JOBS,
        *("anki_sync", "anki_check", "doctor"),
    }
    schedules = [each for each in defs.schedules or () if isinstance(each, dg.ScheduleDefinition)]
    assert {(each.name, each.job_name) for each in schedules} == {
        ("sync_schedule", "sync"),
        ("verify_schedule", "verify"),
        ("anki_sync_schedule", "anki_sync"),
    }
    sensors = {each.name: each for each in defs.sensors or ()}
    assert set(sensors) == {"source_written", "run_failed", "checks_failed"}
    assert sensors["source_written"].job_name == "sync"


@pytest.mark.parametrize("resource", ["source", "target"])
def test_run_config_has_no_room_for_a_url(defs: dg.Definitions, resource: str) -> None:
    job = defs.resolve_job_def("migrate")
    assert dg.validate_run_config(job)
    with pytest.raises(dg.DagsterInvalidConfigError):
        dg.validate_run_config(job, {"resources": {resource: {"config": {"url": "x://y"}}}})


def test_the_declared_columns_are_those_that_postgresql_then_has(
    defs: dg.Definitions, source: SourceFile, target_url: str
) -> None:
    move_all(source.path, target_url)
    for table in NAMES:
        schema = defs.get_assets_def(table).specs_by_key[dg.AssetKey(table)].metadata
        declared = [
            (column.name, column.type, column.constraints.nullable)
            for column in schema["dagster/column_schema"].value.columns
        ]
        carried = {"last_review_at"}
        assert declared == [c for c in columns_of(target_url, table) if c[0] not in carried]


@pytest.mark.usefixtures("settings")
def test_a_materialization_tells_rows_schema_bytes_and_rates(
    defs: dg.Definitions, source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=3)
    result = run(defs)
    for table, rows in zip(NAMES, (3, 6, 6, 12), strict=True):
        metadata = shown(result, table)
        assert metadata["dagster/row_count"] == metadata["source_rows"] == rows
        columns = [(c.name, c.type) for c in metadata["dagster/column_schema"].columns]
        assert columns == [(name, kind) for name, kind, _ in columns_of(target_url, table)]
        assert metadata["rows_per_second"] > 0
        assert metadata["mib_per_second"] >= 0
        assert sum(metadata["seconds_by_phase"].values()) == pytest.approx(
            metadata["seconds"], abs=0.01
        )
    assert 600 < shown(result, "fragment_assets")["source_bytes"] < 1800


@pytest.mark.usefixtures("settings")
def test_a_preview_shows_first_rows_and_no_blob(defs: dg.Definitions, source: SourceFile) -> None:
    source.add_family(contents=2)
    source.run("UPDATE learning_content SET title = 'a | b <script>' WHERE id = 1")
    source.run("UPDATE fragment_assets SET asset_data = x'6b6f7474' WHERE id = 1")
    result = run(defs)
    head, _, first, *_ = shown(result, "learning_content")["preview"].splitlines()
    assert head.startswith("| id | title | content_type |")
    assert first.startswith(r"| 1 | a \| b &lt;script> | vocabulary |")
    preview = shown(result, "fragment_assets")["preview"]
    assert "| 4 bytes |" in preview
    assert "| 100 bytes |" in preview
    assert not any(form in preview for form in ("kott", "6b6f7474", "\\x"))


@pytest.mark.usefixtures("settings")
def test_quarantine_reasons_and_drift_are_shown(defs: dg.Definitions, source: SourceFile) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2, "tags": "no json"})
    metadata = shown(run(defs, "learning_content"), "learning_content")
    assert metadata["quarantine_reasons"] == [
        {"reason": "is not valid JSON", "column": "tags", "rows": 1, "examples": ["2"]}
    ]
    assert "| learning_content | 1 | tags is not valid JSON | 2 |" in metadata["quarantine"]
    assert "timestamp with time zone" in metadata["drift"].lower()


@pytest.mark.usefixtures("settings")
def test_a_table_can_be_moved_alone_after_its_parents(
    defs: dg.Definitions, source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    assert run(defs, "learning_content").success
    assert query(target_url, "SELECT to_regclass('content_fragments')") == [(None,)]
    assert run(defs, "content_fragments").success
    assert query(target_url, "SELECT count(*) FROM content_fragments") == [(4,)]


@pytest.mark.usefixtures("settings")
def test_a_table_whose_parent_never_moved_says_which_to_move_first(
    defs: dg.Definitions, source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=1)
    result = run(defs, "content_fragments", raise_on_error=False)
    (failure,) = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    assert failure.user_failure_data.description == (
        "content_fragments refers to learning_content, which the target does not have."
        " Move learning_content first."
    )
    assert query(target_url, "SELECT to_regclass('content_fragments')") == [(None,)]


@pytest.mark.usefixtures("settings")
def test_a_failed_check_names_its_offenders_in_a_table(
    defs: dg.Definitions, source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    engine = sa.create_engine(target_url.replace("postgresql:", "postgresql+psycopg2:", 1))
    content.metadata.create_all(engine)
    engine.dispose()
    query(target_url, CHANGE_ON_INSERT)
    result = run(defs, raise_on_error=False)
    assert not result.success
    evaluations = {
        check.check_name: check
        for check in result.get_asset_check_evaluations()
        if check.asset_key == dg.AssetKey("content_fragments")
    }
    assert set(evaluations) == CHECKS
    assert {name for name, check in evaluations.items() if not check.passed} == {
        "digests",
        "witness",
    }
    digests = evaluations["digests"]
    assert digests.severity == dg.AssetCheckSeverity.ERROR
    head, _, first, *_ = str(digests.metadata["offenders"].value).splitlines()
    assert head == "| finding | key | column | source | target |"
    assert first == "| value differs | 2 | body_text | I eat rice | changed on the way |"
    keys = {key.to_user_string() for key in materialized(result)}
    assert keys == {"learning_content"}


def materialized(result: dg.ExecuteInProcessResult) -> set[dg.AssetKey]:
    """Tables that a run materialized."""
    return {event.asset_key for event in result.all_events if event.is_step_materialization}


@pytest.mark.usefixtures("settings")
def test_one_process_can_run_the_job_again(
    defs: dg.Definitions, source: SourceFile, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    ways = []
    for _ in range(2):
        result = run(defs)
        ways.append({shown(result, table)["strategy"] for table in NAMES})
        assert list((tmp_path / "home" / "snapshots").iterdir()) == []
    assert ways == [{"filled"}, {"unchanged"}]


def test_everything_materialized_at_once_moves_and_checks_each_table(
    defs: dg.Definitions, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", target_url)
    whole = defs.resolve_implicit_global_asset_job_def()
    result = whole.execute_in_process(instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)
    assert result.success
    (folder,) = (tmp_path / "home" / "reports").iterdir()
    left = json.loads((folder / "evidence.json").read_text())
    assert left["proven"]
    for table in left["tables"]:
        assert table["moved"]["strategy"] == "filled"
        names = [check["name"] for check in table["checks"]]
        assert len(names) == len(set(names)) == 12


def test_a_proof_is_recorded_though_its_checks_are_not_selected(
    defs: dg.Definitions, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", target_url)
    job = dg.define_asset_job(
        "alone",
        selection=dg.AssetSelection.assets("learning_content").without_checks(),
        executor_def=dg.in_process_executor,
    ).resolve(
        asset_graph=defs.resolve_asset_graph(),
        resource_defs=defs.resolve_job_def("migrate").resource_defs,
    )
    result = job.execute_in_process(instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)
    assert result.success
    assert shown(result, "learning_content")["strategy"] == "filled"
    assert {made.check_name for made in result.get_asset_check_evaluations()} == CHECKS
