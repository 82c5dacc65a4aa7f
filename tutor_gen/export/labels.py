"""What a store says of an image, from thresholds on, as labels: objects and a map of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.checks import check_fits
from kdcli.cache.format.record import InstanceMasks
from kdcli.cache.format.vectors import from_threshold, winners
from kdcli.cache.reader import TutorCache
from kdcli.common.detections import Detections
from kdcli.common.errors import CacheError
from kdcli.tutor_gen.quality.masks import pasted
from kdcli.tutor_gen.quality.pixels import pixel_vectors
from kdcli.voc.devkit import Devkit
from kdcli.voc.scan import scan_images


@dataclass(frozen=True, eq=False)
class ImageLabels:
    """The labels of one image of (height, width) pixels.

    Attributes:
        image_id: which.
        height: in pixels.
        width: in pixels.
        objects: boxes, the least sure first; None if none are exported.
        masks: (n, H, W) bool, those of ``objects``; None if the store keeps none of them.
        class_map: (H, W) uint8 class ids; None without a segmentation tutor.
        confidences: (H, W) float32 of the pixels' classes; None likewise.
    """

    image_id: str
    height: int
    width: int
    objects: Detections | None
    masks: NDArray[np.bool_] | None
    class_map: NDArray[np.uint8] | None
    confidences: NDArray[np.float32] | None


@dataclass(frozen=True)
class StoreLabels:
    """A store read as labels.

    Attributes:
        cache: the store.
        devkit: its photographs.
        lists: the images to export, by list; failed ones are not among them.
        source: whose objects, "detection" or "segmentation"; None if there are none.
        threshold: least confidence of objects.
        vector_threshold: least confidence of label vectors' entries.
    """

    cache: TutorCache
    devkit: Devkit
    lists: dict[str, tuple[str, ...]]
    source: str | None
    threshold: float
    vector_threshold: float

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Every image once, in the order of the lists."""
        return tuple(dict.fromkeys(name for ids in self.lists.values() for name in ids))

    @property
    def has_masks(self) -> bool:
        """Whether objects have masks."""
        return self.source == "segmentation"

    @property
    def has_class_maps(self) -> bool:
        """Whether there is a segmentation tutor."""
        return "segmentation" in self.cache.roles

    def photograph(self, image_id: str) -> Path:
        """Return where an image's photograph lies."""
        return self.devkit.image_path(image_id)

    def objects(self, image_id: str) -> Detections | None:
        """Return an image's objects, the least sure first; `InstanceMasks` if they have masks."""
        if self.source is None:
            return None
        kept = self.cache.instances(image_id) if self.has_masks else None
        found = self.cache.boxes(image_id) if kept is None else kept
        order = np.lexsort((-found.labels.astype(np.int64), found.scores))
        return found.take(order[found.scores[order] >= np.float32(self.threshold)])

    def of(self, image_id: str) -> ImageLabels:
        """Read one image."""
        entry = self.cache.entry(image_id)
        size = (entry.height, entry.width)
        objects = self.objects(image_id)
        masks = pasted(objects, size) if isinstance(objects, InstanceMasks) else None
        class_map = confidences = None
        if self.has_class_maps:
            index_map, palette = pixel_vectors(self.cache, image_id, size)
            kept = from_threshold(palette, self.vector_threshold)
            class_map = winners(kept).astype(np.uint8)[index_map]
            confidences = kept.max(axis=-1)[index_map]
        return ImageLabels(image_id, *size, objects, masks, class_map, confidences)


def open_labels(
    cache: TutorCache,
    devkit: Devkit,
    lists: Sequence[str] = (),
    *,
    source: str | None = None,
    threshold: float,
    vector_threshold: float,
    default_list: str = "all",
) -> StoreLabels:
    """Choose what to export of a store.

    Args:
        cache: the store.
        devkit: its photographs, the same as were labelled.
        lists: the devkit's lists of the images to export; by default one of every image.
        source: whose objects: ``"segmentation"`` (its instances, with masks; the store has to keep
            them) or ``"detection"``; by default the first of these that the store has.
        threshold: least confidence of objects.
        vector_threshold: least confidence of label vectors' entries.
        default_list: what the list of every image is called.

    Raises:
        CacheError: the store has no such objects, lacks an image, or is of other photographs.
        DevkitError: a list is wrong.
    """
    if source is None:
        source = "segmentation" if cache.has_instances else None
        source = source or ("detection" if "detection" in cache.roles else None)
    elif source == "segmentation" and not cache.has_instances:
        raise CacheError(
            f"{cache.path}: does not keep the segmentation tutor's instances: generate it with "
            "--keep-masks, or export the detection tutor's objects."
        )
    elif source not in cache.roles:
        raise CacheError(f"{cache.path}: has no {source} tutor: export the other one's objects.")
    failed = cache.failed
    chosen = {name: devkit.image_ids(name) for name in lists} or {default_list: cache.image_ids}
    kept = {name: tuple(i for i in ids if i not in failed) for name, ids in chosen.items()}
    labels = StoreLabels(cache, devkit, kept, source, threshold, vector_threshold)
    check_fits(cache, scan_images(devkit, labels.image_ids))
    return labels
