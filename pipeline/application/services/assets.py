"""Files of fragments in PostgreSQL: audio, images and videos, whole or in chunks.

A streaming client needs memory for a few chunks only. The server assembles a file in memory, so a
file can have at most 1 GB, the limit of a bytea.
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
    """Reads and writes files of fragments; ``get`` and ``list`` read no bytes."""

    table, model = fragment_assets, Asset

    def store_asset(
        self,
        fragment_id: int,
        asset_data: bytes,
        asset_type: str,
        metadata: Mapping[str, Any] | None = None,
        created_by: str | None = None,
    ) -> int:
        """Store a file of a fragment; returns the asset's id.

        Args:
            fragment_id: the fragment.
            asset_data: the whole file, at most 1 GB.
            asset_type: audio, image or video; the first bytes of the file must match.
            metadata: any JSON object.
            created_by: the author, at most 100 characters.

        Raises:
            NotFound: the fragment does not exist.
            Refused: the file is empty, too large or of another type, or a value is invalid.
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
        """Store a file of a fragment from chunks of any size; returns the asset's id.

        Args:
            fragment_id: the fragment.
            chunks: the file, at most 1 GB; an exception rolls everything back.
            asset_type: audio, image or video; the first bytes of the file must match.
            metadata: any JSON object.
            created_by: the author, at most 100 characters.

        Raises:
            NotFound: the fragment does not exist.
            Refused: the file is empty, too large or of another type, or a value is invalid.
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
        """Replace the bytes of a file, and set created_at.

        Args:
            asset_id: the asset; the new bytes must match its type.
            asset_data: the whole file, at most 1 GB.

        Raises:
            NotFound: there is no asset with this id.
            Refused: the file is empty, too large or of another type.
        """
        with self._databases.get_postgres_session() as session:
            query = sa.select(_asset.asset_type).with_for_update()
            found = rows.one(session, query, table=fragment_assets, number=asset_id)
            data = _sent(session, [asset_data], found["asset_type"])
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
        """Read a file in chunks, in its state at the first chunk.

        A connection is in use until the last chunk, or until the iterator is closed.

        Args:
            asset_id: the asset.
            chunk_bytes: size of all chunks but the last, 1 byte to 256 MiB.

        Yields:
            the file's bytes; nothing for an empty file.

        Raises:
            NotFound: there is no asset with this id.
            Refused: chunk_bytes is out of range.
        """
        if not 1 <= chunk_bytes <= _LARGEST_CHUNK:
            raise Refused(
                f"A chunk cannot have {chunk_bytes} bytes",
                remedy=f"Use 1 to {_LARGEST_CHUNK} bytes",
            )
        with self._databases.get_postgres_session(snapshot=True) as session:
            size, start = 1, 0
            while start < size:
                chunk = sa.func.substring(_asset.asset_data, start + 1, chunk_bytes).label("chunk")
                query = sa.select(chunk, _size())
                found = rows.one(session, query, table=fragment_assets, number=asset_id)
                size, start = found["size"], start + chunk_bytes
                if size:
                    yield bytes(found["chunk"])

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
            fragment_id: the fragment.
            asset_type: only audio, image or video.
            limit: page size, 1 to 500.
            offset: number of assets to skip.
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
    """The value of a file in a statement: its bytes, or a query of bytes already sent.

    A large file is sent to a temporary table in chunks; appending to the row itself would rewrite
    all earlier bytes with each chunk.
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
                f"The file has more than {MAX_BYTES} bytes, the limit of a row",
                remedy="Store a smaller file",
            )
        session.execute(sa.insert(_parts).values(number=number, data=block))
    pieces = aggregate_order_by(sa.literal(b"", sa.LargeBinary), _parts.c.number)
    return sa.select(sa.func.string_agg(_parts.c.data, pieces)).scalar_subquery()


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of equal size, so that the sizes of chunks do not matter."""
    buffer = bytearray()
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), CHUNK_BYTES):
            buffer += view[start : start + CHUNK_BYTES]
            if len(buffer) >= CHUNK_BYTES:
                yield bytes(buffer[:CHUNK_BYTES])
                del buffer[:CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)
