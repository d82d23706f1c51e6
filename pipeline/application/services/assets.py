"""Files of fragments in PostgreSQL: audio, images and videos, whole or piece by piece.

A client never needs more memory than a few pieces of a file when it streams. The server does: it
puts a file together in its memory, so one file has at most 1 GB, which a bytea can hold.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from pipeline.application import rows
from pipeline.application.errors import Refused
from pipeline.application.models import Asset, AssetCreate, Page
from pipeline.application.services.file_kinds import require_kind
from pipeline.application.services.table_service import TableService
from pipeline.migrations.content import content_fragments, fragment_assets

MAX_BYTES = 1_000_000_000
CHUNK_BYTES = 1 << 20
_LARGEST_CHUNK = 1 << 28

_asset = fragment_assets.c
_parts = sa.Table(
    "asset_parts",
    sa.MetaData(),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)


class FragmentAssetManager(TableService[Asset]):
    """Reads and writes the files of fragments; what is read of one by its id has no bytes."""

    table, model = fragment_assets, Asset

    def store_asset(
        self,
        fragment_id: int,
        asset_data: bytes,
        asset_type: str,
        metadata: Mapping[str, Any] | None = None,
        created_by: str | None = None,
    ) -> int:
        """Keep a file of a fragment.

        Args:
            fragment_id: of which fragment.
            asset_data: the whole file, at most 1 GB.
            asset_type: audio, image or video; the file's first bytes must agree.
            metadata: whatever JSON can hold.
            created_by: who made it, at most 100 characters.

        Returns:
            the asset's id.

        Raises:
            NotFound: the fragment does not exist.
            Refused: the file is empty, too large or of another type, or a value cannot be kept.
        """
        return self.store_stream(fragment_id, [asset_data], asset_type, metadata, created_by)

    def store_stream(
        self,
        fragment_id: int,
        chunks: Iterable[bytes],
        asset_type: str,
        metadata: Mapping[str, Any] | None = None,
        created_by: str | None = None,
    ) -> int:
        """Keep a file of a fragment that comes in pieces, of any sizes.

        Args:
            fragment_id: of which fragment.
            chunks: the file, at most 1 GB; what it raises undoes everything.
            asset_type: audio, image or video; the file's first bytes must agree.
            metadata: whatever JSON can hold.
            created_by: who made it, at most 100 characters.

        Returns:
            the asset's id.

        Raises:
            NotFound: the fragment does not exist.
            Refused: the file is empty, too large or of another type, or a value cannot be kept.
        """
        payload = rows.checked(
            AssetCreate,
            fragment_id=fragment_id,
            asset_type=asset_type,
            asset_metadata=None if metadata is None else dict(metadata),
            created_by=created_by,
        )
        with self._databases.get_postgres_session() as session:
            known = sa.select(content_fragments.c.id)
            rows.one(session, known, table=content_fragments, number=fragment_id)
            data = _sent(session, chunks, asset_type)
            return rows.insert(session, fragment_assets, {**payload.values(), "asset_data": data})

    def replace_asset(self, asset_id: int, asset_data: bytes) -> None:
        """Put other bytes in the place of a file's, as made now.

        Args:
            asset_id: which asset; its type stays, and the new bytes must be of it.
            asset_data: the whole file, at most 1 GB.

        Raises:
            NotFound: there is no asset with this id.
            Refused: the file is empty, too large or of another type.
        """
        with self._databases.get_postgres_session() as session:
            query = sa.select(_asset.asset_type).with_for_update()
            met = rows.one(session, query, table=fragment_assets, number=asset_id)
            data = _sent(session, [asset_data], met["asset_type"])
            session.execute(
                sa.update(fragment_assets)
                .where(_asset.id == asset_id)
                .values(asset_data=data, created_at=sa.func.now())
            )

    def get_asset_data(self, asset_id: int) -> bytes:
        """Read a whole file.

        Raises:
            NotFound: there is no asset with this id.
        """
        return b"".join(self.stream_asset(asset_id))

    def stream_asset(self, asset_id: int, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Read a file piece by piece, as it was when the first piece was asked for.

        A connection is held until the last piece, or until the iterator is closed.

        Args:
            asset_id: which asset.
            chunk_bytes: size of every piece but the last, 1 byte to 256 MiB.

        Yields:
            the file's bytes; none of an empty file.

        Raises:
            NotFound: there is no asset with this id.
            Refused: chunk_bytes is out of bounds.
        """
        if not 1 <= chunk_bytes <= _LARGEST_CHUNK:
            raise Refused(
                f"A piece cannot have {chunk_bytes} bytes", remedy=f"Take 1 to {_LARGEST_CHUNK}"
            )
        with self._databases.get_postgres_session(snapshot=True) as session:
            size, at = 1, 0
            while at < size:
                piece = sa.func.substring(_asset.asset_data, at + 1, chunk_bytes).label("piece")
                query = sa.select(piece, _size())
                met = rows.one(session, query, table=fragment_assets, number=asset_id)
                size, at = met["size"], at + chunk_bytes
                if size:
                    yield bytes(met["piece"])

    def list(
        self,
        fragment_id: int,
        *,
        asset_type: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> Page[Asset]:
        """Files of a fragment without their bytes, by id.

        Args:
            fragment_id: of which fragment.
            asset_type: only audio, image or video.
            limit: assets of this page, 1 to 500.
            offset: assets before it, 0 or more.

        Raises:
            Refused: limit or offset are out of bounds.
        """
        query = self._query().where(_asset.fragment_id == fragment_id)
        if asset_type is not None:
            query = query.where(_asset.asset_type == asset_type)
        return self._page(query, limit=limit, offset=offset)

    def _query(self) -> sa.Select[Any]:
        return sa.select(*(column for column in _asset if column is not _asset.asset_data), _size())


def _size() -> sa.Label[int]:
    return sa.func.octet_length(_asset.asset_data, type_=sa.Integer).label("size")


def _sent(
    session: Session, chunks: Iterable[bytes], asset_type: str
) -> bytes | sa.ScalarSelect[bytes]:
    """What a statement writes as a file: its bytes, or those that the server has already.

    A large file goes into a temporary table piece by piece: appending to the row itself would
    write all that came before again with each piece.
    """
    blocks = _blocks(chunks)
    first = next(blocks, b"")
    require_kind(first, asset_type)
    second = next(blocks, b"")
    if not second:
        return first
    _parts.create(session.connection(), checkfirst=False)
    size = 0
    for number, block in enumerate(chain([first, second], blocks)):
        size += len(block)
        if size > MAX_BYTES:
            raise Refused(
                f"The file has more than {MAX_BYTES} bytes, which no row can hold",
                remedy="Make it smaller",
            )
        session.execute(sa.insert(_parts).values(number=number, data=block))
    pieces = aggregate_order_by(sa.literal(b"", sa.LargeBinary), _parts.c.number)
    return sa.select(sa.func.string_agg(_parts.c.data, pieces)).scalar_subquery()


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of one size, so that neither many small nor large ones cost."""
    kept = bytearray()
    for chunk in chunks:
        view = memoryview(chunk)
        for at in range(0, len(view), CHUNK_BYTES):
            kept += view[at : at + CHUNK_BYTES]
            if len(kept) >= CHUNK_BYTES:
                yield bytes(kept[:CHUNK_BYTES])
                del kept[:CHUNK_BYTES]
    if kept:
        yield bytes(kept)
