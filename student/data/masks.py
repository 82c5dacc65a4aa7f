"""The devkit's class masks, decoded once: later visits find them in memory, compressed."""

from __future__ import annotations

import numpy as np
from numcodecs.zstd import compress, decompress

from kdcli.student.data.geometry import UInt8Array
from kdcli.voc.devkit import Devkit

LEVEL = 3


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
