"""What a generation run would do and how large its cache would become; nothing is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kdcli.cache.format.codec import compress
from kdcli.cache.format.images import encode_metadata
from kdcli.cache.format.layout import (
    HIGH,
    JSON,
    LOW,
    ROOT,
    ArraySpec,
    Column,
    image_specs,
    label_spec,
    optional_features,
    outcome_specs,
    store_tables,
)
from kdcli.cache.format.lookup import lookup_specs
from kdcli.cache.format.record import TutorOutput
from kdcli.cache.format.root import read_root
from kdcli.cache.writing.part import EncodedImage, Tables, encode_image
from kdcli.cache.writing.resume import check_settings, failed_positions, labelled_ids, with_images
from kdcli.cache.writing.shard import done_part
from kdcli.common.images import ImageEntry

ROOT_BYTES = 6000
"""About what provenance and definitions take in the root's attributes."""
FILE_ENTRY_BYTES = 160
"""About what the root's attributes say of one file."""


def images_to_do(
    path: Path, images: Sequence[ImageEntry], settings: JSON
) -> tuple[ImageEntry, ...]:
    """The images that a run into ``path`` would label: all, or what an earlier run left.

    Raises ``CacheError`` as the run would: another list of images or other settings. Damage of a
    complete cache, which the run would repair, is not looked for.
    """
    if not (path / ROOT).exists():
        return tuple(images)
    root = read_root(path)
    check_settings(path, root, settings)
    done: Mapping[int, frozenset[int]]
    if root.complete:
        done = failed_positions(root, images)
    else:
        parts = {shard: done_part(path, shard) for shard in range(root.shards)}
        done = {shard: frozenset(part.reasons) for shard, part in parts.items() if part}
    labelled = labelled_ids(root, images, done)
    with_images(path, root, images, labelled)
    return tuple(entry for entry in images if entry.image_id not in labelled)


def expected_bytes(
    sample: Sequence[TutorOutput], images: Sequence[ImageEntry], images_per_shard: int
) -> int:
    """About how many bytes a cache of ``images`` takes if ``sample`` is typical of them."""
    pixels = max(1, *(entry.height * entry.width for entry in images))
    low, high = (label_spec(name, len(images), pixels, images_per_shard) for name in (LOW, HIGH))
    first = sample[0]
    classes = first.palette.shape[1]
    features = optional_features(
        {
            "class_names": range(classes),
            "keep_masks": first.instances is not None,
            "grid": first.window is not None,
        }
    )
    tables = store_tables(features, classes)
    encoded = [encode_image(output, low.chunk[1], tables, pixels=1) for output in sample]
    shards = -(-len(images) // images_per_shard)
    planes = 1 + any(image.high for image in encoded)
    chunks = [len(chunk) for image in encoded for chunk in (*image.low, *image.high) if chunk]
    labels = sum(chunks) / len(sample) * len(images) + planes * shards * 16 * low.chunks_per_shard
    ids = len("\n".join(entry.image_id for entry in images).encode())
    whole = [*image_specs(len(images), ids), *outcome_specs(len(images), features)]
    columns, rows = _columns(encoded, tables, len(images))
    lookup = lookup_specs(len(images), tuple(tables))
    columns += lookup
    rows += sum(math.prod(spec.shard or spec.shape) for spec in lookup)  # the last chunk is padded
    metadata = sum(len(encode_metadata(s.metadata())) for s in (low, high, *whole, *columns))
    files = planes * shards + 2 * len(whole) + 2 * len(columns)
    root = ROOT_BYTES + FILE_ENTRY_BYTES * files
    return round(labels + rows + sum(spec.chunk_bytes for spec in whole) + metadata + root)


def _columns(
    encoded: Sequence[EncodedImage], tables: Tables, images: int
) -> tuple[list[ArraySpec], float]:
    """The tables' arrays for so many images, and the bytes of their rows."""
    specs, total = [], 0.0
    for table, columns in tables.items():
        for position, column in enumerate(columns):
            rows = np.concatenate([image.tables[table][position] for image in encoded])
            spec = column.spec(table, round(len(rows) / len(encoded) * images))
            specs.append(spec)
            total += _row_bytes(column, rows) * images / len(encoded)
    return specs, total


def _row_bytes(column: Column, rows: np.ndarray) -> int:
    if not column.compressed:
        return rows.nbytes
    step = column.rows_per_chunk
    return sum(len(compress(rows[start : start + step])) for start in range(0, len(rows), step))
