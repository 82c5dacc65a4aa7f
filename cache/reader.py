"""Reading a cache: what the tutors said about one image, by its id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.images import decode_entries
from kdcli.cache.format.record import Boxes, InstanceMasks, TutorOutput
from kdcli.cache.reading.store import Store
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

    def __init__(self, store: Store) -> None:
        self._store = store
        ids = store.ids
        self._positions = dict(zip(ids, range(len(ids)), strict=True))
        failed = store.root.failed
        self._ids = tuple(i for i in ids if i not in failed) if failed else tuple(ids)

    @classmethod
    def open(cls, path: str | Path) -> TutorCache:
        """Open the cache at ``path``.

        Raises ``CacheError``: no cache there, incomplete, damaged, or of an unknown version.
        """
        return cls(Store(Path(path)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path.absolute()), self.fingerprint)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self._store.path

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._positions and image_id not in self._store.root.failed

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The images that have an output, in the order of generation."""
        return self._ids

    @property
    def failed(self) -> Mapping[str, str]:
        """The images without output, and why."""
        return dict(self._store.root.failed)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over settings and list of images: what identifies the cache."""
        return self._store.root.fingerprint

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decided the tutors' output: class names, tutors, thresholds."""
        return self._store.root.settings

    @property
    def class_names(self) -> tuple[str, ...]:
        """The 21 classes, background first."""
        return tuple(self.settings["class_names"])

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What made it: settings, environments of its runs, fingerprint, number of images."""
        root = self._store.root
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
        return self._store.root.shards

    @property
    def files(self) -> Mapping[str, int]:
        """Every file of the cache but its root, and its size in bytes."""
        return {name: size for name, (size, _) in self._store.root.files.items()}

    @property
    def roles(self) -> frozenset[str]:
        """Which tutors spoke: "detection", "segmentation", or both."""
        return frozenset(role for role in ROLES if self.settings.get(role) is not None)

    @property
    def has_instances(self) -> bool:
        """Whether the segmentation tutor's own masks were kept."""
        return "instances" in self._store.tables

    def entry(self, image_id: str) -> ImageEntry:
        """Size and file digest of an image, a failed one too."""
        position = self._find(image_id)
        height, width = self._store.sizes[position].tolist()
        digest = self._store.digests[position].tobytes().hex()
        return ImageEntry(image_id, height, width, digest)

    def entries(self) -> list[ImageEntry]:
        """The whole list of images in the order of generation, failed ones included."""
        return decode_entries(self._store.ids, self._store.sizes, self._store.digests)

    def __getitem__(self, image_id: str) -> TutorOutput:
        """Everything the tutors said about an image; ``CacheError`` if it has no output."""
        position = self._position(image_id)
        boxes, labels, scores = self._store.tables["detections"].rows(position)
        (palette,) = self._store.tables["palette"].rows(position)
        label_map = self._store.label_map(position)
        kept = self._instances(position)
        dropped = self._dropped(position)
        return TutorOutput(image_id, boxes, labels, scores, label_map, palette, kept, dropped)

    def boxes(self, image_id: str) -> Boxes:
        """The detections alone; the label map is not decoded."""
        return Boxes(*self._store.tables["detections"].rows(self._position(image_id)))

    def label_map(self, image_id: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The label map (H, W) alone."""
        return self._store.label_map(self._position(image_id))

    def palette(self, image_id: str) -> NDArray[np.float32]:
        """The label vectors (k, 21) that the label map indexes."""
        (palette,) = self._store.tables["palette"].rows(self._position(image_id))
        return palette

    def instances(self, image_id: str) -> InstanceMasks | None:
        """The segmentation tutor's own masks; None if the cache does not keep them."""
        return self._instances(self._position(image_id))

    def dropped(self, image_id: str) -> NDArray[np.uint32] | None:
        """Counts of what did not reach the cache: see :class:`TutorOutput`; None if not known."""
        return self._dropped(self._position(image_id))

    @property
    def table_names(self) -> tuple[str, ...]:
        """The ragged tables it has."""
        return tuple(self._store.tables)

    def _dropped(self, position: int) -> NDArray[np.uint32] | None:
        table = self._store.tables.get("dropped")
        if table is None or table.offsets[position] == table.offsets[position + 1]:
            return None
        (counts,) = table.rows(position)
        row: NDArray[np.uint32] = counts[0]
        return row

    def _instances(self, position: int) -> InstanceMasks | None:
        table = self._store.tables.get("instances")
        return None if table is None else InstanceMasks(*table.rows(position))

    def _find(self, image_id: str) -> int:
        position = self._positions.get(image_id)
        if position is None:
            raise CacheError(
                f"{self.path}: no image {image_id!r} in this cache. Generate a cache whose list "
                "has it."
            )
        return position

    def _position(self, image_id: str) -> int:
        position = self._find(image_id)
        reason = self._store.root.failed.get(image_id)
        if reason is not None:
            raise CacheError(
                f"{self.path}: {image_id} has no output, it failed: {reason}. Run the same "
                "generate-tutors command again to retry the failed images."
            )
        return position


def _reopen(path: str, fingerprint: str) -> TutorCache:
    """Open a pickled cache in another process."""
    cache = TutorCache.open(path)
    if cache.fingerprint != fingerprint:
        raise CacheError(f"{path}: the cache was replaced by another one. Start the run again.")
    return cache
