"""One shard on disk: its label files and its part file, written as one commit and read back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcli.cache.format.codec import MISSING, ShardWriter, decode_index, index_bytes
from kdcli.cache.format.layout import ArraySpec
from kdcli.cache.format.root import Root
from kdcli.cache.writing.part import (
    EncodedImage,
    Part,
    build_part,
    part_path,
    read_part,
    write_part,
)
from kdcli.common.files import atomic_file, file_intact, sha256_file, sync
from kdcli.common.images import ImageEntry

Chunks = tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """Images that are written together: a whole shard, or those of it that failed before."""

    index: int
    images: tuple[ImageEntry, ...]


def chunk_count(entry: ImageEntry, spec: ArraySpec) -> int:
    """How many chunks an image's pixels take."""
    return -(-entry.height * entry.width // spec.chunk[1])


def commit_shard(cache: Path, root: Root, shard: int, images: Sequence[EncodedImage]) -> Part:
    """Write a whole shard; it counts as done once the last file, its part, is in place.

    Should a power cut keep the part but not the label files, their digests in the part tell.
    """
    low, high = root.label_specs
    files = dict(_write_plane(cache, low, shard, [image.low for image in images]))
    files.update(_write_plane(cache, high, shard, [image.high for image in images]))
    part = build_part(images, files)
    write_part(cache, shard, part)
    sync([part_path(cache, shard), *(cache / name for name in files)])
    return part


def _write_plane(
    cache: Path, spec: ArraySpec, shard: int, images: Sequence[Chunks]
) -> Iterator[tuple[str, tuple[int, str]]]:
    path = cache / spec.file(shard)
    per_image = spec.shape[1] // spec.chunk[1]
    if not any(chunk for chunks in images for chunk in chunks):
        path.unlink(missing_ok=True)  # of an earlier, undeclared attempt
        return
    with atomic_file(path) as handle:
        writer = ShardWriter(handle, spec.chunks_per_shard)
        for chunks in images:
            for chunk in chunks:
                writer.add(chunk)
            writer.skip(per_image - len(chunks))
        writer.close()
    yield spec.file(shard), (path.stat().st_size, sha256_file(path))


def done_part(cache: Path, shard: int) -> Part | None:
    """The part of a shard that is done: it is valid and its label files are as it says."""
    part = read_part(cache, shard)
    if part is None:
        return None
    intact = all(file_intact(cache / path, *entry) for path, entry in part.files.items())
    return part if intact else None


def load_shard(
    cache: Path, root: Root, shard: int, part: Part, entries: Sequence[ImageEntry]
) -> list[EncodedImage]:
    """A done shard's images in encoded form again, to merge retried ones into them."""
    low, high = root.label_specs
    lows = read_plane(cache, low, shard, entries, part.files)
    highs = read_plane(cache, high, shard, entries, part.files)
    images = []
    for i in range(len(entries)):
        tables = {name: part.rows(name, i) for name in part.columns}
        if i in part.reasons:
            images.append(EncodedImage(tables, reason=part.reasons[i]))
        else:
            wide = int(part.counts["palette"][i]) > 256
            images.append(EncodedImage(tables, lows[i], highs[i] if wide else ()))
    return images


def read_plane(
    cache: Path,
    spec: ArraySpec,
    shard: int,
    entries: Sequence[ImageEntry],
    files: Mapping[str, tuple[int, str]],
) -> list[Chunks]:
    """The encoded label chunks of each image of a shard; ``ValueError`` if its index is damaged."""
    counts = [chunk_count(entry, spec) for entry in entries]
    if spec.file(shard) not in files:
        return [(None,) * count for count in counts]
    content = (cache / spec.file(shard)).read_bytes()
    index = decode_index(content[-index_bytes(spec.chunks_per_shard) :], len(content)).tolist()
    per_image = spec.shape[1] // spec.chunk[1]
    return [
        tuple(
            None if start == MISSING else content[start : start + length]
            for start, length in index[per_image * i : per_image * i + count]
        )
        for i, count in enumerate(counts)
    ]
