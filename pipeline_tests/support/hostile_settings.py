"""Settings of PostgreSQL at values that nobody expects, and those that do no harm at any value."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.postgres.session import SETTINGS
from pipeline_tests.support.sources import DEFAULTS, SourceFile
from pipeline_tests.support.targets import new_database, query

HOSTILE: Mapping[str, str] = {
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "idle_session_timeout": "1",
    # The statement that puts it right is subject to it.
    "transaction_timeout": "5000",
    "client_encoding": "LATIN1",
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "bytea_output": "escape",
    "xmlbinary": "hex",
    "xmloption": "document",
    "lc_monetary": "C.UTF-8",
    "lc_numeric": "C.UTF-8",
    "lc_time": "C.UTF-8",
    "TimeZone": "Pacific/Chatham",
    "timezone_abbreviations": "India",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "backslash_quote": "on",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "search_path": "elsewhere",
    "role": "lowly",
    "row_security": "on",
    "quote_all_identifiers": "on",
    "check_function_bodies": "off",
    "default_table_access_method": "other_heap",
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "gin_fuzzy_search_limit": "1",
    "client_min_messages": "debug5",
    "escape_string_warning": "off",
    "exit_on_error": "on",
    "synchronous_commit": "off",
    "enable_bitmapscan": "off",
    "enable_hashagg": "off",
    "enable_hashjoin": "off",
    "enable_indexonlyscan": "off",
    "enable_indexscan": "off",
    "enable_material": "off",
    "enable_memoize": "off",
    "enable_mergejoin": "off",
    "enable_nestloop": "off",
    "enable_seqscan": "off",
    "enable_sort": "off",
    "plan_cache_mode": "force_generic_plan",
    "vacuum_cost_delay": "100",
    "debug_parallel_query": "regress",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
    "session_replication_role": "replica",
    "event_triggers": "off",
    "zero_damaged_pages": "on",
    "ignore_checksum_failure": "on",
    "plpgsql.variable_conflict": "use_variable",
    "plpgsql.extra_errors": "all",
    "pipeline.moving": "on",
    "pipeline.canary": "on",
}
"""What a session states, at another value, on the server that tests start."""

EARLY = {setting.name: HOSTILE[setting.name] for setting in SETTINGS if setting.early}
"""Those that a connection request can carry."""

UNKNOWN_HERE = frozenset({"force_parallel_mode"})
"""Stated names that this version of PostgreSQL does not know."""

NOT_LISTED = frozenset({"role", "pipeline.moving", "pipeline.canary"})
"""Stated names that ``pg_settings`` leaves out."""

HARMLESS: Mapping[str, frozenset[str]] = {
    reason: frozenset(names.split())
    for reason, names in {
        "what a plan is expected to cost; finite plans of another shape": """
            constraint_exclusion cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost
            cursor_tuple_fraction default_statistics_target effective_cache_size
            enable_async_append enable_distinct_reordering enable_gathermerge
            enable_group_by_reordering enable_incremental_sort enable_parallel_append
            enable_parallel_hash enable_partition_pruning enable_partitionwise_aggregate
            enable_partitionwise_join enable_presorted_aggregate enable_self_join_elimination
            enable_tidscan from_collapse_limit geqo geqo_effort geqo_generations geqo_pool_size
            geqo_seed geqo_selection_bias geqo_threshold jit jit_above_cost jit_expressions
            jit_inline_above_cost jit_optimize_above_cost jit_tuple_deforming join_collapse_limit
            min_parallel_index_scan_size min_parallel_table_scan_size parallel_leader_participation
            parallel_setup_cost parallel_tuple_cost random_page_cost recursive_worktable_factor
            seq_page_cost""",
        "memory, disk and processes; what exceeds a limit is refused by name": """
            backend_flush_after commit_delay commit_siblings effective_io_concurrency
            file_copy_method gin_pending_list_limit hash_mem_multiplier io_combine_limit
            logical_decoding_work_mem maintenance_io_concurrency maintenance_work_mem
            max_parallel_maintenance_workers max_parallel_workers max_parallel_workers_per_gather
            max_stack_depth temp_buffers temp_file_limit vacuum_buffer_usage_limit wal_compression
            wal_init_zero wal_recycle wal_skip_threshold work_mem""",
        "how vacuum works, which a run leaves to the server": """
            vacuum_cost_limit vacuum_cost_page_dirty vacuum_cost_page_hit vacuum_cost_page_miss
            vacuum_failsafe_age vacuum_freeze_min_age vacuum_freeze_table_age
            vacuum_max_eager_freeze_failure_rate vacuum_multixact_failsafe_age
            vacuum_multixact_freeze_min_age vacuum_multixact_freeze_table_age vacuum_truncate""",
        "what the server writes into its log, or counts": """
            backtrace_functions compute_query_id debug_pretty_print debug_print_parse
            debug_print_plan debug_print_rewritten log_duration log_error_verbosity
            log_executor_stats log_lock_failures log_lock_waits log_min_duration_sample
            log_min_duration_statement log_min_error_statement log_min_messages
            log_parameter_max_length log_parameter_max_length_on_error log_parser_stats
            log_planner_stats log_replication_commands log_statement log_statement_sample_rate
            log_statement_stats log_temp_files log_transaction_sample_rate md5_password_warnings
            stats_fetch_consistency trace_notify trace_sort track_activities
            track_cost_delay_timing track_counts track_functions track_io_timing
            track_wal_io_timing update_process_title""",
        "where files of tables lie and how long values are packed, as the administrator chose": """
            allow_in_place_tablespaces default_tablespace default_toast_compression
            temp_tablespaces""",
        "what libraries a server loads; a server is trusted": """
            dynamic_library_path extension_control_path extension_destdir
            local_preload_libraries output_plugin_libraries session_preload_libraries""",
        "replication": "wal_sender_timeout",
        "the language of messages; codes are compared": "lc_messages",
        "of roles and passwords, which nobody makes here": """
            createrole_self_grant password_encryption scram_iterations""",
        "of full text search and collations, which nobody uses here": """
            default_text_search_config icu_validation_level""",
        "when a silent client is noticed": """
            client_connection_check_interval tcp_keepalives_count tcp_keepalives_idle
            tcp_keepalives_interval tcp_user_timeout""",
        "after how long a deadlock is looked for": "deadlock_timeout",
        "the order of rows that nobody asked to be in order": "synchronize_seqscans",
        "of the transaction under way; others begin with the defaults": """
            transaction_deferrable transaction_isolation transaction_read_only""",
        "tests of the server itself": """
            allow_system_table_mods debug_discard_caches debug_logical_replication_streaming
            jit_dump_bitcode wal_consistency_checking""",
        "rights on large objects, which nobody uses here": "lo_compat_privileges",
        "what plpgsql says of functions when they are made or fail": """
            plpgsql.check_asserts plpgsql.extra_warnings plpgsql.print_strict_params""",
        "a name for people": "application_name",
    }.items()
}

_CLEAN = (
    "-cstatement_timeout=0 -clock_timeout=0 -cidle_session_timeout=0"
    " -cidle_in_transaction_session_timeout=0 -cdefault_transaction_read_only=off -crole=none"
    " -csearch_path=public -cdefault_transaction_isolation=read\\ committed -cexit_on_error=off"
    " -cclient_min_messages=warning"
)

THAI = ("ก", "ข้าวมันไก่", "สวัสดี 🎉", "é", "ñ\u0301 中文", "กำ" * 100)
"""Titles; the last has exactly 200 characters."""


def settable(url: str) -> dict[str, dict[str, Any]]:
    """Every setting that a user or a superuser may set, by name."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        # Those of plpgsql are there once it is loaded.
        cursor.execute("DO 'BEGIN END'")
        cursor.execute(
            "SELECT name, to_jsonb(s) FROM pg_settings AS s WHERE context IN ('user', 'superuser')"
        )
        return dict(cursor.fetchall())


def set_for(who: str, settings: Mapping[str, str]) -> sql.Composed:
    """SQL that sets these for ``ROLE name`` or ``DATABASE name``."""
    kind, name = who.split()
    return sql.SQL(";").join(
        sql.SQL("ALTER {} {} SET {} = {}").format(
            sql.SQL(kind), sql.Identifier(name), dotted(setting), valued(setting, value)
        )
        for setting, value in settings.items()
    )


def dotted(setting: str) -> sql.Identifier:
    """The name of a setting as SQL has it."""
    return sql.Identifier(*setting.split("."))


def valued(setting: str, value: str) -> sql.Composable:
    """A value, or several."""
    return sql.SQL(", ").join(map(sql.Literal, value.split(", ")))


@pytest.fixture(scope="session")
def lowly(server: URL) -> Iterator[None]:
    """A role that may do nothing."""
    query(libpq(server), "CREATE ROLE lowly")
    yield
    query(libpq(server), "DROP ROLE lowly")


@contextmanager
def role(server: URL, name: str, settings: Mapping[str, str], *, kind: str) -> Iterator[URL]:
    """The server, reached by a role that logs in with these settings."""
    with closing(psycopg2.connect(libpq(server))) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"CREATE ROLE {name} LOGIN {kind}")
        try:
            cursor.execute(set_for(f"ROLE {name}", settings))
            yield server.set(username=name)
        finally:
            cursor.execute(f"DROP ROLE {name}")


def cleanly(url: URL) -> str:
    """A URL by which a test looks into a database, whatever that sets."""
    return libpq(url.update_query_dict({"options": _CLEAN, "client_encoding": "UTF8"}))


def options(settings: Mapping[str, str]) -> str:
    """Settings as libpq's options."""
    return " ".join(f"-c{name}={value}".replace(" ", "\\ ") for name, value in settings.items())


def fill(source: SourceFile) -> None:
    """Rows whose every value a setting could spoil, and all clean."""
    source.add_family(contents=2)
    for at, title in enumerate(THAI, start=10):
        source.add(
            "learning_content",
            {
                "id": at,
                "title": title,
                "native_text": title + "\\x41 \\' é",
                "content_metadata": '{"คำ": [null, 1.10, "🎉\\\\"]}',
                "created_at": "2025-03-30 01:30:00.000001",
            },
        )
    blob = bytes(range(256))
    source.add("fragment_assets", {"id": 90, "asset_data": blob}, {"id": 91, "asset_data": b""})
    source.add("rankings", {"id": 90, "rank_score": 0.1}, {"id": 91, "rank_score": None})


def held(path: Path, url: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of both sides, read by drivers that state what they rely on themselves."""

    def plain(column: str, value: Any) -> Any:
        if value is None or column.endswith("id"):
            return value
        if column.endswith("_at"):
            return datetime.fromisoformat(value + "+00:00")
        if column in ("tags", "content_metadata", "fragment_metadata", "asset_metadata"):
            return json.loads(value)
        return Decimal(str(value)) if column == "rank_score" else value

    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    with (
        closing(sqlite3.connect(path)) as source,
        closing(psycopg2.connect(url)) as target,
        target.cursor() as cursor,
    ):
        cursor.execute(
            "SET client_encoding = 'UTF8'; SET TimeZone = 'UTC'; SET bytea_output = hex;"
        )
        cursor.execute("SET DateStyle = 'ISO'; SET extra_float_digits = 1; SET row_security = off")
        source.row_factory = sqlite3.Row
        for table in DEFAULTS:
            rows = [dict(row) for row in source.execute(f"SELECT * FROM {table}")]
            ours[table] = {
                row["id"]: {name: plain(name, value) for name, value in row.items()} for row in rows
            }
            cursor.execute(f"SELECT * FROM public.{table}")
            names = [column.name for column in cursor.description or ()]
            read = [dict(zip(names, values, strict=True)) for values in cursor]
            theirs[table] = {
                row["id"]: {
                    name: bytes(value) if isinstance(value, memoryview) else value
                    for name, value in row.items()
                }
                for row in read
            }
    return ours, theirs


def assert_same(path: Path, url: str) -> None:
    """Both sides hold the same rows, value by value, and none is in quarantine."""
    ours, theirs = held(path, url)
    assert theirs == ours
    assert query(url, "SELECT count(*) FROM migration.quarantine") == [(0,)]


@dataclass(frozen=True)
class Place:
    """A database that is reached with hostile settings.

    Attributes:
        url: how the code under test reaches it.
        clean: how a test looks into it.
        environment: variables beside the URL.
    """

    url: str
    clean: str
    environment: Mapping[str, str]


@pytest.fixture(scope="module")
def places(server: URL, dagster_tables: str, lowly: None) -> Iterator[dict[str, Place]]:
    """Databases of one server, each reached with hostile settings of another origin."""
    with (
        role(server, "hostile", HOSTILE, kind="SUPERUSER") as hostile,
        new_database(server, "plain", template=dagster_tables) as plain,
        new_database(server, "spoiled", template=dagster_tables) as spoiled,
    ):
        for url in (plain, spoiled):
            query(
                libpq(url),
                "CREATE ACCESS METHOD other_heap TYPE TABLE HANDLER heap_tableam_handler",
            )
        with closing(psycopg2.connect(libpq(server))) as connection, connection:
            connection.cursor().execute(set_for("DATABASE spoiled", HOSTILE))
        words = options(EARLY)
        named = {"client_encoding": "LATIN1", "options": words}
        environment = {
            "PGCLIENTENCODING": "LATIN1",
            "PGOPTIONS": words,
            "PGTZ": "Asia/Bangkok",
            "PGDATESTYLE": "SQL, DMY",
        }
        clean = cleanly(plain)
        yield {
            "role": Place(libpq(plain.set(username=hostile.username)), clean, {}),
            "database": Place(libpq(spoiled), cleanly(spoiled), {}),
            "url": Place(libpq(plain.update_query_dict(named)), clean, {}),
            "environment": Place(libpq(plain), clean, environment),
            "all of them": Place(
                libpq(spoiled.set(username=hostile.username).update_query_dict(named)),
                cleanly(spoiled),
                environment,
            ),
        }


@pytest.fixture(params=["role", "database", "url", "environment", "all of them"])
def place(
    request: pytest.FixtureRequest, places: dict[str, Place], monkeypatch: pytest.MonkeyPatch
) -> Place:
    """One of these databases, with its environment."""
    found = places[request.param]
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found
