"""What the pixels of a mask stand for, and photographs of any format."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kdcli.common.errors import DevkitError
from kdcli.voc.colours import PALETTE, labels_of_colours
from kdcli.voc.images import read_mask, read_photograph, read_picture, write_mask

Pixels = NDArray[np.uint8]
CLASSES = np.array([[0, 0, 15, 255], [8, 8, 15, 0]], np.uint8)


def indexed(path: Path, pixels: Pixels, palette: object, **options: object) -> Path:
    picture = Image.fromarray(pixels)
    picture.putpalette(np.asarray(palette, np.uint8).tobytes())
    picture.save(path, "PNG", **options)
    return path


def of_colours(path: Path, pixels: Pixels) -> Path:
    Image.fromarray(pixels).save(path, "PNG")
    return path


def grey_of(bits: int) -> bytes:
    """A grey PNG of one row, of few bits: the values 0 and 1."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = (1 << (8 - 2 * bits)).to_bytes(1, "big")
    header = struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def test_colours_and_labels_are_each_others_inverse() -> None:
    assert labels_of_colours(PALETTE).tolist() == list(range(256))
    colours = np.random.default_rng(0).integers(0, 256, (50_000, 3), dtype=np.uint8)
    known = {tuple(colour) for colour in PALETTE.tolist()}
    expected = [tuple(colour) in known for colour in colours.tolist()]
    assert (labels_of_colours(colours) >= 0).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(256)), st.integers(0, 2**32 - 1))
def test_colours_numbered_anew_mean_what_they_meant(
    tmp_path_factory: pytest.TempPathFactory, places: list[int], seed: int
) -> None:
    """Whatever a program makes of the palette: the same numbers, or a refusal; never others."""
    numbers = np.random.default_rng(seed).integers(0, 256, (5, 7), dtype=np.uint8)
    place = np.array(places, np.uint8)
    palette = np.empty((256, 3), np.uint8)
    palette[place] = PALETTE
    path = indexed(tmp_path_factory.mktemp("mask") / "m.png", place[numbers], palette)
    np.testing.assert_array_equal(read_mask(path), numbers)


def test_a_palette_that_another_program_made(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.png", CLASSES)
    again = Image.open(tmp_path / "m.png").convert("RGB").quantize(8)
    assert not np.array_equal(np.asarray(again), CLASSES)
    again.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), CLASSES)


SMALL = np.where(CLASSES > 15, 0, CLASSES)
GREYS = np.arange(256)[:, None].repeat(3, axis=1)
FOREIGN = np.random.default_rng(1).integers(0, 128, (256, 3)) * 2 + 1  # odd: none of VOC's


@pytest.mark.parametrize(
    "save",
    [
        lambda path: write_mask(path, CLASSES),
        lambda path: Image.fromarray(CLASSES).save(path),
        lambda path: indexed(path, CLASSES, GREYS),
        lambda path: indexed(path, CLASSES, FOREIGN),
        lambda path: indexed(path, CLASSES, PALETTE[:21]),  # void has no colour
        lambda path: indexed(path, CLASSES, np.r_[PALETTE[:255], [[255, 255, 255]]]),
        lambda path: indexed(path, CLASSES, PALETTE, transparency=0),
        lambda path: of_colours(path, PALETTE[CLASSES]),
        lambda path: of_colours(path, np.dstack([PALETTE[CLASSES], np.full_like(CLASSES, 255)])),
    ],
    ids=["devkit's", "grey", "greys", "foreign", "short", "white void", "transparency", "RGB", "A"],
)
def test_masks_whose_meaning_is_clear(save: Callable[[Path], object], tmp_path: Path) -> None:
    save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), CLASSES)


def test_four_bits_are_enough_for_sixteen_colours(tmp_path: Path) -> None:
    path = indexed(tmp_path / "m.png", SMALL, PALETTE[:16], bits=4)
    assert path.read_bytes()[24] == 4
    np.testing.assert_array_equal(read_mask(path), SMALL)


SWAPPED = PALETTE[:, ::-1]
HALF = np.r_[PALETTE[:8], PALETTE[9:10], FOREIGN[9:]]
BLACK_LAST = np.r_[PALETTE[1:21], PALETTE[:1]]  # and void has no colour
SEE_THROUGH = np.dstack([PALETTE[CLASSES], np.full_like(CLASSES, 255)])
SEE_THROUGH[0, 0, 3] = 0
NEARLY = PALETTE[CLASSES].copy()
NEARLY[0, 0] = 1, 1, 1


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (lambda path: indexed(path, CLASSES, SWAPPED), "number 8 the colour .* gives 32"),
        (lambda path: indexed(path, CLASSES, HALF), "number 8 the colour .* gives 9"),
        (lambda path: indexed(path, CLASSES, BLACK_LAST), "number 0 the colour .* gives 1"),
        (lambda path: of_colours(path, SEE_THROUGH), "mode RGBA"),
        (lambda path: of_colours(path, NEARLY), r"1 pixels .*the first is \(1, 1, 1\)"),
        (lambda path: of_colours(path, np.dstack([CLASSES] * 3)), r"\(15, 15, 15\)"),
        (lambda path: Image.fromarray(CLASSES).convert("LA").save(path), "mode LA"),
        (lambda path: Image.fromarray(CLASSES.astype(np.uint16)).save(path), "mode I;16"),
        (lambda path: path.write_bytes(grey_of(4)), "mode L;4"),
        (lambda path: path.write_bytes(grey_of(2)), "mode L;2"),
        (lambda path: path.write_bytes(grey_of(1)), "mode 1,"),
    ],
    ids=[
        "red is blue",
        "half",
        "no void",
        "alpha",
        "inexact",
        "grey RGB",
        "LA",
        "16",
        "4",
        "2",
        "1",
    ],
)
def test_masks_that_can_be_read_in_two_ways_are_refused(
    save: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    save(tmp_path / "m.png")
    with pytest.raises(DevkitError, match=words) as caught:
        read_mask(tmp_path / "m.png")
    assert str(tmp_path / "m.png") in str(caught.value)
    assert "with VOC's palette, or as RGB" in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF", "GIF"])
def test_pictures_of_any_format_whatever_their_ending(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    pixels = np.zeros((9, 12, 3), np.uint8)
    pixels[2:5] = 255
    Image.fromarray(pixels).save(path, kind, lossless=True)
    np.testing.assert_array_equal(read_picture(path), pixels)


def test_a_jpeg_is_read_as_the_devkits_are(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(PALETTE[:200].reshape(10, 20, 3)).save(tmp_path / "p.png", "JPEG", exif=exif)
    assert read_picture(tmp_path / "p.png").shape == (10, 20, 3)
    np.testing.assert_array_equal(
        read_picture(tmp_path / "p.png"), read_photograph(tmp_path / "p.png")
    )


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    with pytest.raises(DevkitError, match="does not exist"):
        read_picture(path)
    path.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DevkitError, match="is a JPEG that cannot be read"):
        read_picture(path)
    path.write_bytes(b"<html>")
    with pytest.raises(DevkitError, match="no picture of a format that can be read"):
        read_picture(path)
    Image.fromarray(np.full((4, 4), 4096, np.uint16)).save(path, "PNG")  # Pillow makes white of it
    with pytest.raises(DevkitError, match=r"p\.jpg has more than 8 bits a sample"):
        read_picture(path)
