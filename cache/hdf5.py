"""A cache as one HDF5 file, for file systems that dislike many files; and back, exactly."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from kdcli.cache.copying import write_copy
from kdcli.cache.format.layout import (
    COLUMN_NAMES,
    FORMAT_VERSION,
    MAX_CHUNK_PIXELS,
    Column,
)
from kdcli.cache.format.record import FailedImage, TutorOutput, instance_masks
from kdcli.cache.format.root import CONVENTIONS, attributes_digest
from kdcli.cache.hdf5_target import Target
from kdcli.cache.reader import TutorCache
from kdcli.cache.writing.part import output_rows
from kdcli.common.errors import CacheError
from kdcli.common.files import atomic_file, sync
from kdcli.common.images import ImageEntry
from kdcli.common.progress import Progress, no_progress

HOW_TO_READ = """\
import json
import h5py
import numpy as np

with h5py.File("cache.h5", "r") as cache:
    about = json.loads(cache.attrs["tutor_cache"])
    ids = cache["image_ids"].asstr()[:].tolist()
    i = ids.index("2007_000032")
    height, width = cache["image_size"][i]
    start, stop = cache["detections/offsets"][i : i + 2]
    boxes = cache["detections/boxes"][start:stop]
    labels = cache["detections/labels"][start:stop]
    confidences = cache["detections/confidences"][start:stop]
    first, last = cache["palette/offsets"][i : i + 2]
    palette = cache["palette/vectors"][first:last]
    label_map = cache["label_map"][i, : height * width].reshape(height, width)
    label_vectors = palette[label_map]
"""
"""Kept in the file's own attribute ``how_to_read``."""

ROWS_PER_CHUNK = 1024


def export_cache(path: str | Path, out: str | Path, progress: Progress = no_progress) -> None:
    """Write the cache at ``path`` into the HDF5 file ``out``, which appears when it is whole.

    Every data set is checksummed (Fletcher-32) and each image has the SHA-256 of its output.
    Raises ``CacheError``: no complete cache there, damaged, ``out`` exists or cannot be written.
    """
    out = Path(out)
    cache = TutorCache.open(path)
    if out.exists():
        raise CacheError(f"{out}: exists already. Choose another name or remove it.")
    with atomic_file(out) as handle:
        target = Target(handle.fileno())
        with h5py.File(target, "w") as file:
            _write(cache, file, target.check, progress)
        target.check()
        os.fsync(handle.fileno())
    sync([out])


def import_cache(file: str | Path, out: str | Path, progress: Progress = no_progress) -> None:
    """Write the cache ``out`` from the HDF5 file that ``export_cache`` wrote.

    Stopped and called again, it goes on. Raises ``CacheError``: no such file or not one of those,
    an image whose digest differs, a cache that does not come out with the same fingerprint.
    """
    file, out = Path(file), Path(out)
    try:
        with h5py.File(file, "r") as content:
            about = _about(file, content)
            images = _read_images(content)
            write_copy(
                out,
                images,
                about["settings"],
                about["environments"],
                about["images_per_shard"],
                _reader(file, content, about["failed"], images),
                progress,
            )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        # What h5py raises depends on which byte of the file is damaged.
        raise CacheError(
            f"{file}: cannot be read as HDF5 ({error}). Export the cache again."
        ) from error
    found = TutorCache.open(out).fingerprint
    if found != about["fingerprint"]:
        raise CacheError(
            f"{file}: damaged: expected the fingerprint {about['fingerprint']}, got {found}. "
            "Export the cache again."
        )


def output_digest(output: TutorOutput) -> bytes:
    """SHA-256 of an image's output: its arrays in the order of :class:`TutorOutput`."""
    digest = hashlib.sha256()
    arrays = [output.boxes, output.labels, output.scores, output.index_map, output.palette]
    if output.instances is not None:
        kept = output.instances
        arrays += [kept.masks, kept.boxes, kept.labels, kept.scores]
    arrays += [array for array in (output.dropped, output.window) if array is not None]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _write(
    cache: TutorCache, file: h5py.File, check: Callable[[], None], progress: Progress
) -> None:
    entries = cache.entries()
    tables = cache.tables
    digests = np.zeros((len(entries), 32), dtype=np.uint8)
    counts = {name: np.zeros(len(entries) + 1, dtype=np.int64) for name in tables}
    index_map = _index_map(file, cache, entries)
    columns = {name: _columns(file, name, tables[name]) for name in tables}
    for i, entry in enumerate(progress(entries, len(entries), "exporting")):
        check()
        if entry.image_id not in cache:
            continue
        output = cache[entry.image_id]
        digests[i] = np.frombuffer(output_digest(output), dtype=np.uint8)
        if output.index_map.any():
            index_map[i, : output.index_map.size] = output.index_map.reshape(-1)
        for name, rows in output_rows(output, tables).items():
            counts[name][i + 1] = len(rows[0])
            for column, values in zip(columns[name], rows, strict=True):
                column.append(values)
    for name in tables:
        for column in columns[name]:
            column.close()
        _dataset(file, f"{name}/offsets", np.cumsum(counts[name]))
    _dataset(file, "output_sha256", digests)
    _dataset(file, "image_size", np.array([(e.height, e.width) for e in entries], np.int32))
    sha256 = np.array([list(bytes.fromhex(e.sha256)) for e in entries], np.uint8)
    _dataset(file, "image_sha256", sha256)
    file["image_ids"] = np.array([e.image_id for e in entries], dtype=h5py.string_dtype())
    about: dict[str, Any] = {
        **cache.provenance,
        "format_version": FORMAT_VERSION,
        "failed": dict(cache.failed),
        "conventions": CONVENTIONS,
    }
    file.attrs["how_to_read"] = HOW_TO_READ
    about["digest"] = attributes_digest(about)
    file.attrs["tutor_cache"] = json.dumps(about, ensure_ascii=False)


def _index_map(file: h5py.File, cache: TutorCache, entries: list[ImageEntry]) -> h5py.Dataset:
    pixels = max(1, *(entry.height * entry.width for entry in entries))
    wide = any(len(cache.palette(image_id)) > 256 for image_id in cache)
    return file.create_dataset(
        "label_map",
        shape=(len(entries), pixels),
        dtype=np.uint16 if wide else np.uint8,
        chunks=(1, min(pixels, MAX_CHUNK_PIXELS)),
        compression="gzip",
        fletcher32=True,
    )


def _columns(file: h5py.File, table: str, columns: tuple[Column, ...]) -> list[_Column]:
    return [_Column(file, f"{table}/{column.name}", column.empty()) for column in columns]


class _Column:
    """A data set that grows at its end, in pieces of at least a chunk."""

    def __init__(self, file: h5py.File, name: str, empty: NDArray[Any]) -> None:
        self._rest = [empty]
        self._waiting = 0
        self._dataset = file.create_dataset(
            name,
            data=empty,
            maxshape=(None, *empty.shape[1:]),
            chunks=(ROWS_PER_CHUNK, *empty.shape[1:]),
            compression="gzip",
            fletcher32=True,
        )

    def append(self, rows: NDArray[Any]) -> None:
        self._rest.append(rows)
        self._waiting += len(rows)
        if self._waiting >= ROWS_PER_CHUNK:
            self.close()

    def close(self) -> None:
        rows = np.concatenate(self._rest)
        start = len(self._dataset)
        self._dataset.resize(start + len(rows), axis=0)
        self._dataset[start:] = rows
        self._rest, self._waiting = [rows[:0]], 0


def _dataset(file: h5py.File, name: str, values: NDArray[Any]) -> None:
    file.create_dataset(name, data=values, chunks=True, compression="gzip", fletcher32=True)


def _about(path: Path, file: h5py.File) -> Mapping[str, Any]:
    try:
        about: dict[str, Any] = json.loads(file.attrs["tutor_cache"])
        version, digest = about["format_version"], about.pop("digest")
    except (KeyError, ValueError, TypeError) as error:
        raise CacheError(
            f"{path}: not an exported tutor cache. Give a file that export-cache wrote."
        ) from error
    if attributes_digest(about) != digest:
        raise CacheError(f"{path}: damaged: its attributes changed. Export the cache again.")
    if version != FORMAT_VERSION:
        raise CacheError(
            f"{path}: expected format version {FORMAT_VERSION}, got {version}. Import it with the "
            "kdcli that exported it."
        )
    return about


def _read_images(file: h5py.File) -> list[ImageEntry]:
    ids = file["image_ids"].asstr()[:].tolist()
    sizes, digests = file["image_size"][:].tolist(), file["image_sha256"][:]
    return [
        ImageEntry(name, h, w, digest.tobytes().hex())
        for name, (h, w), digest in zip(ids, sizes, digests, strict=True)
    ]


def _reader(
    path: Path, file: h5py.File, failed: Mapping[str, str], images: list[ImageEntry]
) -> Callable[[ImageEntry], TutorOutput | FailedImage]:
    """A function that reads one image's output and compares its digest."""
    positions = {entry.image_id: i for i, entry in enumerate(images)}
    offsets = {name: file[name]["offsets"][:].tolist() for name in COLUMN_NAMES if name in file}
    digests = file["output_sha256"][:]

    def rows(table: str, i: int) -> list[NDArray[Any]]:
        start, stop = offsets[table][i : i + 2]
        return [file[table][column][start:stop] for column in COLUMN_NAMES[table]]

    def read(entry: ImageEntry) -> TutorOutput | FailedImage:
        if entry.image_id in failed:
            return FailedImage(entry.image_id, failed[entry.image_id])
        i = positions[entry.image_id]
        (palette,) = rows("palette", i)
        flat = file["label_map"][i, : entry.height * entry.width]
        index = flat.astype(np.uint16 if len(palette) > 256 else np.uint8)
        kept = instance_masks(rows("instances", i)) if "instances" in offsets else None
        boxes, labels, scores = rows("detections", i)
        window, shape = None, (entry.height, entry.width)
        if "grid" in offsets:
            (window,), (shape,) = rows("grid", i)
        index_map = index[: shape[0] * shape[1]].reshape(shape)
        counts = rows("dropped", i)[0] if "dropped" in offsets else None
        dropped = None if counts is None or not len(counts) else counts[0]
        output = TutorOutput(
            entry.image_id, boxes, labels, scores, index_map, palette, kept, dropped, window
        )
        if output_digest(output) != digests[i].tobytes():
            raise CacheError(
                f"{path}: damaged: the output of {entry.image_id} does not match its digest. "
                "Export the cache again."
            )
        return output

    return read
