"""Search: Thai without spaces, IPA without accents, with an index and without one."""

from contextlib import closing
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from pipeline.application.errors import Refused
from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.services import search
from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError
from pipeline.migrations.content import content_fragments, learning_content
from pipeline_tests.support.services import Door

FILL = (
    "INSERT INTO learning_content (title, content_type, native_text, translation, ipa) SELECT"
    " 'word ' || n, 'vocabulary', 'คำ' || md5(n::text), 'a word', '[kham' || md5(n::text) || ']'"
    " FROM generate_series(1, 5000) n"
)


def found(door: Door, text: str) -> list[str]:
    return [item.title for item in door.contents.search(text).items]


@pytest.fixture(params=["without an index", "with an index"])
def words(door: Door, request: pytest.FixtureRequest) -> Door:
    """Four words."""
    if request.param == "with an index":
        with door.databases.get_postgres_session() as session:
            search.install(session)
    for title, native, translation, ipa in (
        ("tomorrow", "พรุ่งนี้", "Tomorrow, at 5 o'clock", "[pʰrûŋ.níː]"),
        ("buy", "ซื้อ", "to buy 100%", "[sɯ́ː]"),
        ("understand", "เข้าใจ", "to under_stand", "[kʰâw.t͡ɕaj]"),
        ("water", "น้ำ", "wa\\ter", "[náːm]"),
    ):
        door.add_content(title=title, native_text=native, translation=translation, ipa=ipa)
    return door


TYPED = {
    "รุ่งนี้": ["tomorrow"],
    "ซื้อ": ["buy"],
    "น้ำ": ["water"],
    "น้ํา": ["water"],
    "phrunni": ["tomorrow"],
    "pʰrûŋ": ["tomorrow"],
    "[pʰrûŋ.níː]": ["tomorrow"],
    "khaw": ["understand"],
    "tcaj": ["understand"],
    "su": ["buy"],
    "NAAM": [],
    "nam": ["water"],
    "TOMORROW": ["tomorrow"],
    "o'clock tomorrow": ["tomorrow"],
    "tomorrow buy": [],
    "100%": ["buy"],
    "100％": ["buy"],
    "1%0": [],
    "r_s": ["understand"],
    "b_y": [],
    "a\\t": ["water"],
    "\\": ["water"],
    "%": ["buy"],
    "ไม่มี": [],
    "🙏": [],
}


def test_texts_are_found_however_they_are_typed(words: Door) -> None:
    assert {text: found(words, text) for text in TYPED} == TYPED


def test_a_word_of_the_query_may_stand_in_any_column(words: Door) -> None:
    assert found(words, "ซื้อ buy su") == ["buy"]


def test_words_do_not_reach_from_one_column_into_the_next(words: Door) -> None:
    assert found(words, "buyซื้อ") == []


def test_the_shortest_comes_first_then_the_oldest(door: Door) -> None:
    numbers = [door.add_content(translation=text) for text in ("abc def", "abc", "abc d", "abc")]
    met = door.contents.search("abc", limit=3)
    assert [item.id for item in met.items] == [numbers[1], numbers[3], numbers[2]]
    assert met.total == 4


def test_fragments_are_found_in_all_their_texts_and_null_hides_nothing(door: Door) -> None:
    content = door.add_content()
    bare = door.add_fragment(content, native_text="ดื่ม", body_text="Drink!")
    whole = door.add_fragment(content, body_text="x", ipa="dɯ̀ːm", extra="Topic: food")
    for text, number in (("ดื่ม", bare), ("drink", bare), ("dum", whole), ("topic food", whole)):
        assert [item.id for item in door.fragments.search(text).items] == [number]


def test_a_search_for_nothing_or_the_impossible_is_refused() -> None:
    for text in ("", " \t\u00a0", "w " * 21, "a\0b", "\ud800"):
        with pytest.raises(Refused):
            search.matches(learning_content, text)


def plan(door: Door, table: sa.Table, text: str) -> str:
    """What PostgreSQL means to do with the very statement that a search sends."""
    with door.databases.get_postgres_session() as session:
        connection = session.connection()

        @sa.event.listens_for(connection, "before_cursor_execute", retval=True)
        def explain(c: Any, u: Any, statement: str, values: Any, x: Any, m: Any) -> Any:
            return f"EXPLAIN {statement}", values

        query = sa.select(table.c.id).where(search.matches(table, text))
        return "\n".join(line for (line,) in connection.execute(query))


def test_an_index_answers_for_thai_and_ipa_of_three_letters(door: Door) -> None:
    with door.databases.get_postgres_session() as session:
        search.install(session)
    door.postgres(FILL)
    content = door.add_content(native_text="พรุ่งนี้ ซื้อ กิน", ipa="[pʰrûŋ kʰâw.t͡ɕaj]")
    door.postgres(
        f"INSERT INTO content_fragments (native_text, body_text, fragment_type,"
        f" learning_content_id) SELECT native_text, translation, 'usage_tip', {content}"
        f" FROM learning_content"
    )
    door.postgres("ANALYZE")
    for text in ("รุ่งนี้", "ซื้อ", "กิน", "phrun", "pʰrûŋ", "khaw tcaj"):
        assert "on idx_learning_content_search" in plan(door, learning_content, text)
        assert "on idx_content_fragments_search" in plan(door, content_fragments, text)
        assert [item.id for item in door.contents.search(text).items] == [content]


def test_installing_twice_changes_nothing(door: Door) -> None:
    query = "SELECT oid, relname FROM pg_class WHERE relname LIKE 'idx%search' ORDER BY relname"
    with door.databases.get_postgres_session() as session:
        search.install(session)
    first = door.postgres(query)
    assert [name for _, name in first] == [
        "idx_content_fragments_search",
        "idx_learning_content_search",
    ]
    with door.databases.get_postgres_session() as session:
        search.install(session)
    assert door.postgres(query) == first


def test_an_extension_in_another_schema_is_used_where_it_is(door: Door) -> None:
    door.postgres('CREATE SCHEMA "ex tensions"')
    door.postgres('CREATE EXTENSION pg_trgm SCHEMA "ex tensions"')
    with door.databases.get_postgres_session() as session:
        search.install(session)
    assert "idx_learning_content_search" in str(
        door.postgres("SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%gin_trgm_ops%'")
    )


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE INDEX idx_learning_content_search ON learning_content (title)",
        "CREATE INDEX idx_learning_content_search ON rankings (id)",
        "CREATE TABLE idx_learning_content_search ()",
        "CREATE EXTENSION pg_trgm;"
        " CREATE INDEX idx_learning_content_search ON learning_content"
        " USING gin (lower(title) gin_trgm_ops)",
    ],
)
def test_an_index_of_this_name_that_is_another_is_told(door: Door, ddl: str) -> None:
    door.postgres(ddl)
    with (
        pytest.raises(TargetError, match=r"idx_learning_content_search .* another definition"),
        door.databases.get_postgres_session() as session,
    ):
        search.install(session)


def test_an_index_that_is_invalid_is_told(door: Door) -> None:
    with door.databases.get_postgres_session() as session:
        search.install(session)
    door.postgres(
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = 'idx_content_fragments_search'::regclass"
    )
    with (
        pytest.raises(TargetError, match=r"idx_content_fragments_search .* is invalid"),
        door.databases.get_postgres_session() as session,
    ):
        search.install(session)


def test_a_missing_right_to_make_the_extension_is_told(door: Door, database: sa.URL) -> None:
    role = f"reader_{database.database}"
    door.postgres(f"CREATE ROLE {role} LOGIN")
    try:
        url = libpq(database.set(username=role))
        with (
            HybridDatabaseManager(door.databases.sqlite_path, url) as databases,
            pytest.raises(TargetError, match=r"pg_trgm cannot be created .permission denied"),
            databases.get_postgres_session() as session,
        ):
            search.install(session)
    finally:
        door.postgres(f"DROP ROLE {role}")


def test_two_sessions_that_install_at_once_both_succeed(door: Door, target_url: str) -> None:
    with closing(psycopg2.connect(target_url)) as other, door.databases.get_postgres_session() as s:
        search.install(s)
        other.cursor().execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            other.cursor().execute("SELECT pg_advisory_xact_lock(hashtext('pipeline search'))")
    with door.databases.get_postgres_session() as session:
        search.install(session)
