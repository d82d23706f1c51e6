"""Files of fragments: what they are is looked at, and large ones pass in pieces."""

import tracemalloc
from collections.abc import Iterator
from itertools import chain
from typing import get_args

import pytest
import sqlalchemy as sa

from pipeline.application.errors import NotFound, Refused
from pipeline.application.models import AssetType
from pipeline.application.services import assets
from pipeline.migrations.content import fragment_assets
from pipeline_tests.support.services import MP3, Door

MIB = 1 << 20
PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)
FILES = {
    "mp3 with a tag": (MP3, {"audio"}),
    "mp3 without": (b"\xff\xf3\x84\xc4" + bytes(40), {"audio"}),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), {"audio"}),
    "png": (PNG, {"image"}),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(40), {"image"}),
    "avi": (b"RIFF\x24\0\0\0AVI LIST" + bytes(40), {"video"}),
    "mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(40), {"audio", "video"}),
    "m4a": (b"\0\0\0\x18ftypM4A \0\0\2\0isommp42" + bytes(40), {"audio", "video"}),
    "ogg": (b"OggS\0\2" + bytes(60), {"audio", "video"}),
    "webm": (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm" + bytes(40), {"audio", "video"}),
    "pdf": (b"%PDF-1.7\n" + bytes(40), set()),
    "zip": (b"PK\x03\x04" + bytes(40), set()),
    "text": ("สวัสดี".encode(), set()),
    "nothing": (b"", set()),
}


@pytest.fixture
def fragment(door: Door) -> int:
    return door.add_fragment(door.add_content())


def large(mib: int) -> Iterator[bytes]:
    """An MP3 whose every MiB is another, in pieces that fit no block."""
    whole = MP3.ljust(MIB, b"\0")
    for number in range(mib):
        yield whole[:300_000]
        yield b""
        yield whole[300_000:-1] + bytes([number % 256])


def test_a_file_is_read_as_it_was_stored(door: Door, fragment: int) -> None:
    number = door.assets.store_asset(fragment, MP3, "audio", {"voice": "ก"}, "system")
    assert door.assets.get_asset_data(number) == MP3
    met = door.assets.get(number)
    assert (met.fragment_id, met.asset_type, met.size) == (fragment, "audio", len(MP3))
    assert (met.asset_metadata, met.created_by) == ({"voice": "ก"}, "system")
    bare = door.assets.get(door.assets.store_asset(fragment, PNG, "image"))
    assert (bare.asset_metadata, bare.created_by) == (None, None)
    assert door.postgres("SELECT count(*) FROM fragment_assets WHERE asset_metadata IS NULL") == [
        (1,)
    ]


def test_what_a_file_looks_like_decides_what_it_may_be(door: Door, fragment: int) -> None:
    taken: dict[str, set[str]] = {name: set() for name in FILES}
    for name, (data, _) in FILES.items():
        for kind in ("audio", "image", "video"):
            try:
                door.assets.store_asset(fragment, data, kind)
            except Refused:
                continue
            taken[name].add(kind)
    assert taken == {name: kinds for name, (_, kinds) in FILES.items()}
    stored = sum(len(kinds) for kinds in taken.values())
    assert door.assets.list(fragment).total == stored


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (PNG, "audio", "The file is image/png, not audio"),
        (b"hello", "image", "begins with 68 65 6c 6c 6f, which is no known file format"),
        (b"", "audio", "The file is empty"),
        (MP3, "document", "asset_type: Input should be 'audio', 'image' or 'video'"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_words(
    door: Door, fragment: int, data: bytes, kind: str, message: str
) -> None:
    with pytest.raises(Refused, match=message):
        door.assets.store_asset(fragment, data, kind)


def test_the_kinds_are_those_that_the_table_takes() -> None:
    (rule,) = (c for c in fragment_assets.constraints if isinstance(c, sa.CheckConstraint))
    text = str(rule.sqltext.compile(compile_kwargs={"literal_binds": True}))
    assert text.endswith(f"IN {get_args(AssetType)}")


def test_what_is_told_of_a_file_is_checked(door: Door, fragment: int) -> None:
    with pytest.raises(Refused, match=r"asset_metadata.* NUL character"):
        door.assets.store_asset(fragment, MP3, "audio", {"a": "\0"})
    with pytest.raises(Refused, match=r"created_by.* at most 100"):
        door.assets.store_asset(fragment, MP3, "audio", created_by="x" * 101)
    with pytest.raises(NotFound, match="content_fragments has no row 99"):
        door.assets.store_asset(99, MP3, "audio")
    assert door.assets.list(fragment).total == 0


def test_a_large_file_passes_in_pieces_and_stays_what_it_was(door: Door, fragment: int) -> None:
    number = door.assets.store_stream(fragment, large(4), "audio")
    whole = b"".join(large(4))
    assert door.assets.get(number).size == 4 * MIB
    assert door.assets.get_asset_data(number) == whole
    pieces = list(door.assets.stream_asset(number, chunk_bytes=1_500_000))
    assert [len(piece) for piece in pieces] == [1_500_000, 1_500_000, 4 * MIB - 3_000_000]
    assert b"".join(pieces) == whole


def test_pieces_that_end_where_the_file_does_are_not_followed_by_an_empty_one(
    door: Door, fragment: int
) -> None:
    number = door.assets.store_asset(fragment, MP3, "audio")
    half = len(MP3) // 2
    assert list(door.assets.stream_asset(number, chunk_bytes=half)) == [MP3[:half], MP3[half:]]
    assert list(door.assets.stream_asset(number, chunk_bytes=len(MP3))) == [MP3]


def test_streaming_needs_memory_for_pieces_not_for_the_file(door: Door, fragment: int) -> None:
    tracemalloc.start()
    try:
        number = door.assets.store_stream(fragment, large(24), "audio")
        for piece in door.assets.stream_asset(number):
            del piece
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * MIB


def test_a_file_stays_the_same_while_it_is_read(door: Door, fragment: int) -> None:
    number = door.assets.store_stream(fragment, large(3), "audio")
    reading = door.assets.stream_asset(number)
    first = next(reading)
    door.assets.replace_asset(number, MP3)
    assert first + b"".join(reading) == b"".join(large(3))
    assert door.assets.get_asset_data(number) == MP3


def test_an_abandoned_reading_gives_its_connection_back(door: Door, fragment: int) -> None:
    number = door.assets.store_stream(fragment, large(2), "audio")
    for _ in range(20):
        next(door.assets.stream_asset(number))
    assert door.assets.get(number).size == 2 * MIB


def test_replacing_makes_a_file_anew_and_leaves_the_rest(door: Door, fragment: int) -> None:
    number = door.assets.store_asset(fragment, MP3, "audio", {"a": 1}, "system")
    before = door.assets.get(number)
    door.assets.replace_asset(number, MP3 + b"more")
    after = door.assets.get(number)
    assert door.assets.get_asset_data(number) == MP3 + b"more"
    changed = {"size": len(MP3) + 4, "created_at": after.created_at}
    assert after.model_dump() == {**before.model_dump(), **changed}
    assert after.created_at is not None and before.created_at is not None
    assert after.created_at > before.created_at


def test_what_replaces_a_file_must_be_of_its_kind(door: Door, fragment: int) -> None:
    number = door.assets.store_asset(fragment, MP3, "audio")
    with pytest.raises(Refused, match="The file is image/png, not audio"):
        door.assets.replace_asset(number, PNG)
    with pytest.raises(NotFound, match="fragment_assets has no row 99"):
        door.assets.replace_asset(99, MP3)
    assert door.assets.get_asset_data(number) == MP3
    picture = door.assets.store_asset(fragment, PNG, "image")
    door.assets.replace_asset(picture, PNG + b"more")
    assert door.assets.get_asset_data(picture) == PNG + b"more"


def test_more_than_a_row_can_hold_is_refused_and_leaves_nothing(
    door: Door, fragment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "MAX_BYTES", 2 * MIB)
    door.assets.store_stream(fragment, large(2), "audio")
    with pytest.raises(Refused, match="more than 2097152 bytes, the limit of a row"):
        door.assets.store_stream(fragment, chain(large(2), [b"x"]), "audio")
    assert door.assets.list(fragment).total == 1


def test_what_breaks_off_leaves_nothing(door: Door, fragment: int) -> None:
    def broken() -> Iterator[bytes]:
        yield from large(3)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="the disk went away"):
        door.assets.store_stream(fragment, broken(), "audio")
    assert door.assets.list(fragment).total == 0


def test_files_are_listed_of_a_fragment_and_of_a_kind(door: Door, fragment: int) -> None:
    other = door.add_fragment(door.add_content())
    one = door.assets.store_asset(fragment, MP3, "audio")
    two = door.assets.store_asset(fragment, PNG, "image")
    door.assets.store_asset(other, MP3, "audio")
    assert [a.id for a in door.assets.list(fragment).items] == [one, two]
    assert [a.id for a in door.assets.list(fragment, asset_type="image").items] == [two]
    door.assets.delete(one)
    assert [a.id for a in door.assets.list(fragment).items] == [two]


def test_a_file_that_is_not_there_is_named(door: Door) -> None:
    for call in (
        lambda: door.assets.get(9),
        lambda: door.assets.get_asset_data(9),
        lambda: door.assets.delete(9),
    ):
        with pytest.raises(NotFound, match="fragment_assets has no row 9"):
            call()


def test_pieces_without_a_size_are_refused(door: Door, fragment: int) -> None:
    number = door.assets.store_asset(fragment, MP3, "audio")
    for size in (0, -1, (1 << 28) + 1):
        with pytest.raises(Refused, match="A chunk cannot have"):
            next(door.assets.stream_asset(number, chunk_bytes=size))
