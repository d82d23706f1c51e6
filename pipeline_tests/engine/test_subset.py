"""A subset of contents moves with all that belongs to it; the rest stays as it is on both sides."""

from pathlib import Path

import pytest

from pipeline.core.errors import ScopeError, SettingsError, ShapeError, TooManyDeletes
from pipeline.move.run.scope import Subset
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.subsets import assert_as_in_source, belonging, counts, ids, move_subset
from pipeline_tests.support.syncs import (
    LATER,
    LATEST,
    NAMES,
    TABLES,
    assert_sides_agree,
    begin,
    conflicts,
    everything,
    plain_key_source,
    reason_for_a_whole_move,
    touched,
    versions,
)
from pipeline_tests.support.targets import query, reasons

PART = "only a subset of learning_content has been moved"


def test_named_contents_move_with_all_that_belongs_to_them(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=4)
    moves = move_subset(source, target_url, 3, 1, 3)
    assert counts(moves) == {
        "learning_content": (4, 2, 0, 2),
        "content_fragments": (8, 4, 0, 4),
        "fragment_assets": (8, 4, 0, 4),
        "rankings": (16, 8, 0, 8),
    }
    assert {move.strategy for move in moves.values()} == {"subset"}
    assert_as_in_source(source, target_url, belonging(source, 1, 3))


def test_the_first_contents_move_by_key(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=3)
    source.run("UPDATE learning_content SET id = 100 WHERE id = 1")
    assert counts(move_subset(source, target_url, limit=1))["rankings"] == (12, 4, 0, 8)
    assert_as_in_source(source, target_url, belonging(source, 2))
    before = source.path.read_bytes()
    assert counts(move_subset(source, target_url, limit=10**30))["rankings"] == (12, 8, 0, 4)
    assert_as_in_source(source, target_url, belonging(source, 2, 3, 100))
    assert source.path.read_bytes() == before


def test_an_empty_source_has_an_empty_subset(source: SourceFile, target_url: str) -> None:
    assert counts(move_subset(source, target_url, limit=1)) == dict.fromkeys(NAMES, (0, 0, 0, 0))


def test_two_subsets_one_after_the_other_leave_both_in_the_target(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=3)
    move_subset(source, target_url, 1)
    before = versions(target_url, "rankings")
    moves = move_subset(source, target_url, 3)
    assert counts(moves)["rankings"] == (12, 4, 0, 8)
    assert before.items() <= versions(target_url, "rankings").items()
    assert_as_in_source(source, target_url, belonging(source, 1, 3))
    before = everything(target_url)
    moves = move_subset(source, target_url, 3, 1)
    assert [(move.written_rows, move.deleted_rows) for move in moves.values()] == [(0, 0)] * 4
    after = everything(target_url)
    assert {**after, "migration.watermarks": []} == {**before, "migration.watermarks": []}


def test_a_ranking_that_leads_out_of_the_subset_is_excluded(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    source.add("rankings", {"id": 90, "fragment_id": 1, "asset_id": 3})
    source.add("rankings", {"id": 91, "fragment_id": None, "asset_id": 1})
    source.add("rankings", {"id": 92, "fragment_id": None, "asset_id": None})
    moves = move_subset(source, target_url, 1)
    assert counts(moves)["rankings"] == (11, 5, 0, 6)
    assert ids(target_url)["rankings"] == {1, 2, 3, 4, 91}
    move_subset(source, target_url, 1, 2)
    assert 90 in ids(target_url)["rankings"]


def test_rows_without_a_parent_belong_to_no_subset(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=1)
    source.add("content_fragments", {"id": 9, "learning_content_id": 77})
    source.add("fragment_assets", {"id": 9, "fragment_id": 9})
    source.add("rankings", {"id": 9, "fragment_id": 1, "asset_id": 77})
    source.add("rankings", {"id": 10, "fragment_id": None, "asset_id": None})
    moves = move_subset(source, target_url, limit=5)
    assert counts(moves) == {
        "learning_content": (1, 1, 0, 0),
        "content_fragments": (3, 2, 0, 1),
        "fragment_assets": (3, 2, 0, 1),
        "rankings": (6, 4, 0, 2),
    }
    move_all(source.path, target_url)
    assert reasons(target_url, "content_fragments").keys() == {"9"}


def test_rejected_rows_and_those_held_with_them_are_in_quarantine(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=3)
    source.run("UPDATE learning_content SET title = ? WHERE id IN (2, 3)", ["x" * 201])
    source.run("UPDATE fragment_assets SET asset_type = 'scent' WHERE id = 1")
    moves = move_subset(source, target_url, 1, 2)
    assert counts(moves) == {
        "learning_content": (3, 1, 1, 1),
        "content_fragments": (6, 2, 2, 2),
        "fragment_assets": (6, 1, 3, 2),
        "rankings": (12, 3, 5, 4),
    }
    assert reasons(target_url, "learning_content").keys() == {"2"}
    assert reasons(target_url, "content_fragments") == {"3": {"held"}, "4": {"held"}}


def test_quarantine_of_earlier_moves_stays_beyond_the_subset_and_is_settled_within(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    source.run("UPDATE fragment_assets SET asset_type = 'scent' WHERE id IN (1, 3)")
    move_all(source.path, target_url)
    assert reasons(target_url, "fragment_assets").keys() == {"1", "3"}
    source.run("UPDATE fragment_assets SET asset_type = 'audio' WHERE id IN (1, 3)")
    moves = move_subset(source, target_url, 1)
    assert counts(moves)["fragment_assets"] == (4, 2, 0, 2)
    assert reasons(target_url, "fragment_assets").keys() == {"3"}
    assert reasons(target_url, "rankings").keys() == {"6"}
    move_all(source.path, target_url)
    assert_sides_agree(source, target_url)
    assert not reasons(target_url, "fragment_assets")


def test_in_a_full_target_only_the_subset_follows_changes_and_deletes(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=3)
    move_all(source.path, target_url)
    source.run("UPDATE learning_content SET title = 'new', updated_at = ?", [LATER])
    source.run("DELETE FROM rankings WHERE id IN (2, 6)")
    source.run("DELETE FROM rankings WHERE fragment_id = 2")
    source.run("DELETE FROM fragment_assets WHERE id = 2")
    source.run("DELETE FROM content_fragments WHERE id = 2")
    before = {name: versions(target_url, name) for name in NAMES}
    moves = move_subset(source, target_url, 1)
    assert counts(moves) == {
        "learning_content": (3, 1, 0, 2),
        "content_fragments": (5, 1, 0, 4),
        "fragment_assets": (5, 1, 0, 4),
        "rankings": (8, 1, 0, 7),
    }
    changed = {name: touched(before[name], versions(target_url, name)) for name in NAMES}
    assert changed == {
        "learning_content": {1},
        "content_fragments": {2},
        "fragment_assets": {2},
        "rankings": {2, 3, 4},
    }
    move_all(source.path, target_url)
    assert_sides_agree(source, target_url)


def test_a_row_beyond_the_subset_that_goes_with_a_parent_is_held(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    source.add("rankings", {"id": 50, "fragment_id": 1, "asset_id": 3})
    move_all(source.path, target_url)
    source.run("UPDATE content_fragments SET fragment_type = ? WHERE id = 1", ["x" * 51])
    assert counts(move_subset(source, target_url, 1))["rankings"] == (9, 2, 3, 4)
    assert_sides_agree(source, target_url)


def test_a_row_that_went_to_another_content_goes_there_with_what_belongs_to_it(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    move_all(source.path, target_url)
    source.run("UPDATE content_fragments SET learning_content_id = 2 WHERE id = 1")
    source.add("fragment_assets", {"id": 50, "fragment_id": 1})
    moves = move_subset(source, target_url, 1)
    assert counts(moves)["content_fragments"] == (4, 2, 0, 2)
    assert_sides_agree(source, target_url)


def test_a_row_that_went_to_a_content_the_target_lacks_is_held(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    move_subset(source, target_url, 1)
    source.run("UPDATE content_fragments SET learning_content_id = 2 WHERE id = 1")
    moves = move_subset(source, target_url, 1)
    assert counts(moves)["content_fragments"] == (4, 1, 1, 2)
    assert reasons(target_url, "content_fragments") == {"1": {"held"}}
    move_all(source.path, target_url)
    assert_sides_agree(source, target_url)
    assert not reasons(target_url, "content_fragments")


def test_rows_that_the_application_wrote_beyond_the_subset_are_not_touched(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    move_all(source.path, target_url)
    query(
        target_url,
        "INSERT INTO learning_content SELECT 70, title, content_type, language,"
        " native_text, translation, ipa FROM learning_content WHERE id = 1",
    )
    query(
        target_url,
        "INSERT INTO content_fragments (id, native_text, body_text, fragment_type,"
        " learning_content_id) VALUES (70, 'a', 'b', 'c', 70), (71, 'a', 'b', 'c', 2),"
        " (72, 'a', 'b', 'c', 1)",
    )
    query(target_url, "UPDATE learning_content SET title = 'mine' WHERE id = 2")
    before = {name: versions(target_url, name) for name in NAMES}
    move_subset(source, target_url, 1)
    changed = {name: touched(before[name], versions(target_url, name)) for name in NAMES}
    assert changed == {name: {72} if name == "content_fragments" else set() for name in NAMES}


def test_a_newer_row_of_the_target_is_kept_and_conflicts_beyond_the_subset_stay_known(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=3)
    move_all(source.path, target_url)
    query(target_url, "UPDATE learning_content SET title = 'mine', updated_at = %s", [LATEST])
    source.run("UPDATE learning_content SET title = 'theirs', updated_at = ?", [LATER])
    sync_all(source.path, target_url)
    assert {key for _, key, *_ in conflicts(target_url)} == {"1", "2", "3"}
    query(
        target_url,
        "UPDATE learning_content SET title = 'theirs', updated_at = %s WHERE id = 1",
        [LATER],
    )
    move_subset(source, target_url, 1, 2)
    assert {key for _, key, *_ in conflicts(target_url)} == {"2", "3"}
    move_all(source.path, target_url)
    assert query(target_url, "SELECT id FROM learning_content WHERE title = 'mine' ORDER BY 1") == [
        (2,),
        (3,),
    ]


def test_a_first_subset_is_completed_and_what_the_application_changed_meanwhile_is_kept(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    move_subset(source, target_url, 1)
    assert reason_for_a_whole_move(source.path, target_url) == PART
    query(target_url, "UPDATE learning_content SET title = 'mine', updated_at = %s", [LATEST])
    move_all(source.path, target_url)
    assert query(target_url, "SELECT title FROM learning_content ORDER BY id") == [
        ("mine",),
        ("word 2",),
    ]
    assert ids(target_url) == belonging(source, 1, 2)
    assert reason_for_a_whole_move(source.path, target_url) is None


def test_a_whole_move_completes_a_subset_and_then_a_sync_is_enough(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=3)
    source.run("UPDATE content_fragments SET native_text = ? WHERE id = 1", [b"\xff"])
    begin(source, target_url, mode)
    assert reason_for_a_whole_move(source.path, target_url) is None
    move_subset(source, target_url, 1)
    assert reason_for_a_whole_move(source.path, target_url) == PART
    moves = move_all(source.path, target_url)
    assert {move.written_rows for move in moves.values()} == {0}
    assert_sides_agree(source, target_url)
    assert reason_for_a_whole_move(source.path, target_url) is None
    source.run("UPDATE rankings SET rank_score = 1, updated_at = ? WHERE id = 9", [LATER])
    assert sync_all(source.path, target_url)["rankings"].written_rows == 1
    assert_sides_agree(source, target_url)


def test_new_ids_go_on_behind_those_that_were_left_out(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=3)
    move_subset(source, target_url, 1)
    asked = "SELECT nextval(pg_get_serial_sequence(%s, 'id'))"
    assert [query(target_url, asked, [name]) for name in NAMES] == [[(4,)], [(7,)], [(7,)], [(13,)]]


def test_keys_that_occur_twice_are_rejected_though_one_row_alone_belongs(
    tmp_path: Path, target_url: str
) -> None:
    source = plain_key_source(tmp_path / "plain.db")
    source.add_family(contents=2)
    source.add("content_fragments", {"id": 1, "learning_content_id": 2})
    source.add("content_fragments", {"id": None, "learning_content_id": 1})
    source.add("content_fragments", {"id": "x", "learning_content_id": 2})
    moves = move_subset(source, target_url, 1)
    assert counts(moves)["content_fragments"] == (7, 1, 3, 3)
    assert ids(target_url)["content_fragments"] == {2}
    move_all(source.path, target_url)
    assert_sides_agree(source, target_url)


def test_ids_that_the_source_lacks_are_named_before_anything_moves(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    huge = 10**20
    with pytest.raises(ScopeError, match=f"has no row 7, {huge}, 3\\."):
        move_subset(source, target_url, 1, 7, huge, 3)
    assert query(target_url, "SELECT to_regclass('learning_content')") == [(None,)]


def test_more_rows_than_memory_holds_are_refused_before_anything_moves(
    source: SourceFile, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add_family(contents=3)
    monkeypatch.setattr("pipeline.move.run.sync.MANY_ROWS", 4)
    move_subset(source, target_url, limit=1)
    before = everything(target_url)
    with pytest.raises(ScopeError, match="more than 4 rows of rankings"):
        move_subset(source, target_url, 1, 2)
    assert everything(target_url) == before


def test_a_subset_that_would_delete_too_much_changes_nothing(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    move_all(source.path, target_url)
    source.run("DELETE FROM content_fragments WHERE id = 1")
    source.run("DELETE FROM content_fragments WHERE id = 2")
    before = ids(target_url)
    with pytest.raises(TooManyDeletes, match="at least 2 of 4 rows"):
        move_subset(source, target_url, 1, delete_share=0.25)
    assert ids(target_url) == before


def test_a_target_of_another_shape_is_told_before_anything_moves(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=1)
    query(target_url, "CREATE TABLE rankings (id TEXT)")
    with pytest.raises(ShapeError, match="rankings"):
        move_subset(source, target_url, 1)
    assert query(target_url, "SELECT to_regclass('learning_content')") == [(None,)]


def test_a_table_alone_moves_its_part_when_its_parents_are_there(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    move_subset(source, target_url, 1)
    source.add("rankings", {"id": 80, "fragment_id": 1})
    (moved,) = move_subset(source, target_url, 1, tables=TABLES[-1:]).values()
    assert (moved.written_rows, moved.excluded_rows) == (1, 4)


def test_mended_values_are_used_within_a_subset(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=2)
    source.run("UPDATE fragment_assets SET asset_type = 'scent' WHERE id IN (1, 3)")
    move_all(source.path, target_url)
    for row_id in ("1", "3"):
        query(
            target_url,
            "INSERT INTO migration.overrides VALUES ('fragment_assets', %s, 'asset_type',"
            " 'text', 'scent', 'text', 'audio')",
            [row_id],
        )
    moves = move_subset(source, target_url, 1)
    assert counts(moves)["fragment_assets"] == (4, 3, 0, 1)
    assert reasons(target_url, "fragment_assets") == {}


@pytest.mark.parametrize(
    ("keys", "limit", "said"),
    [([1], 1, "both ids and a limit"), ([], 0, "cannot be 0"), ([], -1, "cannot be -1")],
)
def test_what_cannot_be_meant_is_refused(keys: list[int], limit: int, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Subset.of(keys, limit)
    assert Subset.of([], None) is None
