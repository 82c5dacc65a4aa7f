"""An open store: its arrays ready to be read, one image at a time."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.codec import rows_crc32
from kdcli.cache.format.images import decode_ids, decode_whole
from kdcli.cache.format.layout import (
    HIGH,
    LOOKUP,
    LOW,
    ArraySpec,
    Column,
    image_specs,
    outcome_specs,
)
from kdcli.cache.format.lookup import lookup_specs
from kdcli.cache.format.root import Root, read_root
from kdcli.cache.reading.direct import MappedLabels, mapped_column
from kdcli.cache.reading.images import ImageRecord, Images, LoadedImages, MappedImages
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


class Table:
    """A ragged table: its columns on disk."""

    def __init__(self, name: str, columns: tuple[RowReader, ...], path: Path) -> None:
        self.columns = columns
        self._name = name
        self._path = path

    def rows(self, image: ImageRecord) -> tuple[NDArray[Any], ...]:
        """One image's rows of every column; ``CacheError`` if they are not those written."""
        start, stop, crc32 = image.tables[self._name]
        found = tuple(column.rows(start, stop) for column in self.columns)
        if rows_crc32(found) != crc32:
            raise damaged(self._path, "an image's rows are not the ones that were written")
        return found


class CacheArrays:
    """A complete cache, opened for reading.

    What opening reads does not grow with the images, if the store has a lookup: arrays of all of
    them (``ids``, ``sizes``, ``digests``, ``outcome``) are read when they are asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = _complete_root(path)
        self.files = MappedFiles(path, self.root.files)
        self.tables: Mapping[str, Table] = {
            name: self._table(name, columns) for name, columns in self.root.tables.items()
        }
        self.labels = self._labels()
        self.images = self._images(tuple(self.tables))

    @functools.cached_property
    def _list_specs(self) -> tuple[ArraySpec, ...]:
        return image_specs(self.root.images, self._rows_of("image_ids"))

    @functools.cached_property
    def ids(self) -> list[str]:
        """The whole list of images, failed ones included."""
        return decode_ids(self._whole(self._list_specs[0]))

    @functools.cached_property
    def sizes(self) -> NDArray[np.int32]:
        """Height and width (N, 2) of the images."""
        return self._whole(self._list_specs[1])

    @functools.cached_property
    def digests(self) -> NDArray[np.uint8]:
        """SHA-256 (N, 32) of the image files."""
        return self._whole(self._list_specs[2])

    @functools.cached_property
    def outcome(self) -> Mapping[str, NDArray[Any]]:
        """The arrays of `outcome_specs` by name."""
        specs = outcome_specs(self.root.images, self.root.features)
        return {spec.name: self._whole(spec) for spec in specs}

    def index_map(self, image: ImageRecord) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The image's label map, (H, W) or a grid's (h, w)."""
        height, width = image.height, image.width
        flat = self.labels.read(image.position, height * width, image.is_wide, image.label_crc32)
        if "grid" in self.tables:
            _, cells = self.tables["grid"].rows(image)
            height, width = cells[0].tolist()
        return flat[: height * width].reshape(height, width)

    def window(self, image: ImageRecord) -> NDArray[np.float32] | None:
        """Where in its label map the image lies; None if that is the image's own."""
        if "grid" not in self.tables:
            return None
        windows, _ = self.tables["grid"].rows(image)
        window: NDArray[np.float32] = windows[0]
        return window

    def _rows_of(self, name: str) -> int:
        return int(_metadata(self, f"{name}/zarr.json")["shape"][0])

    def _images(self, tables: Sequence[str]) -> Images:
        if LOOKUP not in self.root.features:
            return LoadedImages(self.ids, self.sizes, lambda: self.digests, self.outcome, tables)
        for spec in lookup_specs(self.root.images, tables):
            if _metadata(self, spec.metadata_path) != spec.metadata():
                raise damaged(self.path / spec.name, "its rows are not of the store's images")
        return MappedImages(self.files, self.root, tables)

    def _table(self, name: str, columns: Sequence[Column]) -> Table:
        rows = self._rows_of(f"{name}/{columns[0].name}")
        readers = tuple(self._column(column.spec(name, rows)) for column in columns)
        return Table(name, readers, self.path / name)

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
