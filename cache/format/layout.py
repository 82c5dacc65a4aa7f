"""Names, types, chunks and version of the store, in one place. FORMAT.md says the same in prose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.cache.format.record import DROPPED, MASK_SIDE

FORMAT_VERSION = 1
ATTRIBUTE = "tutor_cache"
"""Key of this format's own mapping among the root group's attributes."""

OPTIONAL_TABLES = ("instances", "dropped", "grid")
OTHER_CLASSES = "classes"
"""The feature of a store of another number of classes than VOC's: older readers refuse it."""
LOOKUP = "lookup"
"""Feature, and group, of the rows by which images are found: `cache.format.lookup`."""
KNOWN_FEATURES = frozenset({*OPTIONAL_TABLES, OTHER_CLASSES, LOOKUP})
"""Optional parts this code can read; a store that needs another one is refused."""

IMAGES_PER_SHARD = 64
MAX_CHUNK_PIXELS = 2**18
MAX_CHUNKS_PER_IMAGE = 256
"""Beyond it chunks grow: every image of a shard has as many index entries as the largest."""

ROWS_PER_CHUNK = 1024
"""Rows of a plain column in one chunk. The direct reader takes the rows it needs out of it."""

VECTORS_PER_CHUNK = 64
MASKS_PER_CHUNK = 16
COUNTS_PER_CHUNK = 64
"""Rows of a compressed column in one chunk: an image decodes one or two chunks of 3 to 12 kB."""

ZSTD_LEVEL = 9
"""Label maps take 17 % less than at level 3 and are decoded as fast; 0.6 ms an image to write."""
MAX_PALETTE = 2**16
VOC_CLASSES = 21
MOST_CLASSES = 255
"""Labels are bytes, and 255 is void."""

ROOT = "zarr.json"
PARTS = ".parts"
LOCK = ".lock"
GENERATING = "generating into this cache"
"""What the owner of the lock does."""

LOW = "label_map"
HIGH = "label_map_high"

JSON = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One Zarr v3 array of the store: everything its ``zarr.json`` says.

    ``chunk`` is the unit of decoding. ``shard`` is the unit of storage: a file that holds many
    chunks behind an index; None means that a chunk is a file of its own.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...] | None
    dimensions: tuple[str, ...]
    compressed: bool = True
    """zstd with its checksum, or plain bytes with a CRC-32C, for what does not compress."""

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The type of its elements, little endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def chunk_bytes(self) -> int:
        """Size of one decoded chunk."""
        return math.prod(self.chunk) * self.numpy_dtype.itemsize

    @property
    def chunks_per_shard(self) -> int:
        """Number of chunks behind one shard's index."""
        grid = [s // c for s, c in zip(self.shard or self.chunk, self.chunk, strict=True)]
        return math.prod(grid)

    @property
    def metadata_path(self) -> str:
        """Where its ``zarr.json`` lies in the store."""
        return f"{self.name}/zarr.json"

    def file(self, shard: int = 0) -> str:
        """Path of its shard (or chunk) number ``shard`` along the first axis."""
        return "/".join((self.name, "c", str(shard), *("0" for _ in self.shape[1:])))

    def metadata(self) -> dict[str, Any]:
        """The content of its ``zarr.json``, as zarr-python writes it."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": np.dtype(self.dtype).name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(self.shard or self.chunk)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0.0 if self.numpy_dtype.kind == "f" else 0,
            "codecs": self._codecs(),
            "attributes": {},
            "dimension_names": list(self.dimensions),
            "storage_transformers": [],
        }

    def _codecs(self) -> list[dict[str, Any]]:
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        inner = [
            little if self.numpy_dtype.itemsize > 1 else {"name": "bytes"},
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": True}}
            if self.compressed
            else {"name": "crc32c"},
        ]
        if self.shard is None:
            return inner
        sharding = {
            "chunk_shape": list(self.chunk),
            "codecs": inner,
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        return [{"name": "sharding_indexed", "configuration": sharding}]


def label_spec(name: str, images: int, max_pixels: int, images_per_shard: int) -> ArraySpec:
    """A label map array: one row an image, row-major pixels, cut into chunks of one row.

    The chunk is capped so that one enormous image does not make every other one decode a chunk of
    its size; chunks beyond an image's own pixels are never stored. ``max_pixels`` is at least 1.
    """
    cap = max(MAX_CHUNK_PIXELS, -(-max_pixels // MAX_CHUNKS_PER_IMAGE))
    chunk = min(max_pixels, cap)
    width = chunk * -(-max_pixels // chunk)
    return ArraySpec(
        name, "uint8", (images, width), (1, chunk), (images_per_shard, width), ("image", "pixel")
    )


def whole_spec(name: str, dtype: str, shape: tuple[int, ...], *dimensions: str) -> ArraySpec:
    """A table that is read as a whole: one chunk, one file."""
    chunk = tuple(max(1, side) for side in shape)
    return ArraySpec(name, dtype, shape, chunk, None, dimensions)


@dataclass(frozen=True, slots=True)
class Column:
    """One array of a ragged table: the rows of all images, one after the other."""

    name: str
    dtype: str
    row: tuple[int, ...]
    rows_per_chunk: int
    dimensions: tuple[str, ...]
    compressed: bool

    def spec(self, table: str, rows: int) -> ArraySpec:
        """Its array for ``rows`` rows in all: one shard, so one file."""
        chunk = (self.rows_per_chunk, *self.row)
        shard_rows = self.rows_per_chunk * max(1, -(-rows // self.rows_per_chunk))
        return ArraySpec(
            f"{table}/{self.name}",
            self.dtype,
            (rows, *self.row),
            chunk,
            (shard_rows, *self.row),
            (table, *self.dimensions),
            self.compressed,
        )

    def empty(self) -> np.ndarray[Any, np.dtype[Any]]:
        """No rows of it."""
        return np.zeros((0, *self.row), dtype=self.dtype)


# zstd would take 13 % off these columns, and ten times as long to read an image's few rows.
_BOXES = Column("boxes", "float32", (4,), ROWS_PER_CHUNK, ("corner",), compressed=False)
_LABELS = Column("labels", "uint8", (), ROWS_PER_CHUNK, (), compressed=False)
_CONFIDENCES = Column("confidences", "float32", (), ROWS_PER_CHUNK, (), compressed=False)
_MASKS = Column(
    "masks", "uint8", (MASK_SIDE, MASK_SIDE), MASKS_PER_CHUNK, ("row", "column"), compressed=True
)
_COUNTS = Column(
    "per_reason", "uint32", (len(DROPPED),), COUNTS_PER_CHUNK, ("role_reason",), compressed=True
)

_WINDOW = Column("window", "float32", (4,), ROWS_PER_CHUNK, ("corner",), compressed=False)
_CELLS = Column("cells", "int32", (2,), ROWS_PER_CHUNK, ("height_width",), compressed=False)


def _vectors(classes: int) -> Column:
    return Column("vectors", "float32", (classes,), VECTORS_PER_CHUNK, ("class",), compressed=True)


def tables(classes: int) -> dict[str, tuple[Column, ...]]:
    """The ragged tables of a store of so many classes, background included.

    Each also has ``offsets`` (N + 1,) int64 and ``crc32`` (N,) uint32.
    """
    return {
        "detections": (_BOXES, _LABELS, _CONFIDENCES),
        "palette": (_vectors(classes),),
        "instances": (_MASKS, _BOXES, _LABELS, _CONFIDENCES),
        "dropped": (_COUNTS,),
        "grid": (_WINDOW, _CELLS),
    }


COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    table: tuple(column.name for column in columns) for table, columns in tables(1).items()
}
"""The columns of every ragged table."""


def optional_features(settings: JSON) -> frozenset[str]:
    """What a new store of these settings holds beside boxes and label vectors of VOC."""
    wanted = {
        "instances": settings.get("keep_masks"),
        "grid": settings.get("grid"),
        OTHER_CLASSES: len(settings["class_names"]) != VOC_CLASSES,
    }
    return frozenset({"dropped", *(name for name, kept in wanted.items() if kept)})


def table_names(features: frozenset[str]) -> tuple[str, ...]:
    """The ragged tables of a store with these features."""
    return tuple(name for name in COLUMN_NAMES if name not in OPTIONAL_TABLES or name in features)


def store_tables(features: frozenset[str], classes: int) -> dict[str, tuple[Column, ...]]:
    """`tables` without those that a store with these features lacks."""
    every = tables(classes)
    return {name: every[name] for name in table_names(features)}


def image_specs(images: int, id_bytes: int) -> tuple[ArraySpec, ...]:
    """The arrays that are known before the first image is labelled: the list of images."""
    return (
        whole_spec("image_ids", "uint8", (id_bytes,), "byte"),
        whole_spec("image_size", "int32", (images, 2), "image", "height_width"),
        whole_spec("image_sha256", "uint8", (images, 32), "image", "byte"),
    )


def outcome_specs(images: int, features: frozenset[str]) -> tuple[ArraySpec, ...]:
    """The per-image arrays written at the end: outcome, checks, and each table's offsets."""
    specs = [
        whole_spec("status", "uint8", (images,), "image"),
        whole_spec("label_crc32", "uint32", (images,), "image"),
    ]
    for table in table_names(features):
        specs.append(whole_spec(f"{table}/offsets", "int64", (images + 1,), "boundary"))
        specs.append(whole_spec(f"{table}/crc32", "uint32", (images,), "image"))
    return tuple(specs)
