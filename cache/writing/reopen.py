"""A complete store back into parts, so that some of its shards can be redone."""

from __future__ import annotations

from pathlib import Path

from kdcli.cache.format.root import Root
from kdcli.cache.reading.arrays import CacheArrays
from kdcli.cache.reading.direct import MappedLabels
from kdcli.cache.writing.part import (
    EncodedImage,
    Part,
    build_part,
    failed_image,
    part_path,
    write_part,
)
from kdcli.common.errors import CacheError
from kdcli.common.files import file_intact, sync


def restore_parts(cache: Path, root: Root) -> dict[int, Part]:
    """Write the part file of every shard that can be read without a fault; the parts by shard.

    The store stays complete and readable meanwhile. A shard with damage of any kind is left out,
    and so is to be done again.
    """
    try:
        arrays = CacheArrays(cache)
    except CacheError:
        return {}  # one of the tables that everything hangs on is damaged
    parts = {}
    for shard in range(root.shards):
        try:
            part = _part_of(arrays, shard)
        except CacheError:
            continue
        write_part(cache, shard, part)
        parts[shard] = part
    sync(part_path(cache, shard) for shard in parts)
    return parts


def _part_of(arrays: CacheArrays, shard: int) -> Part:
    root = arrays.root
    files = {}
    for spec in root.label_specs:
        name = spec.file(shard)
        if name in root.files:
            if not file_intact(arrays.path / name, *root.files[name]):
                raise CacheError(f"{arrays.path / name}: damaged")
            files[name] = root.files[name]
    first = shard * root.images_per_shard
    stop = min(first + root.images_per_shard, root.images)
    return build_part([_encoded(arrays, i) for i in range(first, stop)], files)


def _encoded(arrays: CacheArrays, image: int) -> EncodedImage:
    name = arrays.ids[image]
    if name in arrays.root.failed:
        return failed_image(arrays.root.failed[name], arrays.root.tables)
    found = arrays.images.record(image)
    tables = {table: content.rows(found) for table, content in arrays.tables.items()}
    if not isinstance(arrays.labels, MappedLabels):
        raise CacheError(f"{arrays.path}: written by another program; its label maps stay unread")
    chunks = arrays.labels.chunks(image, found.height * found.width, found.is_wide)
    half = len(chunks) // 2 if found.is_wide else len(chunks)
    return EncodedImage(tables, chunks[:half], chunks[half:])
