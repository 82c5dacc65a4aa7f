"""An open store: its tables in memory, its arrays ready to be read, one image at a time."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.codec import rows_crc32
from kdcli.cache.format.images import decode_ids, decode_whole
from kdcli.cache.format.layout import (
    HIGH,
    LOW,
    ArraySpec,
    Column,
    image_specs,
    outcome_specs,
)
from kdcli.cache.format.root import Root, read_root
from kdcli.cache.reading.direct import MappedLabels, mapped_column
from kdcli.cache.reading.mapped import MappedFiles, damaged, missing_message
from kdcli.cache.reading.zarr_arrays import ZarrArray, ZarrLabels
from kdcli.common.errors import CacheError


class RowReader(Protocol):
    """Reads rows of a ragged table's column."""

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop``."""


class LabelReader(Protocol):
    """Reads the label map of one image."""

    def read(
        self, image: int, pixels: int, wide: bool, crc32: int
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The flat label map (pixels,)."""


@dataclass(frozen=True, slots=True)
class Table:
    """A ragged table: offsets (N + 1,) and CRC-32 (N,) in memory, columns on disk."""

    offsets: NDArray[np.int64]
    crc32: NDArray[np.uint32]
    columns: tuple[RowReader, ...]
    path: Path

    def rows(self, image: int) -> tuple[NDArray[Any], ...]:
        """One image's rows of every column; ``CacheError`` if they are not those written."""
        start, stop = int(self.offsets[image]), int(self.offsets[image + 1])
        found = tuple(column.rows(start, stop) for column in self.columns)
        if rows_crc32(found) != int(self.crc32[image]):
            raise damaged(self.path, "an image's rows are not the ones that were written")
        return found


class CacheArrays:
    """A complete cache, opened for reading. Images are addressed by their position in the list."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = _complete_root(path)
        id_bytes = int(_metadata(self, "image_ids/zarr.json")["shape"][0])
        ids, sizes, self._digests = image_specs(self.root.images, id_bytes)
        self.ids = decode_ids(self._whole(ids))
        self.sizes: NDArray[np.int32] = self._whole(sizes)
        outcome = {
            spec.name: self._whole(spec)
            for spec in outcome_specs(self.root.images, self.root.features)
        }
        self.status: NDArray[np.uint8] = outcome["status"]
        self._label_crc32 = outcome["label_crc32"]
        self.files = MappedFiles(path, self.root.files)
        self.tables: Mapping[str, Table] = {
            name: self._table(name, columns, outcome) for name, columns in self.root.tables.items()
        }
        self.labels = self._labels()

    @functools.cached_property
    def digests(self) -> NDArray[np.uint8]:
        """SHA-256 (N, 32) of the image files, read when asked for."""
        return self._whole(self._digests)

    def index_map(self, image: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The image's label map, (H, W) or a grid's (h, w)."""
        height, width = self.sizes[image].tolist()
        crc32 = int(self._label_crc32[image])
        flat = self.labels.read(image, height * width, self.is_wide(image), crc32)
        if "grid" in self.tables:
            _, cells = self.tables["grid"].rows(image)
            height, width = cells[0].tolist()
        return flat[: height * width].reshape(height, width)

    def window(self, image: int) -> NDArray[np.float32] | None:
        """Where in its label map the image lies; None if that is the image's own."""
        if "grid" not in self.tables:
            return None
        windows, _ = self.tables["grid"].rows(image)
        window: NDArray[np.float32] = windows[0]
        return window

    def is_wide(self, image: int) -> bool:
        """Whether the image has more than 256 label vectors, and so indices of two bytes."""
        offsets = self.tables["palette"].offsets
        return int(offsets[image + 1]) - int(offsets[image]) > 256

    def _table(
        self, name: str, columns: tuple[Column, ...], outcome: Mapping[str, NDArray[Any]]
    ) -> Table:
        offsets = outcome[f"{name}/offsets"]
        readers = tuple(self._column(c.spec(name, int(offsets[-1]))) for c in columns)
        return Table(offsets, outcome[f"{name}/crc32"], readers, self.path / name)

    def _column(self, spec: ArraySpec) -> RowReader:
        if _metadata(self, spec.metadata_path) == spec.metadata():
            return mapped_column(self.files, spec)
        return self._foreign(spec.name)

    def _labels(self) -> LabelReader:
        low, high = self.root.label_specs
        if all(_metadata(self, spec.metadata_path) == spec.metadata() for spec in (low, high)):
            return MappedLabels(self.files, low, high)
        return ZarrLabels(self._foreign(LOW), self._foreign(HIGH))

    def _foreign(self, name: str) -> ZarrArray:
        return ZarrArray(self.path, self.root, name)

    def _whole(self, spec: ArraySpec) -> NDArray[Any]:
        if _metadata(self, spec.metadata_path) != spec.metadata():
            return self._foreign(spec.name).rows(0, spec.shape[0])
        content = read_recorded(self.path, self.root, spec.file())
        try:
            return decode_whole(spec, content)
        except ValueError as error:
            raise damaged(self.path / spec.file(), error) from error


def _complete_root(path: Path) -> Root:
    root = read_root(path)
    if not root.complete:
        raise CacheError(
            f"{path}: the cache is incomplete: its generation was stopped or is still running. "
            "Run the same generate-tutors command again, it goes on where it stopped."
        )
    return root


def _metadata(arrays: CacheArrays, name: str) -> Mapping[str, Any]:
    content = read_recorded(arrays.path, arrays.root, name)
    metadata: Mapping[str, Any] = json.loads(content)
    return metadata


def read_recorded(cache: Path, root: Root, name: str) -> bytes:
    """A whole file, checked against the size and SHA-256 the root records for it."""
    path = cache / name
    if name not in root.files:
        raise damaged(path, "the cache does not list it")
    size, sha256 = root.files[name]
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CacheError(missing_message(path)) from error
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) != size:
        raise damaged(path, f"expected {size} bytes, got {len(content)}")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise damaged(path, "its SHA-256 is not the recorded one")
    return content
