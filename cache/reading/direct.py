"""The direct reader: chunks found through mapped shard files and decoded one at a time.

zarr-python takes one to three milliseconds a call whatever it reads; this takes the decoding time.
It knows exactly the layout that this package writes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.codec import CRC_BYTES, MISSING, chunks_crc32, decompress, decompress_into
from kdcli.cache.format.layout import ArraySpec
from kdcli.cache.reading.mapped import MappedFiles, damaged
from kdcli.common.errors import CacheError


def join_planes(low: NDArray[np.uint8], high: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Indices of two bytes from their low and high bytes."""
    joined = high.astype(np.uint16)
    joined <<= 8
    joined |= low
    return joined


class MappedLabels:
    """The label map arrays: the pixels of one image from its own chunks."""

    def __init__(self, files: MappedFiles, low: ArraySpec, high: ArraySpec) -> None:
        self._files = files
        self._low = low
        self._high = high
        self._chunk = low.chunk[1]
        self._images_per_shard = (low.shard or low.chunk)[0]
        self._per_image = low.shape[1] // self._chunk
        self._chunks_per_shard = low.chunks_per_shard

    def chunks(self, image: int, pixels: int, wide: bool) -> tuple[bytes | None, ...]:
        """The image's encoded chunks, low bytes first, then (if ``wide``) high bytes."""
        low = self._plane(self._low, image, pixels)
        return low + self._plane(self._high, image, pixels) if wide else low

    def read(
        self, image: int, pixels: int, wide: bool, crc32: int
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The image's flat label map (pixels,); ``CacheError`` if it is damaged."""
        chunks = self.chunks(image, pixels, wide)
        if chunks_crc32(chunks) != crc32:
            raise self._damaged(image, "an image's label map is not the one that was written")
        half = len(chunks) // 2 if wide else len(chunks)
        try:
            low = self._decode(chunks[:half])[:pixels]
            if not wide:
                return low
            return join_planes(low, self._decode(chunks[half:])[:pixels])
        except ValueError as error:
            raise self._damaged(image, error) from error

    def _plane(self, spec: ArraySpec, image: int, pixels: int) -> tuple[bytes | None, ...]:
        count = -(-pixels // self._chunk)
        shard, row = divmod(image, self._images_per_shard)
        name = spec.file(shard)
        if name not in self._files:
            return (None,) * count
        index = self._files.index(name, self._chunks_per_shard)
        first = row * self._per_image
        found: list[bytes | None] = []
        for start, length in index[first : first + count].tolist():
            whole = None if start == MISSING else self._files.read(name, start, start + length)
            found.append(whole)
        return tuple(found)

    def _decode(self, chunks: tuple[bytes | None, ...]) -> NDArray[np.uint8]:
        values = np.empty(len(chunks) * self._chunk, dtype=np.uint8)
        for i, chunk in enumerate(chunks):
            part = values[i * self._chunk : (i + 1) * self._chunk]
            if chunk is None:
                part[:] = 0
            else:
                # The CRC-32 says that this frame is the one written, so it has the right length.
                decompress_into(chunk, part)
        return values

    def _damaged(self, image: int, what: object) -> CacheError:
        return damaged(self._files.path(self._low.file(image // self._images_per_shard)), what)


class MappedRows:
    """A plain column: the rows themselves are cut out of the mapped file.

    Their chunk's CRC-32C would need the whole chunk; the CRC-32 of the image's rows, which the
    caller checks, covers exactly what is read.
    """

    def __init__(self, files: MappedFiles, spec: ArraySpec) -> None:
        self._chunks = _ChunkPlaces(files, spec)
        self._files = files
        self._name = spec.file()
        self._rows = spec.chunk[0]
        self._row_shape = spec.shape[1:]
        self._row_bytes = spec.chunk_bytes // spec.chunk[0]
        self._stored_bytes = spec.chunk_bytes + CRC_BYTES
        self._dtype = spec.numpy_dtype

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop``, a copy."""
        content = self.content(start, stop)
        return np.frombuffer(content, dtype=self._dtype).reshape(-1, *self._row_shape)

    def content(self, start: int, stop: int) -> bytearray:
        """The bytes of the rows ``start`` to ``stop``."""
        content = bytearray()
        while start < stop:
            number, row = divmod(start, self._rows)
            count = min(stop - start, self._rows - row)
            first, length = self._chunks.place(number)
            if length != self._stored_bytes:
                raise damaged(self._files.path(self._name), f"chunk {number} has a wrong length")
            begin = first + row * self._row_bytes
            content += self._files.read(self._name, begin, begin + count * self._row_bytes)
            start += count
        return content


class MappedChunks:
    """A compressed column: the one or two chunks that hold the rows are decoded."""

    def __init__(self, files: MappedFiles, spec: ArraySpec) -> None:
        self._chunks = _ChunkPlaces(files, spec)
        self._files = files
        self._name = spec.file()
        self._shape = spec.chunk
        self._chunk_bytes = spec.chunk_bytes
        self._dtype = spec.numpy_dtype
        self._last: tuple[int, NDArray[Any]] | None = None

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop``, a copy; ``CacheError`` if a chunk is damaged."""
        if start == stop:
            return np.zeros((0, *self._shape[1:]), dtype=self._dtype)
        rows = self._shape[0]
        first, last = start // rows, (stop - 1) // rows
        offset = first * rows
        if first == last:
            return self._chunk(first)[start - offset : stop - offset].copy()
        chunks = [self._chunk(number) for number in range(first, last + 1)]
        return np.concatenate(chunks)[start - offset : stop - offset].copy()

    def _chunk(self, number: int) -> NDArray[Any]:
        kept = self._last  # neighbours in the store are often read one after the other
        if kept is not None and kept[0] == number:
            return kept[1]
        start, length = self._chunks.place(number)
        frame = self._files.read(self._name, start, start + length)
        try:
            content = decompress(frame, self._chunk_bytes)
        except ValueError as error:
            raise damaged(self._files.path(self._name), error) from error
        values = np.frombuffer(content, dtype=self._dtype).reshape(self._shape)
        self._last = number, values
        return values


class _ChunkPlaces:
    """Where the chunks of a column lie in its one file."""

    def __init__(self, files: MappedFiles, spec: ArraySpec) -> None:
        self._files = files
        self._name = spec.file()
        self._count = spec.chunks_per_shard

    def place(self, number: int) -> tuple[int, int]:
        """Offset and length of a chunk; ``CacheError`` if the file does not hold it."""
        if self._name not in self._files:
            raise damaged(self._files.path(self._name), "the cache does not list it")
        start, length = self._files.index(self._name, self._count)[number].tolist()
        if start == MISSING:
            raise damaged(self._files.path(self._name), f"chunk {number} is not stored")
        return start, length


def mapped_column(files: MappedFiles, spec: ArraySpec) -> MappedRows | MappedChunks:
    """The reader of a column, by how it is stored."""
    return MappedChunks(files, spec) if spec.compressed else MappedRows(files, spec)
