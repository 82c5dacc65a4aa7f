"""The devkit's masks, decoded once: later visits find them in memory, compressed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numcodecs.zstd import compress, decompress

from kdcli.cache.format.record import InstanceMasks
from kdcli.student.data.geometry import FloatArray, Transform, UInt8Array
from kdcli.voc.devkit import Devkit
from kdcli.voc.instances import instance_truth

LEVEL = 3
NOTHING = np.zeros((0, 0), np.uint8)
ROOM = 64 << 20
"""Bytes of compressed masks to keep, in each worker."""


def transformed(instances: InstanceMasks, transform: Transform) -> InstanceMasks:
    """Return instances as a sample has them: mirrored with it, their boxes relative to it.

    Boxes reach outside where the crop cut them, or lie there.
    """
    masks = instances.masks[:, :, ::-1] if transform.flip else instances.masks
    relative = transform.relative(instances.boxes).astype(np.float32)
    return replace(instances, boxes=relative, masks=masks)


class Compressed:
    """Masks by name, about 2 kB each, while there is room.

    Args:
        limit: Bytes to keep.
    """

    def __init__(self, limit: int) -> None:
        self.room = limit
        self._kept: dict[str, tuple[bytes, tuple[int, ...]]] = {}

    def get(self, name: str) -> UInt8Array | None:
        """Return the mask of this name, if it was kept."""
        if name not in self._kept:
            return None
        packed, shape = self._kept[name]
        return np.frombuffer(decompress(packed), np.uint8).reshape(shape)

    def keep(self, name: str, mask: UInt8Array) -> bool:
        """Keep a mask; whether there was room."""
        if self.room <= 0:
            return False
        packed = compress(mask, LEVEL)
        self._kept[name] = packed, mask.shape
        self.room -= len(packed)
        return True


class Masks(Compressed):
    """Reads class masks, and keeps them: later visits take a ninth of the time of the PNG.

    What would exceed the limit is read from its file each time.

    Args:
        devkit: Where the masks lie.
        folder: Of the class masks.
        limit: Bytes to keep, in each worker.
    """

    def __init__(self, devkit: Devkit, folder: str, limit: int = ROOM) -> None:
        super().__init__(limit)
        self.devkit = devkit
        self.folder = folder

    def read(self, image_id: str, size: tuple[int, int]) -> UInt8Array | None:
        """Return the (height, width) uint8 mask of a photograph of that ``size``, or None.

        Raises:
            DevkitError: see ``Devkit.mask``; when it is read from its file.
        """
        mask = self.get(image_id)
        if mask is None:
            mask = self.devkit.mask(image_id, self.folder, size)
            if mask is not None:
                self.keep(image_id, mask)
        return mask


@dataclass(frozen=True, eq=False)
class ImageObjects:
    """The instances of one image that can be learned from.

    Attributes:
        rows: (H, W) uint8: the object's number, 0 for the background, `VOID`.
        boxes: (n, 4) float32 in pixels.
        numbers: (n,) uint8 of the boxes' objects.
    """

    rows: UInt8Array
    boxes: FloatArray
    numbers: UInt8Array


class Objects(Compressed):
    """Reads object masks with the boxes that they belong to, and keeps them as `Masks` does.

    Args:
        devkit: Where they lie.
        difficult: Whether objects marked difficult are among those to learn.
        limit: Bytes of masks to keep, in each worker.
    """

    def __init__(self, devkit: Devkit, difficult: bool, limit: int = ROOM) -> None:
        super().__init__(limit)
        self.devkit = devkit
        self.difficult = difficult
        self._others: dict[str, ImageObjects] = {}

    def read(self, image_id: str) -> ImageObjects | None:
        """Return the objects of a photograph; None if it has no boxes or no object mask.

        Raises:
            DevkitError: see ``Devkit.annotation`` and ``Devkit.mask``.
        """
        rows = self.get(image_id)
        if rows is not None:
            return replace(self._others[image_id], rows=rows)
        truth = instance_truth(self.devkit, image_id)
        if truth is None:
            return None
        annotation = truth.annotation
        learned = truth.objects.has_mask(len(annotation.labels))
        learned &= self.difficult | ~annotation.difficult
        numbers = (np.flatnonzero(learned) + 1).astype(np.uint8)
        objects = ImageObjects(truth.objects.rows, annotation.boxes[learned], numbers)
        if self.keep(image_id, objects.rows):
            self._others[image_id] = replace(objects, rows=NOTHING)
        return objects
