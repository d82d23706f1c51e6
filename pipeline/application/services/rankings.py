"""Ratings of fragments and of their assets in PostgreSQL."""

from decimal import Decimal

import sqlalchemy as sa

from pipeline.application import rows
from pipeline.application.models import Page, Ranking, RankingCreate, RankingUpdate
from pipeline.application.services.table_service import TableService
from pipeline.migrations.content import fragment_assets, rankings


class RankingService(TableService[Ranking]):
    """Reads and writes ratings; a rating of an asset also names its fragment."""

    table, model = rankings, Ranking

    def rate_fragment(self, fragment_id: int, payload: RankingCreate) -> int:
        """Rate a fragment; returns the rating's id.

        Raises:
            Refused: the fragment does not exist.
        """
        with self._databases.get_postgres_session() as session:
            values = {**payload.values(), "fragment_id": fragment_id}
            return rows.insert(session, rankings, values)

    def rate_asset(self, asset_id: int, payload: RankingCreate) -> int:
        """Rate a file; returns the rating's id.

        Raises:
            NotFound: the asset does not exist.
        """
        with self._databases.get_postgres_session() as session:
            query = sa.select(fragment_assets.c.fragment_id)
            found = rows.one(session, query, table=fragment_assets, number=asset_id)
            values = {**payload.values(), "asset_id": asset_id, **found}
            return rows.insert(session, rankings, values)

    def update(self, ranking_id: int, payload: RankingUpdate) -> None:
        """Write the fields that are set, and updated_at; without such fields do nothing."""
        with self._databases.get_postgres_session() as session:
            rows.update(session, payload, ranking_id, now=sa.func.now())

    def list_of_fragment(
        self, fragment_id: int, *, limit: int = 50, offset: int = 0
    ) -> Page[Ranking]:
        """Ratings of a fragment, without those of its assets, by id."""
        return self._page(
            self._query().where(_of_fragment(fragment_id)), limit=limit, offset=offset
        )

    def list_of_asset(self, asset_id: int, *, limit: int = 50, offset: int = 0) -> Page[Ranking]:
        """Ratings of a file, by id."""
        return self._page(
            self._query().where(rankings.c.asset_id == asset_id), limit=limit, offset=offset
        )

    def average_of_fragment(self, fragment_id: int) -> Decimal | None:
        """The mean of a fragment's own ratings, to two decimals; None without ratings."""
        return self._average(_of_fragment(fragment_id))

    def average_of_asset(self, asset_id: int) -> Decimal | None:
        """The mean of a file's ratings, to two decimals; None without ratings."""
        return self._average(rankings.c.asset_id == asset_id)

    def _average(self, which: sa.ColumnElement[bool]) -> Decimal | None:
        mean = sa.func.round(sa.func.avg(rankings.c.rank_score), 2)
        with self._databases.get_postgres_session() as session:
            found: Decimal | None = session.scalar(sa.select(mean).where(which))
            return found


def _of_fragment(fragment_id: int) -> sa.ColumnElement[bool]:
    return sa.and_(rankings.c.fragment_id == fragment_id, rankings.c.asset_id.is_(None))
