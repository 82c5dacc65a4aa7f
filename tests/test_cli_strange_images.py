"""Photographs that are broken or unusual, through the real command."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.cli import main
from kdcli.tutor_gen.registry import load_tutor
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import draw_scene

SCENE = Image.fromarray(draw_scene(7_500_000, 0).image)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


WHOLE = encoded(SCENE)


def with_header(content: bytes, bits: int = 8, size: tuple[int, int] | None = None) -> bytes:
    """A JPEG whose frame header says other bits a sample or another (height, width)."""
    start = content.index(b"\xff\xc0")
    stated = struct.pack(">HH", *(size or (SCENE.height, SCENE.width)))
    return content[: start + 4] + bytes([bits]) + stated + content[start + 9 :]


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # by 90 degrees
    return exif


DEEP = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 256)

BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "cut_in_half": (lambda: WHOLE[: len(WHOLE) // 2], "cannot be read (image file is truncated"),
    "cut_at_the_end": (lambda: WHOLE[:-2], "cannot be read (image file is truncated"),
    "cut_in_header": (lambda: WHOLE[:20], "its header is cut off or damaged"),
    "zero_bytes": (lambda: b"", "is empty (0 bytes)"),
    "a_web_page": (lambda: b"<html>404</html>", "is not a JPEG file"),
    "png_with_alpha": (lambda: encoded(SCENE.convert("RGBA"), "PNG"), "is not a JPEG file"),
    "png_of_16_bits": (lambda: encoded(DEEP, "PNG"), "is not a JPEG file"),
    "jpeg_of_12_bits": (lambda: with_header(WHOLE, bits=12), "other than 8 bits a sample"),
    "zero_by_zero": (lambda: with_header(WHOLE, size=(0, 0)), "says 0 x 0 pixels"),
    "huge": (lambda: with_header(WHOLE, size=(20_000, 20_000)), "is too large"),
    "rather_huge": (lambda: with_header(WHOLE, size=(9_500, 9_500)), "9500 x 9500 pixels, at most"),
    "a_strip": (lambda: encoded(Image.new("RGB", (2000, 1))), "too narrow"),
}

UNUSUAL: dict[str, Callable[[], bytes]] = {
    "plain": lambda: WHOLE,
    "grey": lambda: encoded(SCENE.convert("L")),
    "cmyk": lambda: encoded(SCENE.convert("CMYK")),
    "turned_by_exif": lambda: encoded(SCENE, exif=turned()),
    "progressive": lambda: encoded(SCENE, progressive=True),
    "one_pixel": lambda: encoded(SCENE.crop((0, 0, 1, 1))),
    "with_a_tail": lambda: WHOLE + b"something else",
}

UNREADABLE = "a_broken_disk"
"""A file that is there, but whose bytes cannot be had."""


@dataclass
class Run:
    """The command's exit code and output, and what it left."""

    devkit: Devkit
    out: Path
    code: int
    output: str


def run(devkit: Devkit, out: Path) -> Run:
    arguments = [
        *("generate-tutors", "--voc", str(devkit.root), "--list", "Main/train", "--device", "cpu"),
        *("--detection-tutor", "sample", "--segmentation-tutor", "none", "--out", str(out)),
        *("--images-per-shard", "4", "--workers", "0"),
    ]
    result = CliRunner().invoke(main, arguments)
    return Run(devkit, out, result.exit_code, result.output)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("strange")
    photographs = root / "voc" / "JPEGImages"
    photographs.mkdir(parents=True)
    contents = UNUSUAL | {name: make for name, (make, _) in BROKEN.items()}
    for name, make in contents.items():
        (photographs / f"{name}.jpg").write_bytes(make())
    (photographs / f"{UNREADABLE}.jpg").symlink_to("/proc/self/mem")
    (root / "voc" / "ImageSets" / "Main").mkdir(parents=True)
    ids = "\n".join([*contents, UNREADABLE])
    (root / "voc" / "ImageSets" / "Main" / "train.txt").write_text(ids)
    return run(Devkit.open(root / "voc"), root / "c.zarr")


def test_the_run_goes_on_and_ends_with_a_summary(first: Run) -> None:
    assert first.code == 1
    failed = len(BROKEN) + 1
    assert f"Error: {failed} of {len(UNUSUAL) + failed} images failed" in first.output
    assert "Traceback" not in first.output
    assert TutorCache.open(first.out).image_ids == tuple(UNUSUAL)
    assert verify(first.out) == []


@pytest.mark.parametrize("name", [*BROKEN, UNREADABLE])
def test_a_broken_one_is_recorded_with_its_reason(first: Run, name: str) -> None:
    reason = TutorCache.open(first.out).failed[name]
    expected = "is empty (0 bytes)" if name == UNREADABLE else BROKEN[name][1]
    assert expected in reason
    assert f"failed: {name}: {reason}" in first.output


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_one_is_labelled_as_it_is_stored(first: Run, name: str) -> None:
    with Image.open(first.devkit.image_path(name)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    tutor = load_tutor("sample", "detection")
    assert tutor is not None
    (expected,) = tutor.predict([pixels])
    stored = TutorCache.open(first.out)[name]
    assert (stored.height, stored.width) == pixels.shape[:2]
    np.testing.assert_array_equal(stored.boxes, expected.boxes)
    np.testing.assert_array_equal(stored.scores, expected.scores)


def test_once_mended_just_those_are_tried_again(first: Run) -> None:
    for name in [*BROKEN, UNREADABLE]:
        path = first.devkit.image_path(name)
        path.unlink()
        path.write_bytes(WHOLE)
    again = run(first.devkit, first.out)
    assert again.code == 0, again.output
    assert f"tutors: {len(BROKEN) + 1} of {len(BROKEN) + 1}" in again.output
    cache = TutorCache.open(first.out)
    assert cache.failed == {}
    np.testing.assert_array_equal(cache["huge"].boxes, cache["plain"].boxes)
    assert verify(first.out) == []
