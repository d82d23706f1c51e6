"""Search for Thai, which has no spaces, and for IPA typed without accents.

One SQL expression folds the texts and the query: it removes compatibility forms, case, combining
marks, length, stress and brackets, and maps phonetic letters to the closest Latin ones. A text
matches if it contains every word of the query anywhere. A trigram index makes this fast for words
of three letters or more; without the index a search reads all rows and finds the same. It also
reads all rows if LC_CTYPE of the database is C, because pg_trgm then ignores Thai letters.
"""

from collections.abc import Iterable
from functools import reduce

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pipeline.application.errors import Refused
from pipeline.application.fields import Text
from pipeline.application.models import Frozen
from pipeline.application.rows import checked
from pipeline.core.errors import TargetError, first_line
from pipeline.migrations.content import content_fragments, learning_content
from pipeline.postgres.driver.statements import Question, inline

_SEARCHED = {
    learning_content: ("title", "native_text", "translation", "ipa"),
    content_fragments: ("native_text", "body_text", "ipa", "extra"),
}
_IGNORED = r"[\u0300-\u036F\u02C8\u02CC\u02D0\u02D1\u02E5-\u02E9.\[\]]"
"""Combining marks, stress, length, tone letters, syllable dots, brackets."""

_PHONETIC, _LATIN = "ɔɒɛəɜɤɯɨʉʊɪɑæɕʃʑʒŋɲɡɾɹðθʔ", "ooeeeouiuuiaacszznngrrdt"
"""Letter by letter; the glottal stop has no counterpart and is removed."""

_WORDS = 20


class _Query(Frozen):
    text: Text


def fold(text: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """The folded text as an SQL expression; all of its functions are immutable."""
    plain = sa.func.lower(sa.func.normalize(text, sa.literal_column("NFKD")))
    bare = sa.func.regexp_replace(plain, _constant(_IGNORED), _constant(""), _constant("g"))
    return sa.func.translate(bare, _constant(_PHONETIC), _constant(_LATIN), type_=sa.Text)


def folded(table: sa.Table) -> sa.ColumnElement[str]:
    """All searchable text of a row, folded: the expression of the index."""
    return _whole(table.c[name] for name in _SEARCHED[table])


def _whole(columns: Iterable[sa.ColumnElement[str]]) -> sa.ColumnElement[str]:
    texts = (sa.func.coalesce(column, _constant("")) for column in columns)
    return fold(reduce(lambda whole, text: _joined(whole, _constant(" "), text), texts))


def matches(table: sa.Table, text: str) -> sa.ColumnElement[bool]:
    """The condition that a row contains every word of a text.

    Args:
        table: learning_content or content_fragments.
        text: words separated by spaces; ``%`` and ``_`` are literal.

    Raises:
        Refused: the text is empty, has more than 20 words, or has invalid characters.
    """
    words = checked(_Query, text=text).text.split()
    if not 1 <= len(words) <= _WORDS:
        raise Refused(
            f"The search has {len(words)} words", remedy=f"Search for 1 to {_WORDS} words at once"
        )
    return sa.and_(*(folded(table).like(_pattern(word)) for word in words))


def nearest(table: sa.Table) -> tuple[sa.ColumnElement[object], ...]:
    """The order of matches: the shortest text is the most similar."""
    return (sa.func.length(folded(table)), table.c.id)


def install(session: Session) -> None:
    """Create the extension pg_trgm and both indexes, if they are missing.

    Raises:
        TargetError: the user may not create the extension, the server does not have it, or an
            index of this name is invalid or has another definition.
    """
    # One at a time: IF NOT EXISTS does not prevent conflicts between two sessions.
    session.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('pipeline search'))"))
    schema = _extension(session)
    for table in _SEARCHED:
        using = _using(table, schema, session.connection().dialect)
        _run(session, f"CREATE INDEX IF NOT EXISTS {_index(table)} ON {table.name} {using}")
        _require_same(session, table, _index(table), using)


def ddl(dialect: sa.Dialect) -> list[str]:
    """The same as statements, with the extension in the schema that Supabase uses."""
    return [
        "CREATE SCHEMA IF NOT EXISTS extensions",
        "CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA extensions",
        *(
            f"CREATE INDEX {_index(table)} ON {table.name} {_using(table, 'extensions', dialect)}"
            for table in _SEARCHED
        ),
    ]


def _using(table: sa.Table, schema: str, dialect: sa.Dialect) -> str:
    """The definition of an index; ``schema`` is the quoted one of pg_trgm."""
    # Without the table's name, because it is compared with an index of a copy.
    expression = _whole(map(sa.column, _SEARCHED[table])).compile(
        dialect=dialect, compile_kwargs={"literal_binds": True}
    )
    # Without a pending list, which every search would have to scan.
    return f"USING gin (({expression}) {schema}.gin_trgm_ops) WITH (fastupdate = off)"


def installed(session: Session) -> dict[str, int]:
    """Valid search indexes: name -> size in bytes."""
    question = installed_question()
    sql = inline(question.sql, question.parameters)
    return question.read([tuple(row) for row in session.connection().exec_driver_sql(sql)])


def installed_question() -> Question[dict[str, int]]:
    """The questions of ``installed``."""
    return Question(
        "SELECT c.relname::text, pg_relation_size(c.oid) AS bytes FROM pg_index AS i"
        " JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indisvalid"
        " AND i.indrelid = ANY($1::regclass[]) AND c.relname = ANY($2) ORDER BY c.relname",
        (tuple(table.name for table in _SEARCHED), tuple(map(_index, _SEARCHED))),
        lambda rows: {name: int(size) for name, size in rows},
    )


def _index(table: sa.Table) -> str:
    return f"idx_{table.name}_search"


def _extension(session: Session) -> str:
    """The schema of pg_trgm, quoted."""
    where = sa.text(
        "SELECT quote_ident(nspname) FROM pg_extension e JOIN pg_namespace n"
        " ON n.oid = e.extnamespace WHERE extname = 'pg_trgm'"
    )
    found = session.scalar(where)
    if found is None:
        try:
            with session.begin_nested():
                # Supabase keeps extensions out of the schemas that its API serves.
                separate = session.scalar(
                    sa.text("SELECT to_regnamespace('extensions') IS NOT NULL")
                )
                into = " SCHEMA extensions" if separate else ""
                session.execute(sa.text(f"CREATE EXTENSION pg_trgm{into}"))
        except DBAPIError as error:
            raise TargetError(
                f"The extension pg_trgm cannot be created ({first_line(str(error.orig))})",
                remedy="Run CREATE EXTENSION pg_trgm in this database as a privileged user",
            ) from error
        found = session.scalar(where)
    return str(found)


def _run(session: Session, ddl: str) -> None:
    session.connection().exec_driver_sql(ddl)


def _require_same(session: Session, table: sa.Table, name: str, using: str) -> None:
    """Compare an index with one created as declared on an empty copy of its table."""
    _run(session, f"CREATE TEMPORARY TABLE search_copy (LIKE {table.name})")
    _run(session, f"CREATE INDEX search_index ON search_copy {using}")
    found = session.execute(
        sa.text(
            "SELECT made.indisvalid, made.indrelid = to_regclass(:table)"
            " AND regexp_replace(pg_get_indexdef(made.indexrelid), '^.* USING ', '')"
            " = regexp_replace(pg_get_indexdef(wanted.indexrelid), '^.* USING ', '')"
            " FROM pg_index made, pg_index wanted"
            " WHERE made.indexrelid = to_regclass(:name)"
            " AND wanted.indexrelid = to_regclass('pg_temp.search_index')"
        ),
        {"table": table.name, "name": name},
    ).first()
    _run(session, "DROP TABLE search_copy")
    valid, same = found or (True, False)
    if not valid or not same:
        why = "has another definition" if valid else "is invalid"
        raise TargetError(
            f"The index {name} of {table.name} {why}",
            remedy=f"Run DROP INDEX {name}, then install the search again",
        )


def _pattern(word: str) -> sa.ColumnElement[str]:
    # After folding, because a fullwidth percent sign folds to a plain one.
    escaped = sa.func.regexp_replace(
        fold(sa.literal(word, sa.Text)), _constant(r"([\\%_])"), _constant(r"\\\1"), _constant("g")
    )
    return _joined(_constant("%"), escaped, _constant("%"))


def _joined(*texts: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Concatenate by an immutable operator; concat() is not immutable."""
    return reduce(lambda left, right: left.op("||", return_type=sa.Text())(right), texts)


def _constant(text: str) -> sa.ColumnElement[str]:
    return sa.literal(text, sa.Text)
