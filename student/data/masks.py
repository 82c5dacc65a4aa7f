"""The devkit's masks, decoded once: later visits find them in memory, compressed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numcodecs.zstd import compress, decompress

from kdcli.student.data.geometry import FloatArray, UInt8Array
from kdcli.voc.devkit import Devkit
from kdcli.voc.instances import instance_truth

LEVEL = 3
NOTHING = np.zeros((0, 0), np.uint8)


class Masks:
    """Reads class masks, and keeps them: later visits take a ninth of the time of the PNG.

    A mask takes about 2 kB. What would exceed the limit is read from its file each time.

    Args:
        devkit: Where the masks lie.
        folder: Of the class masks.
        limit: Bytes to keep, in each worker.
    """

    def __init__(self, devkit: Devkit, folder: str, limit: int = 64 << 20) -> None:
        self.devkit = devkit
        self.folder = folder
        self.room = limit
        self._kept: dict[str, bytes] = {}

    def read(self, image_id: str, size: tuple[int, int]) -> UInt8Array | None:
        """Return the (height, width) uint8 mask of a photograph of that ``size``, or None.

        Raises:
            DevkitError: see ``Devkit.mask``; when it is read from its file.
        """
        kept = self._kept.get(image_id)
        if kept is not None:
            return np.frombuffer(decompress(kept), np.uint8).reshape(size)
        mask = self.devkit.mask(image_id, self.folder, size)
        if mask is not None and self.room > 0:
            self._kept[image_id] = packed = compress(mask, LEVEL)
            self.room -= len(packed)
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


class Objects:
    """Reads object masks with the boxes that they belong to, and keeps them as `Masks` does.

    Args:
        devkit: Where they lie.
        difficult: Whether objects marked difficult are among those to learn.
        limit: Bytes of masks to keep, in each worker.
    """

    def __init__(self, devkit: Devkit, difficult: bool, limit: int = 64 << 20) -> None:
        self.devkit = devkit
        self.difficult = difficult
        self.room = limit
        self._kept: dict[str, tuple[bytes, tuple[int, ...], ImageObjects]] = {}

    def read(self, image_id: str) -> ImageObjects | None:
        """Return the objects of a photograph; None if it has no boxes or no object mask.

        Raises:
            DevkitError: see ``Devkit.annotation`` and ``Devkit.mask``.
        """
        if image_id in self._kept:
            packed, size, objects = self._kept[image_id]
            rows = np.frombuffer(decompress(packed), np.uint8).reshape(size)
            return replace(objects, rows=rows)
        truth = instance_truth(self.devkit, image_id)
        if truth is None:
            return None
        annotation = truth.annotation
        learned = truth.objects.has_mask(len(annotation.labels))
        learned &= self.difficult | ~annotation.difficult
        numbers = (np.flatnonzero(learned) + 1).astype(np.uint8)
        objects = ImageObjects(truth.objects.rows, annotation.boxes[learned], numbers)
        if self.room > 0:
            packed = compress(objects.rows, LEVEL)
            without = replace(objects, rows=NOTHING)
            self._kept[image_id] = packed, objects.rows.shape, without
            self.room -= len(packed)
        return objects
