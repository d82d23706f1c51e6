"""Small, realistic faults of the product, each with the tests that notice it.

``make planted`` plants them one by one in a copy of the project (see ``plant``); ``test_planted``
sees that the list fits the code. A fault that no test notices is a reason to write one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PlantedFault:
    """A fault that a change of the product could bring in.

    Attributes:
        name: what is wrong then.
        file: where it stands, from the top of the project.
        old: a text that occurs once in the file.
        new: what stands there instead.
        caught_by: tests that fail with it, as few and as fast as there are.
    """

    name: str
    file: str
    old: str
    new: str
    caught_by: tuple[str, ...]

    def planted(self, text: str) -> str:
        """The text of the file with the fault in it."""
        return text.replace(self.old, self.new)


FAULTS = (
    # A move: reading and converting.
    PlantedFault(
        name="the reader leaves out the first row of each batch",
        file="pipeline/move/reading/source_view.py",
        old='where, bounds = f"{key} BETWEEN ? AND ?"',
        new='where, bounds = f"{key} > ? AND {key} <= ?"',
        caught_by=("pipeline_tests/engine/test_move.py::test_a_family_moves_whole",),
    ),
    PlantedFault(
        name="commits in the write-ahead log of the source are not seen",
        file="pipeline/sqlite/snapshot.py",
        old='for path in (source, source.with_name(f"{source.name}-wal")):',
        new="for path in (source,):",
        caught_by=(
            "pipeline_tests/engine/test_schedules.py::test_the_sensor_sees_a_commit_that_is_in_the_write_ahead_log_alone",
        ),
    ),
    PlantedFault(
        name="halves are rounded to even",
        file="pipeline/mapping/casts/numbers.py",
        old='round_mode="half_towards_infinity"',
        new='round_mode="half_to_even"',
        caught_by=(
            "pipeline_tests/engine/test_types.py::test_a_float_is_rounded_as_postgresql_rounds_what_people_read",
        ),
    ),
    PlantedFault(
        name="a rejected row keeps only the reasons of the contract",
        file="pipeline/mapping/contract.py",
        old="if extra and not explained:",
        new="if extra and not reasons:",
        caught_by=(
            "pipeline_tests/engine/test_quarantine.py::test_a_row_that_shares_its_key_keeps_its_other_reasons",
        ),
    ),
    # A move: writing.
    PlantedFault(
        name="a batch is bisected down to two rows only",
        file="pipeline/move/writing/load.py",
        old="if batch.num_rows == 1:",
        new="if batch.num_rows <= 2:",
        caught_by=(
            "pipeline_tests/engine/test_moves_proof.py::test_a_row_that_only_postgresql_refuses_is_quarantined_alone",
        ),
    ),
    PlantedFault(
        name="one more row than the allowed share is deleted",
        file="pipeline/move/writing/deletes.py",
        old="if deletes > rows * context.options.delete_share:",
        new="if deletes > rows * context.options.delete_share + 1:",
        caught_by=(
            "pipeline_tests/engine/test_moves_merge.py::test_deletes_up_to_the_share_go_through_and_one_more_stops",
        ),
    ),
    PlantedFault(
        name="indexes are not built after the rows",
        file="pipeline/move/writing/strategies.py",
        old="    target.run(*schema.indexes(mapping, present))\n",
        new="",
        caught_by=(
            "pipeline_tests/engine/test_moves_schema.py::test_all_thirteen_named_indexes_are_there",
        ),
    ),
    PlantedFault(
        name="the sequence ignores ids in quarantine",
        file="pipeline/move/writing/sequences.py",
        old="(SELECT greatest($2,",
        new="(SELECT greatest($2 * 0,",
        caught_by=(
            "pipeline_tests/engine/test_moves_proof.py::test_ids_in_quarantine_are_not_given_out_again",
        ),
    ),
    PlantedFault(
        name="the sequence ignores ids of deleted rows",
        file="pipeline/move/reading/source_view.py",
        old="return max(found or 0, 0)",
        new="return 0",
        caught_by=(
            "pipeline_tests/golden/test_sequences.py::test_a_first_move_goes_on_where_the_source_stopped",
        ),
    ),
    PlantedFault(
        name="the check of sequences ignores ids of deleted rows",
        file="pipeline/move/proof/constraints.py",
        old="elif largest < upcoming <= assigned:",
        new="elif largest < upcoming < largest:",
        caught_by=(
            "pipeline_tests/golden/test_sequences.py::test_a_sequence_that_would_assign_deleted_ids_fails_its_check",
        ),
    ),
    PlantedFault(
        name="the table is not locked while it is written",
        file="pipeline/move/run/opening.py",
        old="schema.lock(target, mapping.name)",
        new="pass",
        caught_by=(
            "pipeline_tests/engine/test_relations.py::test_a_child_that_appears_while_a_move_waits_for_the_table_is_seen",
        ),
    ),
    PlantedFault(
        name="deferred triggers fire after the proof",
        file="pipeline/postgres/target.py",
        old='self.defer("SET CONSTRAINTS ALL IMMEDIATE")',
        new="pass",
        caught_by=(
            "pipeline_tests/engine/test_side_effects.py::test_what_a_deferred_trigger_changes_is_seen_by_the_proof",
        ),
    ),
    # A move: comparing and proving.
    PlantedFault(
        name="NULL equals any value",
        file="pipeline/move/compare/columns.py",
        old="differs = pc.or_(one_null, pc.fill_null(pc.not_equal(source, target), False))",
        new="differs = pc.fill_null(pc.not_equal(source, target), False)",
        caught_by=(
            "pipeline_tests/engine/test_moves_merge.py::test_null_and_the_empty_text_are_different",
        ),
    ),
    PlantedFault(
        name="any digest of a column proves it",
        file="pipeline/move/compare/tile_reader.py",
        old="if digest == stored.digests[name]",
        new="if stored.digests[name]",
        caught_by=(
            "pipeline_tests/engine/test_verify_scenarios.py::test_what_changed_in_the_target_is_found",
        ),
    ),
    PlantedFault(
        name="the digests of a range leave out the gap before it",
        file="pipeline/move/compare/tiles.py",
        old="_within(tile.mapping, tile.after, tile.part.last), tile.part.rows + 1",
        new="_within(tile.mapping, tile.part.first - 1, tile.part.last), tile.part.rows + 1",
        caught_by=(
            "pipeline_tests/engine/test_moves_merge.py::test_rows_that_only_the_target_has_are_deleted_wherever_they_are",
        ),
    ),
    PlantedFault(
        name="no digest tells of keys beyond the last range",
        file="pipeline/move/compare/tiles.py",
        old="return stored, beyond and bool(found[-1][0])",
        new="return stored, False",
        caught_by=(
            "pipeline_tests/engine/test_moves_merge.py::test_rows_that_only_the_target_has_are_deleted_wherever_they_are",
        ),
    ),
    PlantedFault(
        name="no digest proves a column of JSON",
        file="pipeline/move/compare/expected_tiles.py",
        old="        digests=tile.digests | digests,\n",
        new="        digests=tile.digests,\n",
        caught_by=(
            "pipeline_tests/engine/test_few_bytes.py::test_a_move_proves_its_rows_without_reading_them",
        ),
    ),
    PlantedFault(
        name="conservation allows lost rows",
        file="pipeline/move/ledger/conservation.py",
        old="passed = source_rows == moved",
        new="passed = source_rows >= moved",
        caught_by=(
            "pipeline_tests/engine/test_verify_scenarios.py::test_what_changed_in_the_target_is_found",
        ),
    ),
    # Quarantine and ledger.
    PlantedFault(
        name="quarantine keeps the old values of a row that changed",
        file="pipeline/move/ledger/quarantine.py",
        old="if before.get(row.row_id) == (row.fingerprint, row.key):",
        new="if row.row_id in before:",
        caught_by=(
            "pipeline_tests/engine/test_quarantine.py::test_a_row_that_changes_but_stays_rejected_is_replaced",
        ),
    ),
    PlantedFault(
        name="a watermark keeps the time of its first move",
        file="pipeline/move/ledger/watermarks.py",
        old="run_id = EXCLUDED.run_id, at = now()",
        new="run_id = EXCLUDED.run_id",
        caught_by=(
            "pipeline_tests/process/test_sync_faults.py::test_a_table_that_moved_before_its_parents_is_not_left_behind",
        ),
    ),
    # Sync and subset.
    PlantedFault(
        name="the log of changes misses deletes",
        file="pipeline/sqlite/catalog/change_log.py",
        old='            trigger("AFTER", "DELETE", f"OLD.{key}"),\n',
        new="",
        caught_by=(
            "pipeline_tests/unit/test_tracking.py::test_inserts_updates_and_deletes_are_logged",
        ),
    ),
    PlantedFault(
        name="a newer row of the target is overwritten",
        file="pipeline/move/ledger/conflicts.py",
        old="pc.greater(dates, differing.source)",
        new="pc.less(dates, differing.source)",
        caught_by=(
            "pipeline_tests/engine/test_sync_conflicts.py::test_a_row_that_the_target_changed_later_stays_and_is_told_of_each_time",
        ),
    ),
    PlantedFault(
        name="rows deleted with their parent do not come back",
        file="pipeline/move/ledger/cascades.py",
        old="lambda rows: [kind(key) for (key,) in rows]",
        new="lambda rows: [kind(key) for (key,) in rows[:0]]",
        caught_by=(
            "pipeline_tests/engine/test_spaces_moves.py::test_a_parent_that_goes_takes_its_sessions_along_and_they_come_back_with_it",
        ),
    ),
    PlantedFault(
        name="rows that refer to nothing belong to every subset",
        file="pipeline/move/run/scope.py",
        old="return f\"{' AND '.join(inside)} AND NOT ({nothing})\"",
        new="return f\"{' AND '.join(inside)} AND ({nothing} OR true)\"",
        caught_by=(
            "pipeline_tests/engine/test_subset.py::test_rows_without_a_parent_belong_to_no_subset",
        ),
    ),
    # Standing checks and secrets.
    PlantedFault(
        name="values in quarantine are not compared with the source",
        file="pipeline/move/proof/verification.py",
        old="if row_id not in overrides and not values <= kept.get(row_id, set())",
        new="if False",
        caught_by=(
            "pipeline_tests/engine/test_verify_scenarios.py::test_what_changed_in_the_target_is_found",
        ),
    ),
    PlantedFault(
        name="a message of PostgreSQL quotes a secret value",
        file="pipeline/mapping/secret.py",
        old="if quotation[1] not in known:",
        new="if False:",
        caught_by=(
            "pipeline_tests/engine/test_secret_values.py::test_what_postgresql_says_ends_before_it_quotes_a_value",
        ),
    ),
    PlantedFault(
        name="messages show the password of the UI",
        file="pipeline/config/settings.py",
        old="            self.ui.password,\n",
        new="",
        caught_by=(
            "pipeline_tests/process/test_secrets.py::test_the_secret_of_a_setting_is_taken_out_of_a_text",
        ),
    ),
    PlantedFault(
        name="a password that a URL escapes is shown as it is sent",
        file="pipeline/core/errors.py",
        old="for form in (secret, unquote(secret))",
        new="for form in (secret,)",
        caught_by=(
            "pipeline_tests/process/test_secrets.py::test_a_password_is_hidden_both_as_it_is_written_and_as_it_is_sent",
        ),
    ),
    # The witness.
    PlantedFault(
        name="the witness reports no missing rows",
        file="pipeline/move/witness/comparison.py",
        old="    yield from (Difference(key, None, True, False) for key in missing)\n",
        new="",
        caught_by=(
            "pipeline_tests/engine/test_witness.py::test_rows_that_are_missing_or_extra_are_named",
        ),
    ),
    # Cut-over and way back.
    PlantedFault(
        name="a failed cut-over leaves the source frozen",
        file="pipeline/cutover/steps.py",
        old="        _unfreeze_after_failure(context)\n",
        new="",
        caught_by=(
            "pipeline_tests/engine/test_cutover.py::test_a_failure_while_it_is_frozen_thaws_the_source",
        ),
    ),
    PlantedFault(
        name="a sign-off outlasts a change of its row",
        file="pipeline/cutover/sign_offs.py",
        old="(s.table_name, s.row_id, s.fingerprint) = (q.table_name, q.row_id, q.fingerprint)",
        new="(s.table_name, s.row_id) = (q.table_name, q.row_id)",
        caught_by=(
            "pipeline_tests/engine/test_cutover.py::test_a_row_in_quarantine_closes_the_gate_until_it_is_signed_off",
        ),
    ),
    PlantedFault(
        name="the way back drops triggers of the application",
        file="pipeline/cutover/replay.py",
        old="        yield\n        for _, sql in triggers:\n            connection.execute(sql)\n",
        new="        yield\n",
        caught_by=(
            "pipeline_tests/engine/test_cutover.py::test_the_applications_own_triggers_do_not_answer_to_the_way_back",
        ),
    ),
    # Backup and restore.
    PlantedFault(
        name="a restore compares only the number of rows",
        file="pipeline/backup/restore.py",
        old="if (rows, values) != (table.rows, table.digest):",
        new="if rows != table.rows:",
        caught_by=(
            "pipeline_tests/engine/test_side_effects.py::test_what_is_deferred_while_a_table_is_restored_comes_before_the_comparison",
        ),
    ),
    PlantedFault(
        name="a restore sets back the ids of another migration",
        file="pipeline/backup/restore.py",
        old="greatest(last_value, %s)",
        new="least(last_value, %s)",
        caught_by=(
            "pipeline_tests/process/test_migrations.py::test_a_backup_of_one_leaves_the_other_as_it_is",
        ),
    ),
    PlantedFault(
        name="the only restorable backup is removed",
        file="pipeline/backup/store.py",
        old="if safe and each.name != safe.name]",
        new="if safe]",
        caught_by=(
            "pipeline_tests/engine/test_backup_shelf.py::test_so_many_backups_stay_and_the_newest_that_is_restorable_in_any_case",
        ),
    ),
    # Doctor.
    PlantedFault(
        name="doctor ignores what the integrity check reports",
        file="pipeline/doctor/source.py",
        old="if checked:",
        new="if checked and skipped:",
        caught_by=(
            "pipeline_tests/engine/test_doctor.py::test_an_index_that_does_not_fit_its_table_is_found",
        ),
    ),
    PlantedFault(
        name="doctor exits with zero whatever it finds",
        file="pipeline/cli/commands/moves.py",
        old='any(diagnostic.state == "error" for diagnostic in found)',
        new="False",
        caught_by=(
            "pipeline_tests/engine/test_doctor.py::test_the_command_prints_what_it_found_and_fails_on_an_error",
        ),
    ),
    # Anki.
    PlantedFault(
        name="edits of the learner are overwritten",
        file="pipeline/anki/decisions.py",
        old="or options.force:",
        new="or True:",
        caught_by=(
            "pipeline_tests/engine/test_anki_sync.py::test_an_edited_field_is_the_learners_and_the_other_one_follows",
        ),
    ),
    # Services, search, vectors.
    PlantedFault(
        name="a percent sign in a search matches everything",
        file="pipeline/application/services/search.py",
        old='r"([\\\\%_])"',
        new='r"([\\\\_])"',
        caught_by=(
            "pipeline_tests/engine/test_services_search.py::test_texts_are_found_however_they_are_typed",
        ),
    ),
    # Realtime: database and client.
    PlantedFault(
        name="rows written by a move are published",
        file="pipeline/realtime/recording.py",
        old="""current_setting('{MOVING}', true) = 'on'""",
        new="""current_setting('{MOVING}', true) = 'moving'""",
        caught_by=(
            "pipeline_tests/engine/test_feed.py::test_nothing_is_told_of_what_a_move_writes",
        ),
    ),
    PlantedFault(
        name="rows deleted with a space that is off are published",
        file="pipeline/realtime/topics.py",
        old="IS DISTINCT FROM 'false'",
        new="IS DISTINCT FROM 'off'",
        caught_by=(
            "pipeline_tests/golden/test_realtime.py"
            "::test_every_row_is_published_once_where_it_was_and_where_it_is",
        ),
    ),
    PlantedFault(
        name="former members may join the channel of a space",
        file="pipeline/realtime/channels.py",
        old="AND m.status = 'active' AND",
        new="AND",
        caught_by=(
            "pipeline_tests/engine/test_channels.py::test_who_left_a_space_joins_it_no_more",
        ),
    ),
    PlantedFault(
        name="a token is renewed only when it has expired",
        file="pipeline/application/realtime/transports/tokens.py",
        old="max(left - self._ahead, left / 2, 1.0)",
        new="max(left, left / 2, 1.0)",
        caught_by=(
            "pipeline_tests/engine/test_realtime_supabase.py::test_a_token_is_used_until_a_minute_before_its_end_or_for_half_of_its_time",
        ),
    ),
    PlantedFault(
        name="a subscription does not give way to an equal one",
        file="pipeline/application/realtime/manager.py",
        old="PRIORITIES.get(name, 0) < least.priority",
        new="PRIORITIES.get(name, 0) <= least.priority",
        caught_by=(
            "pipeline_tests/engine/test_realtime_context.py::test_what_matters_least_and_was_silent_for_the_longest_time_makes_room",
        ),
    ),
    PlantedFault(
        name="changes of a transaction that was open are never read",
        file="pipeline/application/realtime/reader.py",
        old="(c.xid >= %(next)s::xid8 OR c.xid = ANY(%(unfinished)s::xid8[]))",
        new="(c.xid >= %(next)s::xid8)",
        caught_by=(
            "pipeline_tests/engine/test_realtime_reader.py::test_an_earlier_id_that_commits_later_is_read_once",
        ),
    ),
    # Alerts and ticks.
    PlantedFault(
        name="the sensor never starts a failed sync again",
        file="pipeline/orchestration/schedules.py",
        old="return time.time() - ended > _AGAIN_SECONDS",
        new="return False",
        caught_by=(
            "pipeline_tests/engine/test_schedules.py::test_the_sensor_starts_a_failed_sync_again_after_five_minutes",
        ),
    ),
    PlantedFault(
        name="a slow answer is awaited as long as it drips",
        file="pipeline/orchestration/alerts/delivery.py",
        old="socket.socket.shutdown(self._connection, socket.SHUT_RDWR)",
        new="self._connection.getsockname()",
        caught_by=(
            "pipeline_tests/golden/test_alerts.py"
            "::test_a_delivery_has_one_deadline_whatever_the_receiver_does",
        ),
    ),
    PlantedFault(
        name="an alert is never sent again",
        file="pipeline/orchestration/alerts/sensors.py",
        old="if due.tries >= TRIES:",
        new="if due.tries >= 1:",
        caught_by=(
            "pipeline_tests/engine/test_alerts.py::test_a_receiver_that_is_down_does_not_stop_the_other_and_is_tried_again_later",
        ),
    ),
    # Serving: health and web guard.
    PlantedFault(
        name="a daemon that never gave a sign is reported as well",
        file="pipeline/orchestration/serving/health.py",
        old="ages.get(name, HEARTBEAT_SECONDS) >= HEARTBEAT_SECONDS",
        new="ages.get(name, 0.0) >= HEARTBEAT_SECONDS",
        caught_by=(
            "pipeline_tests/engine/test_health.py::test_a_daemon_that_gives_no_sign_is_unwell",
        ),
    ),
    PlantedFault(
        name="the UI answers without X-Frame-Options",
        file="pipeline/orchestration/serving/web/headers.py",
        old='    "X-Frame-Options": "DENY",\n',
        new="",
        caught_by=(
            "pipeline_tests/unit/test_web_guard.py::test_every_answer_has_strict_headers_and_keeps_its_own_policy",
        ),
    ),
    # Settings, environment, embedded server.
    PlantedFault(
        name="a slash in a password is not escaped",
        file="pipeline/config/settings.py",
        old="quote(str(url.password), safe='')",
        new="quote(str(url.password), safe='/')",
        caught_by=(
            "pipeline_tests/unit/test_urls.py::test_a_password_is_read_as_it_was_meant_or_refused",
        ),
    ),
    PlantedFault(
        name="the embedded server is stopped while others use it",
        file="pipeline/postgres/embedded/server.py",
        old="        if not _used(data):\n",
        new="        if True:\n",
        caught_by=(
            "pipeline_tests/process/test_embedded.py::test_a_server_starts_on_demand_and_stops_with_its_last_user",
        ),
    ),
    # Sources: dump and replica.
    PlantedFault(
        name="an incomplete dump is accepted",
        file="pipeline/sqlite/sql_dump.py",
        old="    if execution.open is not None:\n",
        new="    if execution.open is None and execution.executed < 0:\n",
        caught_by=(
            "pipeline_tests/unit/test_dump.py::test_what_is_no_whole_dump_is_refused_with_its_line",
        ),
    ),
    PlantedFault(
        name="a dump may call any function",
        file="pipeline/sqlite/dump/execution.py",
        old="str(second).lower() not in _DENIED_FUNCTIONS",
        new="True",
        caught_by=("pipeline_tests/unit/test_dump.py::test_a_hostile_dump_reaches_nothing",),
    ),
    PlantedFault(
        name="a replica of another database is accepted",
        file="pipeline/sqlite/replica.py",
        old="int(now) < int(before)",
        new="int(now) < 0",
        caught_by=(
            "pipeline_tests/process/test_replica.py::test_another_database_at_the_same_place_is_fetched_anew",
        ),
    ),
    # Self-test, commands, report, evidence.
    PlantedFault(
        name="the self-test accepts false alarms",
        file="pipeline/selftest/outcome.py",
        old="return self.caught == self.expected",
        new="return self.caught >= self.expected",
        caught_by=(
            "pipeline_tests/engine/test_selftest.py::test_a_check_that_cries_wolf_is_noticed",
        ),
    ),
    PlantedFault(
        name="a step is never retried",
        file="pipeline/orchestration/common/retries.py",
        old="isinstance(error, Transient) and context.retry_number < RETRIES",
        new="isinstance(error, Transient) and context.retry_number > RETRIES",
        caught_by=(
            "pipeline_tests/process/test_sync_faults.py::test_a_run_whose_connection_is_cut_tries_again_by_itself",
        ),
    ),
    PlantedFault(
        name="a command succeeds although a check failed",
        file="pipeline/cli/commands/job_runs.py",
        old="if result.success and all(table.proven for table in found):",
        new="if result.success:",
        caught_by=(
            "pipeline_tests/process/test_realtime_commands.py::test_a_command_fails_if_a_check_failed_though_its_run_succeeded",
        ),
    ),
    PlantedFault(
        name="a table without any check counts as proven",
        file="pipeline/orchestration/common/report.py",
        old="return bool(self.checks) and not failed",
        new="return not failed",
        caught_by=(
            "pipeline_tests/process/test_cli.py::test_a_table_is_proven_by_checks_that_passed_and_not_by_their_absence",
        ),
    ),
    PlantedFault(
        name="tables that a run did not reach do not change its verdict",
        file="pipeline/orchestration/common/evidence.py",
        old="            and not self.missing\n",
        new="",
        caught_by=(
            "pipeline_tests/unit/test_evidence.py::test_a_table_that_was_planned_and_not_reached_takes_the_proof_away",
        ),
    ),
    PlantedFault(
        name="a table without results of checks counts as proven",
        file="pipeline/orchestration/assets/gate.py",
        old="any((t, name) not in found for name in BY_COMPARISON)",
        new="any((t, name) not in found for name in ())",
        caught_by=(
            "pipeline_tests/engine/test_check_results.py::test_a_check_without_a_result_closes_the_gate",
        ),
    ),
    PlantedFault(
        name="the results of a proof that was rolled back are lost with it",
        file="pipeline/orchestration/assets/table_move.py",
        old="            _record_failure(context, table, error, target)\n",
        new="",
        caught_by=(
            "pipeline_tests/engine/test_check_results.py::test_the_gate_goes_by_the_newest_proof_even_if_it_was_rolled_back",
        ),
    ),
    # A copy of any database.
    PlantedFault(
        name="the last tile of a copied table is not compared",
        file="pipeline/copy/moving/proving.py",
        old="if batch is None or expected is None or not count:",
        new="if batch is None or expected is None or not count or tile.upto is None:",
        caught_by=(
            "pipeline_tests/engine/test_copy_runs.py::test_a_value_that_changes_on_the_way_is_named_and_rolled_back",
        ),
    ),
    PlantedFault(
        name="the stage of a second copy is compared with itself",
        file="pipeline/copy/moving/difference.py",
        old="_hash(target, table, table.place, _THERE)",
        new="_hash(target, table, _STAGE, _THERE)",
        caught_by=(
            "pipeline_tests/engine/test_copy_again.py::test_equal_rows_without_a_key_are_counted",
        ),
    ),
    PlantedFault(
        name="the first rejected row of a copied table is not kept",
        file="pipeline/copy/target/recording.py",
        old="for number in sorted(rejected):",
        new="for number in sorted(rejected)[1:]:",
        caught_by=(
            "pipeline_tests/engine/test_copy_tables.py::test_rows_that_no_type_takes_can_be_rebuilt_from_quarantine",
        ),
    ),
    PlantedFault(
        name="a new session of a copy does not take the lock again",
        file="pipeline/copy/sessions.py",
        old="if self._place is None:",
        new="if True:",
        caught_by=(
            "pipeline_tests/engine/test_copy_runs.py::test_a_run_ends_if_another_one_has_taken_its_place",
        ),
    ),
    PlantedFault(
        name="the sequence of a copied table stays behind new ids",
        file="pipeline/copy/target/keys.py",
        old="s.seqstart - 1) < {last_id}",
        new="s.seqstart - 1) < -{last_id}",
        caught_by=("pipeline_tests/engine/test_copy_again.py::test_new_ids_advance_the_sequence",),
    ),
    PlantedFault(
        name="foreign keys of a copied circle stay while rows are inserted",
        file="pipeline/copy/moving/difference.py",
        old="if extra or in_circle:",
        new="if extra:",
        caught_by=(
            "pipeline_tests/engine/test_copy_again.py::test_rows_of_a_circle_change_together",
        ),
    ),
    PlantedFault(
        name="equal rows of a copied table count as one",
        file="pipeline/copy/moving/difference.py",
        old="(b.hash, b.n) = (a.hash, a.n))",
        new="b.hash = a.hash)",
        caught_by=(
            "pipeline_tests/engine/test_copy_again.py::test_equal_rows_without_a_key_are_counted",
        ),
    ),
    PlantedFault(
        name="a copied table whose names cannot be read is not named",
        file="pipeline/copy/plan.py",
        old="    names = sorted(source.schema.unreadable_tables)",
        new="    names: list[str] = []",
        caught_by=(
            "pipeline_tests/engine/test_copy_tables.py::test_a_table_with_names_that_are_not_utf8_counts_as_left_behind",
        ),
    ),
)
