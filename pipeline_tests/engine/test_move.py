"""A move makes the target equal to the source, and twice is as good as once."""

from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query


def test_a_family_moves_whole(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=3)
    moves = move_all(source.path, target_url)
    assert {name: (m.strategy, m.moved_rows, m.quarantined_rows) for name, m in moves.items()} == {
        "learning_content": ("filled", 3, 0),
        "content_fragments": ("filled", 6, 0),
        "fragment_assets": ("filled", 6, 0),
        "rankings": ("filled", 12, 0),
    }
    assert (
        query(target_url, "SELECT id, asset_data FROM fragment_assets WHERE id = 4")[0][1].tobytes()
        == bytes([4]) * 100
    )


def test_moving_twice_changes_nothing(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=3)
    move_all(source.path, target_url)
    before = query(target_url, "SELECT ctid::text, xmin::text, id FROM rankings ORDER BY id")
    moves = move_all(source.path, target_url)
    assert {m.strategy for m in moves.values()} == {"unchanged"}
    assert (
        query(target_url, "SELECT ctid::text, xmin::text, id FROM rankings ORDER BY id") == before
    )
