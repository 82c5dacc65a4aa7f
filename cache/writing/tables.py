"""The end of a generation run: the parts of all shards become the flat arrays of the store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.codec import ShardWriter, encode_chunk
from kdcli.cache.format.images import encode_images, encode_metadata, write_metadata, write_whole
from kdcli.cache.format.layout import LOOKUP, ROOT, ArraySpec, outcome_specs, table_names
from kdcli.cache.format.lookup import build_lookup, lookup_specs
from kdcli.cache.format.root import Root
from kdcli.cache.writing.part import Part, read_part
from kdcli.common.errors import CacheError
from kdcli.common.files import atomic_file, sha256_file, sync, write_atomic
from kdcli.common.images import ImageEntry

GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}


class ColumnWriter:
    """Writes one column of a ragged table, rows arriving in pieces of any length."""

    def __init__(self, shard: ShardWriter, spec: ArraySpec) -> None:
        self._shard = shard
        self._spec = spec
        self._rest: NDArray[Any] = np.zeros((0, *spec.shape[1:]), dtype=spec.numpy_dtype)

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows; every full chunk goes to the file."""
        rows = np.concatenate([self._rest, rows.astype(self._spec.numpy_dtype, copy=False)])
        step = self._spec.chunk[0]
        full = len(rows) // step * step
        for start in range(0, full, step):
            self._add(rows[start : start + step])
        self._rest = rows[full:]

    def close(self) -> None:
        """Write what is left, padded with zeros to a whole chunk, and the index."""
        if len(self._rest):
            padded = np.zeros(self._spec.chunk, dtype=self._spec.numpy_dtype)
            padded[: len(self._rest)] = self._rest
            self._add(padded)
        self._shard.close()

    def _add(self, chunk: NDArray[Any]) -> None:
        self._shard.add(encode_chunk(chunk, self._spec.compressed))


def parts_of(cache: Path, shards: int) -> Iterable[Part]:
    """The parts of all shards in order; ``CacheError`` if one is missing or damaged."""
    for shard in range(shards):
        part = read_part(cache, shard)
        if part is None:
            raise CacheError(
                f"{cache}: shard {shard} of {shards} is not done yet. Run the same command again."
            )
        yield part


def write_tables(cache: Path, root: Root, images: Sequence[ImageEntry]) -> Root:
    """Write every array that needs all parts; the completed root, not yet written.

    Running it again writes the same bytes. All files are on the disk when it returns, so that the
    root may say so.
    """
    labels: dict[str, tuple[int, str]] = {}
    failed: dict[str, str] = {}
    pieces: dict[str, list[NDArray[Any]]] = {}
    for shard, part in enumerate(parts_of(cache, root.shards)):
        labels.update(part.files)
        first = shard * root.images_per_shard
        failed.update({images[first + i].image_id: why for i, why in part.reasons.items()})
        _gather(part, pieces)
    outcome = {name: _joined(name, arrays) for name, arrays in pieces.items()}
    for spec in outcome_specs(root.images, root.features):
        write_whole(cache, spec, outcome[spec.name])
    names = table_names(root.features)
    _write_columns(cache, root, {name: int(outcome[f"{name}/offsets"][-1]) for name in names})
    _write_lookup(cache, images, outcome, names)
    files = _all_files(cache, labels)
    sync(cache / name for name in files if name not in labels)  # those were when committed
    features = root.features | {LOOKUP}
    return replace(root, complete=True, features=features, failed=failed, files=files)


def _gather(part: Part, pieces: dict[str, list[NDArray[Any]]]) -> None:
    """Add a part's per-image arrays by name; offsets still as counts, after a first 0."""
    pieces.setdefault("status", []).append(part.status)
    pieces.setdefault("label_crc32", []).append(part.label_crc32)
    for table in part.columns:
        counts = pieces.setdefault(f"{table}/offsets", [np.zeros(1, np.int64)])
        counts.append(part.counts[table])
        pieces.setdefault(f"{table}/crc32", []).append(part.crc32[table])


def _joined(name: str, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    values = np.concatenate(arrays)
    return np.cumsum(values) if name.endswith("/offsets") else values


def _write_columns(cache: Path, root: Root, rows: Mapping[str, int]) -> None:
    """Stream the tables' rows from the parts: masks of a large cache exceed the memory."""
    specs = {
        table: [column.spec(table, rows[table]) for column in columns]
        for table, columns in root.tables.items()
    }
    with contextlib.ExitStack() as stack:
        writers = {
            table: [_column_writer(stack, cache, spec) for spec in columns]
            for table, columns in specs.items()
            if rows[table]
        }
        for part in parts_of(cache, root.shards):
            for table, columns in writers.items():
                for writer, values in zip(columns, part.columns[table], strict=True):
                    writer.append(values)
        for writer in (writer for columns in writers.values() for writer in columns):
            writer.close()
    for table in rows:
        write_atomic(cache / table / ROOT, encode_metadata(GROUP))
        for spec in specs[table]:
            write_metadata(cache, spec)
            if rows[table] == 0:
                (cache / spec.file()).unlink(missing_ok=True)  # of an earlier state


def _write_lookup(
    cache: Path,
    images: Sequence[ImageEntry],
    outcome: Mapping[str, NDArray[Any]],
    tables: Sequence[str],
) -> None:
    _, sizes, digests = encode_images(images).values()
    content = build_lookup([e.image_id for e in images], sizes, digests, outcome, tables)
    write_atomic(cache / LOOKUP / ROOT, encode_metadata(GROUP))
    for spec, rows in zip(lookup_specs(len(images), tables), content, strict=True):
        with contextlib.ExitStack() as stack:
            writer = _column_writer(stack, cache, spec)
            writer.append(rows)
            writer.close()
        write_metadata(cache, spec)


def _column_writer(stack: contextlib.ExitStack, cache: Path, spec: ArraySpec) -> ColumnWriter:
    handle = stack.enter_context(atomic_file(cache / spec.file()))
    return ColumnWriter(ShardWriter(handle, spec.chunks_per_shard), spec)


def _all_files(cache: Path, labels: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Size and digest of every file but the root; label shards as their parts recorded them."""
    files = {}
    for path in sorted(cache.rglob("*")):
        name = path.relative_to(cache).as_posix()
        if name == ROOT or name.startswith(".") or not path.is_file():
            continue
        files[name] = labels.get(name) or (path.stat().st_size, sha256_file(path))
    return files
