"""What a store says of its images one by one: where each lies, and how large and what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.layout import ArraySpec
from kdcli.cache.format.lookup import (
    BUCKET_ROW,
    ID_ROW,
    bucket_of,
    id_digest,
    image_row,
    lookup_specs,
    row_check,
)
from kdcli.cache.format.root import Root
from kdcli.cache.reading.direct import MappedRows
from kdcli.cache.reading.mapped import MappedFiles, damaged


class TableRows(NamedTuple):
    """An image's rows in a ragged table, and their CRC-32."""

    start: int
    stop: int
    crc32: int


class ImageRecord(NamedTuple):
    """One image: its position in the list, its size, where its output lies and its checksums."""

    position: int
    height: int
    width: int
    label_crc32: int
    tables: Mapping[str, TableRows]

    @property
    def is_wide(self) -> bool:
        """Whether it has more than 256 label vectors, and so indices of two bytes."""
        palette = self.tables["palette"]
        return palette.stop - palette.start > 256


class Images(Protocol):
    """Finds images. Raises ``CacheError`` where what it reads is not what was written."""

    def find(self, image_id: str) -> int | None:
        """The position of an image; None if the store's list does not have it."""

    def record(self, position: int) -> ImageRecord:
        """What the store says of the image there."""

    def sha256(self, position: int) -> bytes:
        """The digest of its file."""


class MappedImages:
    """Finds images by the rows of a store's lookup: it holds nothing, and reads what is asked."""

    def __init__(self, files: MappedFiles, root: Root, tables: Sequence[str]) -> None:
        images, ids, buckets = lookup_specs(root.images, tables)
        self._tables = tables
        self._row = image_row(tables)
        self._images = _Packed(files, images)
        self._ids = _Packed(files, ids)
        self._buckets = _Packed(files, buckets)
        self._bucket_count = buckets.shape[0]

    def find(self, image_id: str) -> int | None:
        """See `Images`; a bucket of some 32 ids is read."""
        digest = id_digest(image_id)
        bucket = bucket_of(digest, self._bucket_count)
        first, count, check = BUCKET_ROW.unpack(self._buckets.read(bucket, 1))
        rows = self._ids.read(first, count)
        if row_check(rows, bucket) != check:
            raise self._ids.damaged()
        place = rows.find(digest)
        while place >= 0 and place % ID_ROW.size:  # bytes of two rows may happen to look like it
            place = rows.find(digest, place + 1)
        if place < 0:
            return None
        position: int = ID_ROW.unpack_from(rows, place)[1]
        return position

    def record(self, position: int) -> ImageRecord:
        """See `Images`."""
        height, width, _, label_crc32, *tables = self._fields(position)
        rows = {
            name: TableRows(tables[i], tables[i] + tables[i + 1], tables[i + 2])
            for i, name in zip(range(0, len(tables), 3), self._tables, strict=True)
        }
        return ImageRecord(position, height, width, label_crc32, rows)

    def sha256(self, position: int) -> bytes:
        """See `Images`."""
        digest: bytes = self._fields(position)[2]
        return digest

    def _fields(self, position: int) -> tuple[Any, ...]:
        content = self._images.read(position, 1)
        *fields, check = self._row.unpack(content)
        if row_check(content[:-4], position) != check:
            raise self._images.damaged()
        return tuple(fields)


class _Packed:
    """Rows of bytes, cut out of a mapped column; the caller checks them."""

    def __init__(self, files: MappedFiles, spec: ArraySpec) -> None:
        self._rows = MappedRows(files, spec)
        self._path = files.path(spec.file())
        self._count = spec.shape[0]

    def read(self, first: int, count: int) -> bytearray:
        if first + count > self._count:
            raise self.damaged()
        return self._rows.content(first, first + count)

    def damaged(self) -> Exception:
        return damaged(self._path, "a row is not the one that was written")


class LoadedImages:
    """Finds images by the store's arrays, read as a whole: for stores without a lookup.

    Args:
        ids: N image ids.
        sizes: (N, 2) heights and widths.
        digests: reads the (N, 32) digests of their files, which few ask for.
        outcome: the store's ``label_crc32``, and each table's ``offsets`` and ``crc32``, by name.
        tables: names of the tables.
    """

    def __init__(
        self,
        ids: Sequence[str],
        sizes: NDArray[np.int32],
        digests: Callable[[], NDArray[np.uint8]],
        outcome: Mapping[str, NDArray[Any]],
        tables: Sequence[str],
    ) -> None:
        self._positions = dict(zip(ids, range(len(ids)), strict=True))
        self._sizes = sizes
        self._digests = digests
        self._outcome = outcome
        self._tables = tables

    def find(self, image_id: str) -> int | None:
        """See `Images`."""
        return self._positions.get(image_id)

    def record(self, position: int) -> ImageRecord:
        """See `Images`."""
        height, width = self._sizes[position].tolist()
        outcome = self._outcome
        tables = {}
        for name in self._tables:
            start, stop = outcome[f"{name}/offsets"][position : position + 2].tolist()
            tables[name] = TableRows(start, stop, int(outcome[f"{name}/crc32"][position]))
        crc32 = int(outcome["label_crc32"][position])
        return ImageRecord(position, height, width, crc32, tables)

    def sha256(self, position: int) -> bytes:
        """See `Images`."""
        digest: bytes = self._digests()[position].tobytes()
        return digest
