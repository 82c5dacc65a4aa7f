"""The slow road: arrays whose layout the direct reader does not know, read by zarr-python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.mapped import damaged, join_planes


class ZarrArray:
    """A Zarr array of any codecs and chunks, with the direct reader's two ways to read."""

    def __init__(self, path: Path) -> None:
        import zarr  # here: slow to import, and needed for foreign layouts only

        self._path = path
        self._array: Any = zarr.open_array(path, mode="r")

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop``; ``CacheError`` if zarr-python finds them damaged."""
        return self._get(slice(start, stop))

    def pixels(self, image: int, pixels: int) -> NDArray[np.uint8]:
        """The first values of a row."""
        values: NDArray[np.uint8] = self._get((image, slice(0, pixels)))
        return values

    def _get(self, selection: Any) -> NDArray[Any]:
        try:
            return np.array(self._array[selection])
        except (RuntimeError, ValueError, OSError) as error:
            raise damaged(self._path, error) from error


class ZarrLabels:
    """The label map arrays through zarr-python.

    Their CRC-32 is over chunks as this package encodes them and cannot be checked here; the codecs'
    own checks must do.
    """

    def __init__(self, low: Path, high: Path) -> None:
        self._low = ZarrArray(low)
        self._high = ZarrArray(high)

    def read(
        self, image: int, pixels: int, wide: bool, crc32: int
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The image's flat label map (pixels,)."""
        low = self._low.pixels(image, pixels)
        if not wide:
            return low
        return join_planes(low, self._high.pixels(image, pixels))
