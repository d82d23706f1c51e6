"""Count and check the vectors of the cards."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pipeline.anki.checks import result
from pipeline.anki.findings import DimensionDiffers, EmbeddingWithoutCard, SearchDiffers
from pipeline.application.anki_tables import vector_embeddings, vector_search
from pipeline.application.manager import HybridDatabaseManager
from pipeline.core.findings import CheckResult, Finding

EMBEDDING_CHECKS = ("embedding_card", "embedding_dimension", "vector_search")

_TOLERANCE = 1e-6
"""The largest accepted distance between two vectors with 32-bit values."""


@dataclass(frozen=True)
class Observed:
    """Numbers of embeddings; ``newest`` is the date of the newest one, as text."""

    embeddings: int
    cards: int
    by_type: dict[str, int]
    by_dimension: dict[str, int]
    newest: str | None


def observe(manager: HybridDatabaseManager) -> Observed:
    """Count the embeddings.

    Raises:
        SourceError: the SQLite file cannot be read.
    """
    e, count = vector_embeddings.c, sa.func.count()
    newest = sa.func.max(sa.type_coerce(e.created_at, sa.Text))
    with manager.get_sqlite_session() as session:
        if not _exists(session, vector_embeddings):
            return Observed(0, 0, {}, {}, None)
        embeddings, cards, newest_date = session.execute(
            sa.select(count, sa.func.count(e.card_id.distinct()), newest).select_from(
                vector_embeddings
            )
        ).one()
        kinds, dimensions = (
            {str(value): number for value, number in session.execute(query)}
            for query in (
                sa.select(column, count).group_by(column).order_by(column)
                for column in (e.embedding_type, e.vector_dimension)
            )
        )
    return Observed(embeddings, cards, kinds, dimensions, newest_date)


def check(manager: HybridDatabaseManager) -> list[CheckResult]:
    """Check the embeddings: their cards, their dimensions and the search index.

    Raises:
        SourceError: the SQLite file cannot be read.
    """
    with manager.get_sqlite_session() as session:
        if not _exists(session, vector_embeddings):
            return [result(name, [], {"embeddings": 0}) for name in EMBEDDING_CHECKS]
        has_search = _exists(session, vector_search)
        count = sa.select(sa.func.count()).select_from(vector_embeddings)
        figures = {"embeddings": session.scalar(count) or 0}
        differing = _search(session) if has_search else []
        searched = sa.select(sa.func.count()).select_from(vector_search)
        return [
            result("embedding_card", _cards(session), figures),
            result("embedding_dimension", _dimensions(session), figures),
            result(
                "vector_search",
                differing,
                {**figures, "searchable": (session.scalar(searched) or 0) if has_search else 0},
            ),
        ]


def _exists(session: Session, table: sa.Table) -> bool:
    """Whether a table exists; the application creates these tables with its first vector."""
    return sa.inspect(session.connection()).has_table(table.name)


def _cards(session: Session) -> list[Finding]:
    rows = session.execute(
        sa.text(
            "SELECT id, card_id FROM vector_embeddings AS e WHERE NOT EXISTS"
            " (SELECT 1 FROM anki_cards AS c WHERE c.id = e.card_id) ORDER BY id"
        )
    )
    return [EmbeddingWithoutCard(number, card) for number, card in rows]


_DIMENSION = """CASE WHEN json_valid(vector_data) AND json_type(vector_data) = 'array'
  AND NOT EXISTS (SELECT 1 FROM json_each(vector_data) AS v
    WHERE v.type NOT IN ('real', 'integer') OR abs(v.value) > 3.4028235e38)
  THEN json_array_length(vector_data) END"""
"""The number of values in a vector, NULL if it is not a vector."""


def _dimensions(session: Session) -> list[Finding]:
    rows = session.execute(
        sa.text(
            f"SELECT id, vector_dimension, {_DIMENSION} AS has FROM vector_embeddings"
            " WHERE has IS NOT vector_dimension ORDER BY id"
        )
    )
    return [DimensionDiffers(number, declared, has) for number, declared, has in rows]


_SEARCH = f"""
WITH e AS MATERIALIZED (SELECT card_id, embedding_type, count(*) AS times,
    max(CASE WHEN {_DIMENSION} > 0 THEN vector_data END) AS vector
  FROM vector_embeddings GROUP BY 1, 2
), s AS MATERIALIZED (SELECT card_id, embedding_type, count(*) AS times, max(vector) AS vector
  FROM vector_search GROUP BY 1, 2)
SELECT e.card_id, e.embedding_type, CASE WHEN s.times > 1 OR e.times > 1 THEN 'twice'
    WHEN s.times IS NULL THEN 'not searchable' ELSE 'different' END
  FROM e LEFT JOIN s USING (card_id, embedding_type)
  WHERE s.times IS NULL OR s.times > 1 OR e.times > 1
    OR CASE WHEN typeof(s.vector) <> 'blob' OR e.vector IS NULL
        OR length(s.vector) <> 4 * json_array_length(e.vector) THEN 1
      ELSE NOT coalesce(vec_distance_L2(vec_f32(e.vector), s.vector) <= :tolerance, 0) END
UNION ALL
SELECT s.card_id, s.embedding_type, 'without embedding' FROM s
  WHERE NOT EXISTS (SELECT 1 FROM e WHERE e.card_id = s.card_id
    AND e.embedding_type = s.embedding_type)
ORDER BY 1, 2
"""


def _search(session: Session) -> list[Finding]:
    rows = session.execute(sa.text(_SEARCH), {"tolerance": _TOLERANCE})
    return [SearchDiffers(card, kind, problem) for card, kind, problem in rows]
