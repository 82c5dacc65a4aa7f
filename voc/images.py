"""Photographs and masks as files: reading them with clear messages, writing masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from kdcli.common.errors import DevkitError
from kdcli.voc.colours import PALETTE, labels_of_colours
from kdcli.voc.labels import VOID

LARGEST = Image.MAX_IMAGE_PIXELS or 2**26
"""Pixels of the largest picture that is read: Pillow's own limit, 89,478,485 (about 9,459 squared).

Beyond it Pillow suspects a decompression bomb: a small file that fills the memory.
"""
_ORIENTATION = 0x0112
_JPEG_START = b"\xff\xd8"
_REMEDY = "save it as an 8-bit palette PNG with VOC's palette, or as RGB in exactly VOC's colours"


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


def read_picture(path: Path, *, upright: bool = False) -> NDArray[np.uint8]:
    """Read a photograph of any format that Pillow knows; a JPEG as `read_photograph` does.

    Args:
        path: of the photograph.
        upright: whether it is turned as its EXIF says.

    Returns:
        (H, W, 3) uint8 RGB; transparency is dropped.

    Raises:
        DevkitError: the file is missing, damaged or no picture, too large, or has more than 8 bits
            a sample, which Pillow would clip.
    """
    with _opened(path, None) as picture:
        if picture.mode == "F" or picture.mode.startswith("I"):
            raise DevkitError(
                f"{path} has more than 8 bits a sample (mode {picture.mode}): convert it to 8."
            )
        turned = ImageOps.exif_transpose(picture) if upright else picture
        return np.asarray(turned.convert("RGB"))


def orientation(picture: Image.Image) -> int:
    """Return EXIF's orientation of an open picture, 0 if it states none; 1 is upright."""
    value = picture.getexif().get(_ORIENTATION, 0)
    return value if isinstance(value, int) else 0


def is_jpeg(path: Path) -> bool:
    """Say by its first bytes whether a file is a JPEG; one that cannot be read is none."""
    try:
        with path.open("rb") as handle:
            return handle.read(2) == _JPEG_START
    except OSError:
        return False


def read_mask(path: Path, colours: NDArray[np.uint8] = PALETTE) -> NDArray[np.uint8]:
    """Read a mask as the numbers that its pixels stand for.

    A grey PNG of 8 bits holds the numbers. A palette PNG holds them, too, unless its palette says
    otherwise: programs that save a picture anew number its colours as they like. So where a colour
    is VOC's for another number, the colours count, if all of them are VOC's. An RGB picture in
    exactly VOC's colours is read by them.

    Args:
        path: of the PNG.
        colours: (256, 3) uint8 RGB, what stands for "VOC's" above: the colours of the data set.

    Returns:
        (H, W) uint8: class ids or object numbers, `VOID` where undecided.

    Raises:
        DevkitError: the file is missing or broken, or what its pixels mean is open.
    """
    with _opened(path, ("PNG",)) as picture:
        # As stored: Pillow spreads grey of 2 or 4 bits over 0..255.
        layout = picture.tile[0].args if picture.tile else picture.mode
        pixels = np.asarray(picture)
        if picture.mode == "P":
            return _by_palette(path, pixels, bytes(picture.getpalette() or ()), colours)
        if layout == "L":
            return pixels
        if layout == "RGB":
            return _by_colour(path, pixels, colours)
        if layout == "RGBA" and pixels[..., 3].min(initial=255) == 255:
            return _by_colour(path, pixels[..., :3], colours)
        raise DevkitError(
            f"{path} is a mask of mode {layout}, whose values may mean several things: {_REMEDY}."
        )


def _by_palette(
    path: Path, indices: NDArray[np.uint8], palette: bytes, expected: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return the numbers of a palette picture: its indices, or what their colours say."""
    if expected.tobytes().startswith(palette):
        return indices
    colours = np.frombuffer(palette, dtype=np.uint8).reshape(-1, 3)
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    used = used[used < len(colours)]  # an index without a colour says nothing but its number
    seen = colours[used]
    labels = labels_of_colours(seen, expected)
    contradicted = (labels >= 0) & (labels != used)
    if not contradicted.any() or (seen == used[:, None]).all():  # the latter is a ramp of greys
        return indices
    exchanged = (seen[:, ::-1] == expected[used]).all()  # red and blue: the numbers may be right
    if exchanged or (labels < 0).any() or indices.max() >= len(colours):
        first = int(np.flatnonzero(contradicted)[0])
        raise DevkitError(
            f"{path}: its palette gives number {used[first]} the colour that VOC's palette gives "
            f"{labels[first]}, so that it is open which of the two is meant: {_REMEDY}."
        )
    meaning = np.zeros(256, dtype=np.uint8)
    meaning[used] = labels
    return meaning[indices]


def _by_colour(
    path: Path, pixels: NDArray[np.uint8], expected: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return the numbers of an (H, W, 3) picture in the ``expected`` colours."""
    labels = labels_of_colours(pixels, expected)
    strange = pixels[labels < 0]
    if len(strange):
        raise DevkitError(
            f"{path} is a mask in colours, and {len(strange)} pixels have none of VOC's (the first "
            f"is {tuple(strange[0].tolist())}): {_REMEDY}."
        )
    return labels.astype(np.uint8)


def check_class_ids(mask: NDArray[np.uint8], path: Path, classes: int) -> None:
    """Raise DevkitError if a (H, W) mask holds anything but 0..``classes`` - 1 and `VOID`."""
    if np.max(mask + np.uint8(1), initial=0) <= classes:  # VOID wraps around to 0
        return
    counts = np.bincount(mask.ravel(), minlength=256)
    wrong = [value for value in np.flatnonzero(counts) if classes <= value < VOID]
    listed = ", ".join(str(value) for value in wrong[:5])
    raise DevkitError(
        f"{path}: expected class ids 0..{classes - 1} and {VOID}, got {listed}"
        f" ({int(counts[wrong].sum())} pixels): it is not a mask of the data set's labels, VOC's "
        "unless a labels.toml states others."
    )


def write_mask(
    path: Path | BinaryIO, mask: NDArray[np.uint8], colours: NDArray[np.uint8] = PALETTE
) -> None:
    """Write a (H, W) uint8 mask as the devkit does: a PNG with a palette, by default VOC's."""
    picture = Image.fromarray(mask).convert("L")
    picture.putpalette(colours.tobytes())
    picture.save(path, "PNG")


def surrounding_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """Return x1 y1 x2 y2 around the pixels of a mask (H, W); None if it has none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


@contextmanager
def _opened(path: Path, formats: tuple[str, ...] | None) -> Iterator[ImageFile.ImageFile]:
    """Open a picture of one of ``formats``, None for any; what goes wrong names the file."""
    try:
        if path.stat().st_size == 0:
            raise DevkitError(f"{path} is empty (0 bytes): restore it.")
        with Image.open(path, formats=formats) as picture:
            if picture.width * picture.height > LARGEST:
                size = f"{picture.width} x {picture.height} pixels"
                raise Image.DecompressionBombError(f"{size}, at most {LARGEST} are read")
            yield picture
    except UnidentifiedImageError as error:
        raise DevkitError(f"{path} {_what_is_wrong(path, formats)}") from error
    except FileNotFoundError as error:
        raise DevkitError(f"{path} does not exist.") from error
    except Image.DecompressionBombError as error:
        raise DevkitError(f"{path} is too large ({error}): scale it down.") from error
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow reports damaged files with any of these, broken PNG chunks as SyntaxError.
        raise DevkitError(
            f"{path} cannot be read ({error}): it is damaged or cut off; restore it."
        ) from error


def _what_is_wrong(path: Path, formats: tuple[str, ...] | None) -> str:
    """Say why Pillow does not recognise a file."""
    if is_jpeg(path) and (formats is None or "JPEG" in formats):
        return (
            "is a JPEG that cannot be read: its header is cut off or damaged, says 0 x 0 pixels, "
            "or says other than 8 bits a sample. Restore or convert it."
        )
    if formats is None:
        return "is no picture of a format that can be read: restore or convert it."
    return f"is not a {formats[0]} file: restore it from the devkit."
