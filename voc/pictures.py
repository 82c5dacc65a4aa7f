"""Photographs and masks as files: reading them with clear messages, writing masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from voc.classes import NUM_CLASSES, PALETTE, VOID
from voc.errors import DevkitError

LARGEST = Image.MAX_IMAGE_PIXELS or 2**26
"""Pixels of the largest picture that is read: Pillow's own limit, 89,478,485 (about 9,459 squared).

Beyond it Pillow suspects a decompression bomb: a small file that fills the memory.
"""
_JPEG_START = b"\xff\xd8"


def read_photograph(path: Path) -> NDArray[np.uint8]:
    """Read a JPEG as it is stored.

    EXIF orientation is ignored, as the devkit does: boxes and masks refer to the stored pixels.
    Grey and CMYK files become RGB.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DevkitError: the file is missing, empty, cut off, not a JPEG, not of 8 bits a sample, or
            of more pixels than `LARGEST`. Damage in the middle of the pixels may go unnoticed.
    """
    with _opened(path, ("JPEG",)) as picture:
        return np.asarray(picture.convert("RGB"))


def read_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a JPEG from its header alone.

    Raises:
        DevkitError: as `read_photograph`, but a file cut off behind its header goes unnoticed.
    """
    with _opened(path, ("JPEG",)) as picture:
        return picture.height, picture.width


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a palette or grey PNG as the numbers that it holds.

    Returns:
        (H, W) uint8: class ids or object numbers, `VOID` where undecided.

    Raises:
        DevkitError: the file is missing, broken, or holds colours instead of numbers.
    """
    with _opened(path, ("PNG",)) as picture:
        if picture.mode not in ("P", "L"):
            raise DevkitError(
                f"{path} is a mask of mode {picture.mode}: expected a palette or 8-bit grey PNG "
                "whose pixels are class ids, got colours; convert it with VOC's palette."
            )
        return np.asarray(picture)


def check_class_ids(mask: NDArray[np.uint8], path: Path) -> None:
    """Raise DevkitError if a (H, W) class mask holds anything but 0..20 and `VOID`."""
    if np.max(mask + np.uint8(1), initial=0) <= NUM_CLASSES:  # VOID wraps around to 0
        return
    counts = np.bincount(mask.ravel(), minlength=256)
    wrong = [value for value in np.flatnonzero(counts) if NUM_CLASSES <= value < VOID]
    listed = ", ".join(str(value) for value in wrong[:5])
    raise DevkitError(
        f"{path}: expected class ids 0..{NUM_CLASSES - 1} and {VOID}, got {listed}"
        f" ({int(counts[wrong].sum())} pixels): it is not a mask of VOC's classes."
    )


def write_mask(path: Path | BinaryIO, mask: NDArray[np.uint8]) -> None:
    """Write a (H, W) uint8 mask as the devkit does: a PNG with VOC's palette."""
    picture = Image.fromarray(mask).convert("L")
    picture.putpalette(PALETTE.tobytes())
    picture.save(path, "PNG")


@contextmanager
def _opened(path: Path, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Open a picture of one of ``formats``; what goes wrong until it is closed names the file."""
    expected = formats[0]
    try:
        if path.stat().st_size == 0:
            raise DevkitError(f"{path} is empty (0 bytes): restore it from the devkit.")
        with Image.open(path, formats=formats) as picture:
            if picture.width * picture.height > LARGEST:
                size = f"{picture.width} x {picture.height} pixels"
                raise Image.DecompressionBombError(f"{size}, at most {LARGEST} are read")
            yield picture
    except UnidentifiedImageError as error:
        raise DevkitError(f"{path} {_what_is_wrong(path, expected)}") from error
    except FileNotFoundError as error:
        raise DevkitError(f"{path} does not exist.") from error
    except Image.DecompressionBombError as error:
        raise DevkitError(f"{path} is too large ({error}): scale it down.") from error
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow reports damaged files with any of these, broken PNG chunks as SyntaxError.
        raise DevkitError(
            f"{path} cannot be read ({error}): it is damaged or cut off; restore it."
        ) from error


def _what_is_wrong(path: Path, expected: str) -> str:
    """Say why Pillow does not recognise a file."""
    with path.open("rb") as handle:
        is_jpeg = handle.read(2) == _JPEG_START
    if is_jpeg and expected == "JPEG":
        return (
            "is a JPEG that cannot be read: its header is cut off or damaged, says 0 x 0 pixels, "
            "or says other than 8 bits a sample. Restore or convert it."
        )
    return f"is not a {expected} file: restore it from the devkit."
