"""The slow road: arrays whose layout the direct reader does not know, read by zarr-python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.root import Root
from kdcli.cache.reading.direct import join_planes
from kdcli.cache.reading.mapped import damaged


class ZarrArray:
    """A Zarr array of any codecs and chunks, with the direct reader's two ways to read.

    Zarr takes a missing file for fill value and knows no sizes: they are compared with the recorded
    ones here, once.
    """

    def __init__(self, cache: Path, root: Root, name: str) -> None:
        import zarr  # here: slow to import, and needed for foreign layouts only

        self._path = cache / name
        for file, (size, _) in root.files.items():
            if file.startswith(f"{name}/"):
                _check_size(cache / file, size)
        self._array: Any = zarr.open_array(self._path, mode="r")

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
        except Exception as error:  # whatever a codec of any kind raises
            raise damaged(self._path, error) from error


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.is_file() else 0
    if found != expected:
        raise damaged(path, f"expected {expected} bytes, got {found}")


class ZarrLabels:
    """The label map arrays through zarr-python.

    Their CRC-32 is over chunks as this package encodes them and cannot be checked here; the codecs'
    own checks must do.
    """

    def __init__(self, low: ZarrArray, high: ZarrArray) -> None:
        self._low = low
        self._high = high

    def read(
        self, image: int, pixels: int, wide: bool, crc32: int
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The image's flat label map (pixels,)."""
        low = self._low.pixels(image, pixels)
        if not wide:
            return low
        return join_planes(low, self._high.pixels(image, pixels))
