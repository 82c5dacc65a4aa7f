"""The lookup: all that a reader needs of one image, in rows that it finds without the others.

It repeats what the store's arrays say, packed so that an image costs a few pages of mapped files
instead of whole arrays in memory. Every row carries its own checksum, started at its place: rows
that are damaged, or that lie elsewhere, are noticed when they are used.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.layout import LOOKUP, ArraySpec, Column

ID_BYTES = 16
"""Of an id's SHA-256: so many that no two ids share them."""
IDS_PER_BUCKET = 32
"""In the mean: a bucket is read whole, and lies in one page or two."""

ROWS_PER_CHUNK = 64
"""The last chunk is padded: a small store is to stay small."""

ID_ROW = struct.Struct("<16sQ")
"""An id's digest, and the image's position in the list."""
BUCKET_ROW = struct.Struct("<QII")
"""First row in ``ids``, number of rows, and their checksum."""


def image_row(tables: Sequence[str]) -> struct.Struct:
    """An image: height, width, SHA-256, CRC-32 of its label map; of each table first row, number of
    rows, CRC-32; and the row's checksum.
    """
    return struct.Struct("<ii32sI" + "QII" * len(tables) + "I")


def row_check(content: bytes | bytearray | memoryview, place: int) -> int:
    """CRC-32 of a row, or of a bucket's rows, started at its place: also zeros do not pass."""
    return zlib.crc32(content, place + 1)


def id_digest(image_id: str) -> bytes:
    """What stands for an id in the lookup. What is no Unicode gets one, too, and is not found."""
    return hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).digest()[:ID_BYTES]


def bucket_of(digest: bytes, buckets: int) -> int:
    """The bucket of a digest: digests are spread evenly, and lie in their order."""
    return int.from_bytes(digest[:8], "big") * buckets >> 64


def lookup_specs(images: int, tables: Sequence[str]) -> tuple[ArraySpec, ArraySpec, ArraySpec]:
    """Its arrays of packed rows: images in their order, ids by digest, buckets of ids."""
    buckets = -(-images // IDS_PER_BUCKET)
    return (
        _spec("images", image_row(tables).size, images),
        _spec("ids", ID_ROW.size, images),
        _spec("buckets", BUCKET_ROW.size, buckets),
    )


def _spec(name: str, width: int, rows: int) -> ArraySpec:
    column = Column(name, "uint8", (width,), ROWS_PER_CHUNK, ("byte",), compressed=False)
    return column.spec(LOOKUP, rows)


def build_lookup(
    ids: Sequence[str],
    sizes: NDArray[np.int32],
    digests: NDArray[np.uint8],
    outcome: Mapping[str, NDArray[Any]],
    tables: Sequence[str],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """The content of the arrays of `lookup_specs`.

    Args:
        ids: N image ids.
        sizes: (N, 2) heights and widths.
        digests: (N, 32) SHA-256 of the image files.
        outcome: the store's ``label_crc32``, and each table's ``offsets`` and ``crc32``, by name.
        tables: names of the tables.
    """
    return _image_rows(sizes, digests, outcome, tables), *_id_rows(ids)


def _image_rows(
    sizes: NDArray[np.int32],
    digests: NDArray[np.uint8],
    outcome: Mapping[str, NDArray[Any]],
    tables: Sequence[str],
) -> NDArray[np.uint8]:
    rows = np.empty((len(sizes), image_row(tables).size), np.uint8)
    place = 0

    def fill(values: NDArray[Any], dtype: str) -> None:
        """Write the bytes of the next numbers into every row."""
        nonlocal place
        content = np.ascontiguousarray(values, dtype).view(np.uint8).reshape(len(rows), -1)
        rows[:, place : place + content.shape[1]] = content
        place += content.shape[1]

    fill(sizes, "<i4")
    fill(digests, "u1")
    fill(outcome["label_crc32"], "<u4")
    for table in tables:
        offsets = outcome[f"{table}/offsets"]
        fill(offsets[:-1], "<u8")
        fill(np.diff(offsets), "<u4")
        fill(outcome[f"{table}/crc32"], "<u4")
    checks = (row_check(row.data, number) for number, row in enumerate(rows[:, :place]))
    fill(np.fromiter(checks, np.uint32, len(rows)), "<u4")
    return rows


def _id_rows(ids: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    digests = np.frombuffer(b"".join(map(id_digest, ids)), np.uint8).reshape(-1, ID_BYTES)
    high, low = digests.view(">u8").T
    order = np.lexsort([low, high])
    positions = order.astype("<u8").view(np.uint8).reshape(-1, 8)
    rows = np.concatenate([digests[order], positions], axis=1)
    count = -(-len(ids) // IDS_PER_BUCKET)
    places = [bucket_of(digest.tobytes(), count) for digest in rows[:, :8]]
    ends = np.searchsorted(places, range(count + 1)).tolist()
    buckets = b"".join(
        BUCKET_ROW.pack(first, stop - first, row_check(rows[first:stop].tobytes(), bucket))
        for bucket, (first, stop) in enumerate(itertools.pairwise(ends))
    )
    return rows, np.frombuffer(buckets, np.uint8).reshape(count, -1)
