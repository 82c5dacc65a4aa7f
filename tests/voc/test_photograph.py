"""The fast reader gives what Pillow gives: pixels, sizes, refusals; reduced, it shifts nothing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcli.common.errors import DevkitError
from kdcli.voc.devkit import Devkit
from kdcli.voc.images import read_photograph
from kdcli.voc.jpeg import REDUCTIONS, Photograph


def photographs(devkit: Devkit, count: int) -> list[Path]:
    return sorted((devkit.root / "JPEGImages").iterdir())[:count]


def jpeg(image: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).convert(mode).save(content, "JPEG", **options)
    return content.getvalue()


def some_image(height: int, width: int, grain: int = 8) -> np.ndarray:
    """Smooth noise: pixels nearer than ``grain`` are alike, as in a photograph."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // grain + 1, width // grain + 1, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_real_photographs_differ_from_pillows_by_rounding_at_most(real: Devkit) -> None:
    for path in photographs(real, 40):
        fast, plain = Photograph.open(path), read_photograph(path)
        assert (fast.height, fast.width, 3) == plain.shape
        assert np.abs(fast.decode().astype(int) - plain).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(64, 96), (37, 51), (1, 1)])
def test_colour_spaces_and_sizes(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(some_image(*size), mode))
    photograph = Photograph.open(path)
    whole = photograph.decode()
    assert whole.shape == (*size, 3)
    assert np.abs(whole.astype(int) - read_photograph(path)).max() <= 2
    for reduction in REDUCTIONS:
        reduced = photograph.decode(reduction)
        assert reduced.shape == (-(-size[0] // reduction), -(-size[1] // reduction), 3)
        assert reduced.flags.writeable


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("reduction", REDUCTIONS[1:])
def test_a_reduced_pixel_is_nearly_the_mean_of_those_it_stands_for(
    tmp_path: Path, reduction: int, subsampling: int
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(some_image(256, 320, 40), quality=95, subsampling=subsampling))
    photograph = Photograph.open(path)
    whole = Image.fromarray(photograph.decode())
    means = np.asarray(whole.reduce(reduction)).astype(float)
    reduced = photograph.decode(reduction).astype(float)
    assert np.abs(reduced - means).mean() < 1.5
    # A shift of t pixels changes the image by t times its gradient: t by least squares.
    for axis in (0, 1):
        gradient = np.gradient(means, axis=axis)
        shift = (gradient * (reduced - means)).sum() / (gradient**2).sum()
        assert abs(shift) < 0.02


def test_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(some_image(40, 60), exif=exif))
    assert Photograph.open(path).decode().shape == (40, 60, 3)


def test_progressive_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(some_image(64, 48), progressive=True))
    fast = Photograph.open(path).decode()
    assert np.abs(fast.astype(int) - read_photograph(path)).max() <= 2


def test_damaged_files_are_refused_exactly_where_pillow_refuses_them(tmp_path: Path) -> None:
    """The same message, or the same picture: whatever byte is flipped, wherever it is cut off."""
    whole = jpeg(some_image(40, 56), quality=80)
    rng = np.random.default_rng(7)
    path, refused = tmp_path / "a.jpg", 0
    for attempt in range(300):
        content = bytearray(whole)
        if attempt % 2:
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        else:
            del content[int(rng.integers(len(content))) :]
        path.write_bytes(content)
        plain, fast = attempt_to(read_photograph, path), attempt_to(decode, path)
        if isinstance(plain, str):
            assert fast == plain
            refused += 1
        else:
            assert not isinstance(fast, str)
            assert fast.shape == plain.shape
    assert 100 < refused < 290


def decode(path: Path) -> np.ndarray:
    return Photograph.open(path).decode()


def attempt_to(read: object, path: Path) -> np.ndarray | str:
    assert callable(read)
    try:
        result: np.ndarray = read(path)
    except DevkitError as error:
        return str(error)
    return result


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"not a picture", "is not a JPEG file"), (None, "does not exist")],
)
def test_what_is_no_photograph(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DevkitError, match=message):
        Photograph.open(path)


def test_an_absurdly_large_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    content = bytearray(jpeg(some_image(16, 16)))
    start = content.index(b"\xff\xc0")  # the frame's header: length, precision, height, width
    content[start + 5 : start + 9] = (60_000).to_bytes(2, "big") * 2
    path.write_bytes(content)
    with pytest.raises(DevkitError, match="too large"):
        Photograph.open(path).decode()


def test_only_the_fractions_that_the_decoder_has(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(some_image(16, 16)))
    with pytest.raises(ValueError, match="Expected a reduction"):
        Photograph.open(path).decode(3)
