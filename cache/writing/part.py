"""One shard of a cache under way: its images in encoded form, and the part file that holds them.

Label maps go straight into their final shard files. The ragged tables can only be written once all
rows are known; until then each shard's rows wait in a part file, which is written last and thereby
declares the shard done.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.codec import chunks_crc32, compress, rows_crc32
from kdcli.cache.format.layout import COLUMN_NAMES, PARTS, Column
from kdcli.cache.format.record import TutorOutput
from kdcli.common.files import write_atomic

Rows = tuple[NDArray[Any], ...]
"""An image's rows of a table, one array per column."""

Tables = Mapping[str, tuple[Column, ...]]
"""The tables of a store; see `cache.format.layout.store_tables`."""

SHA_BYTES = 32


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image as it will lie in the store. A failed one has a reason and nothing else."""

    tables: Mapping[str, Rows]
    low: tuple[bytes | None, ...] = ()
    high: tuple[bytes | None, ...] = ()
    reason: str | None = None

    @property
    def crc32(self) -> int:
        """What ties its label chunks to it."""
        return chunks_crc32((*self.low, *self.high))


def failed_image(reason: str, tables: Tables) -> EncodedImage:
    """An image without output. What UTF-8 cannot say of the reason (file names) becomes "?"."""
    reason = reason.encode("utf-8", "replace").decode("utf-8")
    return EncodedImage(_no_rows(tables), reason=reason)


def _no_rows(tables: Tables) -> dict[str, Rows]:
    return {name: tuple(c.empty() for c in columns) for name, columns in tables.items()}


def output_rows(output: TutorOutput, tables: Tables) -> dict[str, Rows]:
    """The rows that an output has in each of the store's tables."""
    rows: dict[str, Rows] = {
        "detections": (output.boxes, output.labels, output.scores),
        "palette": (output.palette,),
    }
    if output.instances is not None:
        kept = output.instances
        rows["instances"] = (kept.masks, kept.boxes, kept.labels, kept.scores)
    if output.dropped is not None:
        rows["dropped"] = (output.dropped[None],)
    if output.window is not None:
        cells = np.array(output.index_map.shape, np.int32)
        rows["grid"] = (output.window[None], cells[None])
    return {name: rows.get(name, empty) for name, empty in _no_rows(tables).items()}


def encode_image(
    output: TutorOutput, chunk_pixels: int, tables: Tables, pixels: int
) -> EncodedImage:
    """A checked tutor output in the store's form; ``pixels``: of the image."""
    flat = output.index_map.reshape(-1)
    if len(flat) < pixels:  # a grid's cells take the first places of its image's
        flat = np.concatenate([flat, np.zeros(pixels - len(flat), flat.dtype)])
    wide = len(output.palette) > 256
    low = _encode_plane((flat & 255).astype(np.uint8), chunk_pixels)
    high = _encode_plane((flat >> 8).astype(np.uint8), chunk_pixels) if wide else ()
    return EncodedImage(output_rows(output, tables), low, high)


def _encode_plane(flat: NDArray[np.uint8], chunk_pixels: int) -> tuple[bytes | None, ...]:
    return tuple(
        _encode_chunk(flat[start : start + chunk_pixels], chunk_pixels)
        for start in range(0, len(flat), chunk_pixels)
    )


def _encode_chunk(pixels: NDArray[np.uint8], chunk_pixels: int) -> bytes | None:
    if not pixels.any():
        return None  # all fill value
    padded = np.zeros(chunk_pixels, dtype=np.uint8)
    padded[: len(pixels)] = pixels
    return compress(padded)


@dataclass(frozen=True, slots=True)
class Part:
    """The content of a part file: everything of a shard except its label chunks."""

    label_crc32: NDArray[np.uint32]
    reasons: Mapping[int, str]
    files: Mapping[str, tuple[int, str]]
    counts: Mapping[str, NDArray[np.int64]]
    crc32: Mapping[str, NDArray[np.uint32]]
    columns: Mapping[str, Rows] = field(repr=False)

    @property
    def status(self) -> NDArray[np.uint8]:
        """0 labelled, 1 failed; (images of the shard,)."""
        status = np.zeros(len(self.label_crc32), dtype=np.uint8)
        status[list(self.reasons)] = 1
        return status

    def rows(self, table: str, image: int) -> Rows:
        """One image's rows of a table."""
        ends = np.cumsum(self.counts[table])
        stop = int(ends[image])
        start = stop - int(self.counts[table][image])
        return tuple(column[start:stop] for column in self.columns[table])


def part_path(cache: Path, shard: int) -> Path:
    """Where the part file of a shard lies while the cache is under way."""
    return cache / PARTS / f"{shard:06d}.part"


def build_part(images: Sequence[EncodedImage], files: Mapping[str, tuple[int, str]]) -> Part:
    """Gather a shard's rows. ``files``: its label shard files, with size and SHA-256."""
    names = tuple(images[0].tables)
    return Part(
        label_crc32=np.array([image.crc32 for image in images], dtype=np.uint32),
        reasons={i: im.reason for i, im in enumerate(images) if im.reason is not None},
        files=dict(files),
        counts={n: np.array([len(im.tables[n][0]) for im in images], np.int64) for n in names},
        crc32={n: np.array([rows_crc32(im.tables[n]) for im in images], np.uint32) for n in names},
        columns={
            n: tuple(
                np.concatenate([im.tables[n][c] for im in images])
                for c in range(len(COLUMN_NAMES[n]))
            )
            for n in names
        },
    )


def write_part(cache: Path, shard: int, part: Part) -> None:
    """Write a part file, which declares its shard done."""
    notes = {
        "reasons": {str(i): reason for i, reason in part.reasons.items()},
        "files": part.files,
        "tables": list(part.columns),
    }
    arrays: dict[str, NDArray[Any]] = {
        "notes": np.frombuffer(json.dumps(notes).encode("utf-8"), dtype=np.uint8),
        "label_crc32": part.label_crc32,
    }
    for name, columns in part.columns.items():
        arrays[f"{name}.counts"] = part.counts[name]
        arrays[f"{name}.crc32"] = part.crc32[name]
        for column, values in zip(COLUMN_NAMES[name], columns, strict=True):
            arrays[f"{name}.{column}"] = values
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    write_atomic(part_path(cache, shard), hashlib.sha256(content).digest() + content)


def read_part(cache: Path, shard: int) -> Part | None:
    """The part file of a shard; None if there is none or it is damaged."""
    try:
        content = part_path(cache, shard).read_bytes()
    except FileNotFoundError:
        return None
    digest, body = content[:SHA_BYTES], content[SHA_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        return None
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            return _from_arrays(dict(arrays))
    except (ValueError, KeyError, zipfile.BadZipFile):  # of another version of this code
        return None


def _from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Part:
    notes = json.loads(arrays["notes"].tobytes())
    names: list[str] = notes["tables"]
    return Part(
        label_crc32=arrays["label_crc32"],
        reasons={int(i): reason for i, reason in notes["reasons"].items()},
        files={path: (size, sha) for path, (size, sha) in notes["files"].items()},
        counts={name: arrays[f"{name}.counts"] for name in names},
        crc32={name: arrays[f"{name}.crc32"] for name in names},
        columns={
            name: tuple(arrays[f"{name}.{column}"] for column in COLUMN_NAMES[name])
            for name in names
        },
    )
