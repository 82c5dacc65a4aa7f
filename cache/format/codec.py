"""Chunks and shards as bytes: zstd with its checksum, and the shard index behind a CRC-32C.

Shards are put together here instead of through zarr-python's array API because the encoded chunk
is needed by itself (its CRC-32 is recorded per image), and because zarr-python would first build
the shard in memory, one uncompressed row of the largest image's size per image. The bytes are the
same standard ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray

from kdcli.cache.format.layout import ZSTD_LEVEL

MISSING = 2**64 - 1
"""Offset and length of a chunk that is not stored: it is all fill value."""

ENTRY_BYTES = 16
CRC_BYTES = 4


def compress(values: NDArray[Any] | bytes) -> bytes:
    """One chunk as a zstd frame with a checksum of its content."""
    return bytes(zstd.compress(values, ZSTD_LEVEL, True))


def encode_chunk(values: NDArray[Any], compressed: bool) -> bytes:
    """One chunk: a zstd frame, or the plain bytes and their CRC-32C."""
    if compressed:
        return compress(values)
    body = values.tobytes()
    return body + crc32c(body)


def crc32c(content: bytes) -> bytes:
    """CRC-32C as Zarr's ``crc32c`` codec appends it: four bytes, little endian."""
    return int(google_crc32c.value(content)).to_bytes(4, "little")


def decompress(frame: bytes, expected: int) -> bytes:
    """The content of a frame; ``ValueError`` if it is damaged or not ``expected`` bytes long."""
    try:
        content = bytes(zstd.decompress(frame))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"a chunk cannot be decompressed ({error})") from error
    if len(content) != expected:
        raise ValueError(f"expected a chunk of {expected} bytes, got {len(content)}")
    return content


def decompress_into(frame: bytes, destination: NDArray[np.uint8]) -> None:
    """Decode a frame whose length the caller vouches for (by its CRC-32) into an array."""
    try:
        zstd.decompress(frame, destination)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"a chunk cannot be decompressed ({error})") from error


def index_bytes(chunks: int) -> int:
    """Size of a shard's index, its CRC-32C included."""
    return chunks * ENTRY_BYTES + CRC_BYTES


def encode_index(entries: NDArray[np.uint64]) -> bytes:
    """The index of a shard, entries (chunks, 2) of offset and length, with its CRC-32C."""
    body = entries.astype("<u8").tobytes()
    return body + crc32c(body)


def decode_index(content: bytes, shard_bytes: int) -> NDArray[np.uint64]:
    """Entries (chunks, 2) of an index; ``ValueError`` if it is damaged or points outside."""
    body = content[:-CRC_BYTES]
    if content[-CRC_BYTES:] != crc32c(body):
        raise ValueError("the shard's index is damaged (its CRC-32C differs)")
    entries = np.frombuffer(body, dtype="<u8").reshape(-1, 2).astype(np.uint64)
    stored = entries[entries[:, 0] != MISSING]
    if len(stored) and int(stored.sum(axis=1).max()) > shard_bytes - len(content):
        raise ValueError("the shard's index points outside the shard")
    return entries


class ShardWriter:
    """Writes one shard, chunk after chunk in order, into an open file."""

    def __init__(self, handle: BinaryIO, chunks: int) -> None:
        self._handle = handle
        self._entries = np.full((chunks, 2), MISSING, dtype=np.uint64)
        self._position = 0
        self._next = 0

    def add(self, chunk: bytes | None) -> None:
        """Append the next chunk; None if it is all fill value."""
        if chunk is not None:
            self._entries[self._next] = self._position, len(chunk)
            self._handle.write(chunk)
            self._position += len(chunk)
        self._next += 1

    def skip(self, chunks: int) -> None:
        """Leave out this many chunks: they are all fill value."""
        self._next += chunks

    def close(self) -> None:
        """Write the index. Chunks that were never added count as all fill value."""
        self._handle.write(encode_index(self._entries))


def chunks_crc32(chunks: Sequence[bytes | None]) -> int:
    """CRC-32 over an image's encoded chunks: of each its length (uint32, little endian; 0 if it is
    not stored), then its bytes. It ties chunks to their image: neither a swapped shard nor a
    swapped chunk passes.
    """
    crc = 0
    for chunk in chunks:
        crc = zlib.crc32(len(chunk or b"").to_bytes(4, "little"), crc)
        if chunk:
            crc = zlib.crc32(chunk, crc)
    return crc


def rows_crc32(columns: Sequence[NDArray[Any]]) -> int:
    """CRC-32 over an image's rows of a table: the bytes of each column's rows, in order."""
    crc = 0
    for column in columns:
        crc = zlib.crc32(np.ascontiguousarray(column).data, crc)
    return crc
