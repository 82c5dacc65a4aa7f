"""Writing a cache from outputs that exist already: the common end of merging and importing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kdcli.cache.format.layout import JSON
from kdcli.cache.format.record import FailedImage, TutorOutput
from kdcli.cache.writer import CacheWriter
from kdcli.common.images import ImageEntry
from kdcli.common.progress import Progress


def write_copy(
    out: Path,
    images: Sequence[ImageEntry],
    settings: JSON,
    environments: Sequence[JSON],
    images_per_shard: int,
    output_of: Callable[[ImageEntry], TutorOutput | FailedImage],
    progress: Progress,
) -> None:
    """Write the cache ``out``; stopped and called again with the same arguments, it goes on.

    ``environments`` are those of the runs that made the outputs, in order.
    """
    for environment in environments[:-1]:  # each opening records one
        CacheWriter.open(
            out, images, settings, environment, images_per_shard=images_per_shard
        ).close()
    last = environments[-1] if environments else {}
    with CacheWriter.open(out, images, settings, last, images_per_shard=images_per_shard) as writer:
        pending = writer.pending()
        for shard in progress(pending, len(pending), "writing shards"):
            writer.write(shard, [output_of(entry) for entry in shard.images])
        writer.finish()
