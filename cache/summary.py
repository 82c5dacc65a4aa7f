"""What is in a cache, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.layout import ROOT
from kdcli.cache.format.record import DROPPED, Dropped, TutorOutput, decode_dropped
from kdcli.cache.format.vectors import winners
from kdcli.cache.reader import TutorCache
from kdcli.common.progress import Progress, no_progress

THRESHOLDS = (0.001, 0.01, 0.1, 0.3, 0.5)


@dataclass(frozen=True, slots=True)
class Summary:
    """Numbers about a cache.

    ``bytes_by_array``: stored bytes, metadata included, "root" being the root zarr.json.
    ``boxes_per_image``: mean number of boxes with at least the confidence that is the key.
    ``boxes_per_class``: the same as counts over all images, by class. ``class_pixels``: pixels by
    the largest entry of their label vector, background where it is all zero. ``label_vectors``:
    smallest, median and largest number of distinct ones in an image, row 0 included. ``dropped``:
    counts of the instances that did not reach the cache, by role and reason (`DROPPED` of
    `cache.format.record`); None where they are not known of every image.
    """

    images: int
    failed: Mapping[str, str]
    shards: int
    bytes_total: int
    bytes_per_image: float
    bytes_by_array: Mapping[str, int]
    boxes_per_image: Mapping[float, float]
    boxes_per_class: Mapping[str, Mapping[float, int]]
    class_pixels: Mapping[str, int]
    label_vectors: tuple[int, float, int]
    instances_per_image: float | None
    dropped: Dropped | None
    provenance: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; thresholds become strings."""
        content = asdict(self)
        content["failed"] = dict(self.failed)
        content["provenance"] = dict(self.provenance)
        content["label_vectors"] = list(self.label_vectors)
        content["boxes_per_image"] = _string_keys(self.boxes_per_image)
        content["boxes_per_class"] = {
            name: _string_keys(counts) for name, counts in self.boxes_per_class.items()
        }
        return content


def _string_keys(values: Mapping[float, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in values.items()}


def summarise(cache: TutorCache, progress: Progress = no_progress) -> Summary:
    """Read every image once and count. Raises ``CacheError`` where the cache is damaged."""
    names = cache.class_names
    boxes = np.zeros((len(THRESHOLDS), len(names)), dtype=np.int64)
    pixels = np.zeros(len(names), dtype=np.int64)
    vectors, instances = [], 0
    dropped: NDArray[np.int64] | None = np.zeros(len(DROPPED), dtype=np.int64)
    for image_id in progress(cache.image_ids, len(cache), "reading"):
        output = cache[image_id]
        for row, threshold in enumerate(THRESHOLDS):
            kept = output.labels[output.scores >= np.float32(threshold)]
            boxes[row] += np.bincount(kept, minlength=len(names))
        pixels += _class_pixels(cache, output)
        vectors.append(len(output.palette))
        instances += len(output.instances.boxes) if output.instances is not None else 0
        if dropped is not None:
            dropped = None if output.dropped is None else dropped + output.dropped
    count = max(1, len(cache))
    sizes = _bytes_by_array(cache)
    return Summary(
        images=len(cache),
        failed=dict(cache.failed),
        shards=cache.shards,
        bytes_total=sum(sizes.values()),
        bytes_per_image=bytes_per_image(cache),
        bytes_by_array=sizes,
        boxes_per_image={t: float(boxes[i].sum()) / count for i, t in enumerate(THRESHOLDS)},
        boxes_per_class={
            names[c]: {t: int(boxes[i, c]) for i, t in enumerate(THRESHOLDS)}
            for c in range(1, len(names))
        },
        class_pixels={name: int(pixels[c]) for c, name in enumerate(names)},
        label_vectors=_spread(vectors),
        instances_per_image=instances / count if cache.has_instances else None,
        dropped=None if dropped is None else decode_dropped(dropped),
        provenance=cache.provenance,
    )


def bytes_per_image(cache: TutorCache) -> float:
    """Return the size of a cache over its images, without reading them; as in `Summary`."""
    return sum(_bytes_by_array(cache).values()) / max(1, len(cache))


def _class_pixels(cache: TutorCache, output: TutorOutput) -> NDArray[np.int64]:
    """Pixels per class (K,); of a dense tutor its cells, each for as many pixels as it covers."""
    counts = count_class_pixels(output.index_map, output.palette)
    if output.window is None:
        return counts
    entry = cache.entry(output.image_id)
    each = entry.height * entry.width / output.index_map.size
    pixels: NDArray[np.int64] = np.rint(counts * each).astype(np.int64)
    return pixels


def count_class_pixels(
    index_map: NDArray[np.uint8] | NDArray[np.uint16], palette: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Pixels per class (K,): the largest entry of their vector, background where all are zero."""
    per_vector = np.bincount(index_map.reshape(-1), minlength=len(palette))
    counts = np.zeros(palette.shape[1], dtype=np.int64)
    np.add.at(counts, winners(palette), per_vector)
    return counts


def _spread(counts: list[int]) -> tuple[int, float, int]:
    if not counts:
        return 0, 0.0, 0
    return min(counts), float(np.median(counts)), max(counts)


def _bytes_by_array(cache: TutorCache) -> dict[str, int]:
    sizes = {"root": (cache.path / ROOT).stat().st_size}
    for name, size in cache.files.items():
        array = name.split("/c/")[0].removesuffix("/zarr.json")
        sizes[array] = sizes.get(array, 0) + size
    return dict(sorted(sizes.items()))
