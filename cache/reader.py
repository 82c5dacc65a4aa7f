"""Reading a cache: what the tutors said about one image, by its id."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.images import decode_entries
from kdcli.cache.format.layout import Column
from kdcli.cache.format.record import InstanceMasks, TutorOutput, instance_masks
from kdcli.cache.reading.arrays import CacheArrays
from kdcli.cache.reading.images import ImageRecord
from kdcli.common.detections import Detections
from kdcli.common.errors import CacheError
from kdcli.common.images import ImageEntry

ROLES = ("detection", "segmentation")


class TutorCache:
    """A complete cache, read image by image from mapped files.

    >>> cache = TutorCache.open("cache.zarr")  # doctest: +SKIP
    >>> cache["2007_000032"].boxes.shape  # doctest: +SKIP
    (11, 4)

    ``len``, ``in``, iteration and ``image_ids`` speak of the images that have an output; those that
    failed are in ``failed``. Every array returned is the caller's own copy. An object may be used
    by several threads, survives a fork, and is pickled as its path (the copy opens it again and
    refuses another cache). Every read checks that its bytes are those written: ``CacheError`` names
    the file and the remedy if not.
    """

    def __init__(self, arrays: CacheArrays) -> None:
        self._arrays = arrays
        self._last: tuple[str, ImageRecord] | None = None

    @classmethod
    def open(cls, path: str | Path) -> TutorCache:
        """Open the cache at ``path``.

        Raises ``CacheError``: no cache there, incomplete, damaged, or of an unknown version.
        """
        return cls(CacheArrays(Path(path)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path.absolute()), self.fingerprint)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self._arrays.path

    def __len__(self) -> int:
        return self._arrays.root.images - len(self._arrays.root.failed)

    def __iter__(self) -> Iterator[str]:
        return iter(self.image_ids)

    def __contains__(self, image_id: object) -> bool:
        if not isinstance(image_id, str) or image_id in self._arrays.root.failed:
            return False
        return self._arrays.images.find(image_id) is not None

    @functools.cached_property
    def image_ids(self) -> tuple[str, ...]:
        """The images that have an output, in the order of generation.

        Read when it is first asked for, and kept: some 60 bytes an image.
        """
        failed = self._arrays.root.failed
        return tuple(name for name in self._arrays.ids if name not in failed)

    @property
    def failed(self) -> Mapping[str, str]:
        """The images without output, and why."""
        return MappingProxyType(self._arrays.root.failed)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over settings and list of images: what identifies the cache."""
        return self._arrays.root.fingerprint

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decided the tutors' output: class names, tutors, thresholds."""
        return self._arrays.root.settings

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by label, background first."""
        return tuple(self.settings["class_names"])

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What made it: settings, environments of its runs, fingerprint, number of images."""
        root = self._arrays.root
        return {
            "fingerprint": root.fingerprint,
            "settings": root.settings,
            "environments": list(root.environments),
            "images": root.images,
            "images_sha256": root.images_sha256,
            "images_per_shard": root.images_per_shard,
        }

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self._arrays.root.shards

    @property
    def files(self) -> Mapping[str, int]:
        """Every file of the cache but its root, and its size in bytes."""
        return {name: size for name, (size, _) in self._arrays.root.files.items()}

    @property
    def roles(self) -> frozenset[str]:
        """Which tutors spoke: "detection", "segmentation", or both."""
        return frozenset(role for role in ROLES if self.settings.get(role) is not None)

    @property
    def has_instances(self) -> bool:
        """Whether the segmentation tutor's own masks were kept."""
        return "instances" in self._arrays.tables

    def entry(self, image_id: str) -> ImageEntry:
        """Size and file digest of an image, a failed one too."""
        image = self._find(image_id)
        digest = self._arrays.images.sha256(image.position).hex()
        return ImageEntry(image_id, image.height, image.width, digest)

    def entries(self) -> list[ImageEntry]:
        """The whole list of images in the order of generation, failed ones included."""
        return decode_entries(self._arrays.ids, self._arrays.sizes, self._arrays.digests)

    def __getitem__(self, image_id: str) -> TutorOutput:
        """Everything the tutors said about an image; ``CacheError`` if it has no output."""
        image = self._image(image_id)
        boxes, labels, scores = self._arrays.tables["detections"].rows(image)
        (palette,) = self._arrays.tables["palette"].rows(image)
        index_map = self._arrays.index_map(image)
        kept = self._instances(image)
        dropped = self._dropped(image)
        window = self._arrays.window(image)
        return TutorOutput(
            image_id, boxes, labels, scores, index_map, palette, kept, dropped, window
        )

    def boxes(self, image_id: str) -> Detections:
        """The detections alone; the label map is not decoded."""
        return Detections(*self._arrays.tables["detections"].rows(self._image(image_id)))

    def index_map(self, image_id: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The label map alone: (H, W), or of a dense tutor's store (h, w) cells."""
        return self._arrays.index_map(self._image(image_id))

    def window(self, image_id: str) -> NDArray[np.float32] | None:
        """Where in its label map the image lies (`cache.format.grid`); None: they are the same."""
        return self._arrays.window(self._image(image_id))

    def palette(self, image_id: str) -> NDArray[np.float32]:
        """The label vectors (k, K) that the label map indexes."""
        (palette,) = self._arrays.tables["palette"].rows(self._image(image_id))
        return palette

    def instances(self, image_id: str) -> InstanceMasks | None:
        """The segmentation tutor's own masks; None if the cache does not keep them."""
        return self._instances(self._image(image_id))

    def dropped(self, image_id: str) -> NDArray[np.uint32] | None:
        """Counts of what did not reach the cache: see :class:`TutorOutput`; None if not known."""
        return self._dropped(self._image(image_id))

    @property
    def features(self) -> frozenset[str]:
        """What it holds beside boxes and label vectors: see FORMAT.md."""
        return self._arrays.root.features

    @property
    def has_grids(self) -> bool:
        """Whether label maps are coarser than their images: a dense tutor's."""
        return "grid" in self._arrays.tables

    @property
    def tables(self) -> Mapping[str, tuple[Column, ...]]:
        """The ragged tables it has, and their columns."""
        return self._arrays.root.tables

    def _dropped(self, image: ImageRecord) -> NDArray[np.uint32] | None:
        table = self._arrays.tables.get("dropped")
        if table is None:
            return None
        (counts,) = table.rows(image)
        return counts[0] if len(counts) else None

    def _instances(self, image: ImageRecord) -> InstanceMasks | None:
        table = self._arrays.tables.get("instances")
        return None if table is None else instance_masks(table.rows(image))

    def _find(self, image_id: str) -> ImageRecord:
        last = self._last  # what is asked of an image is asked in a row
        if last is not None and last[0] == image_id:
            return last[1]
        position = self._arrays.images.find(image_id)
        if position is None:
            raise CacheError(
                f"{self.path}: no image {image_id!r} in this cache. Generate a cache whose list "
                "has it."
            )
        image = self._arrays.images.record(position)
        self._last = image_id, image
        return image

    def _image(self, image_id: str) -> ImageRecord:
        reason = self._arrays.root.failed.get(image_id)
        if reason is not None:
            raise CacheError(
                f"{self.path}: {image_id} has no output, it failed: {reason}. Run the same "
                "generate-tutors command again to retry the failed images."
            )
        return self._find(image_id)


def _reopen(path: str, fingerprint: str) -> TutorCache:
    """Open a pickled cache in another process."""
    cache = TutorCache.open(path)
    if cache.fingerprint != fingerprint:
        raise CacheError(f"{path}: the cache was replaced by another one. Start the run again.")
    return cache
