"""The sample devkit: drawn scenes in the layout of VOC 2012, for the demo and for tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from kdcli.common.errors import DevkitError
from kdcli.voc.annotation_xml import annotation_xml
from kdcli.voc.devkit import Devkit
from kdcli.voc.images import write_mask
from kdcli.voc.scenes.scene import Scene, draw_scene

__all__ = ["Scene", "draw_scene", "make_sample"]

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]

_PICTURES = ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationObject")
_LEAST_IMAGES = 2
_JPEG_QUALITY = 90


def _untracked(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    return items


def make_sample(
    out: Path | str,
    images: int = 240,
    seed: int = 1,
    progress: Progress = _untracked,
    mask_share: float = 1.0,
) -> Devkit:
    """Write a devkit of drawn scenes with boxes, class masks and object masks.

    Every third scene goes to ``val``, the rest to ``train``; Main's lists equal Segmentation's,
    unless ``mask_share`` leaves training scenes without masks, as most of VOC's are: those are in
    Main's lists alone.
    The first scenes of a longer devkit are those of a shorter one of the same seed. The lists are
    written last: a folder without them is not a finished devkit.

    Args:
        out: a new or empty folder; JPEGImages and the rest will lie directly in it.
        images: how many scenes, at least 2.
        seed: which stream of scenes, not negative.
        progress: wraps the loop, e.g. with a progress bar.
        mask_share: share of the training scenes that have masks, spread evenly over them.

    Raises:
        DevkitError: ``out`` holds something already or cannot be written, or a number is too small.
    """
    out = Path(out)
    if images < _LEAST_IMAGES:
        raise DevkitError(
            f"Expected at least {_LEAST_IMAGES} images (one to train on, one to evaluate on), "
            f"got {images}."
        )
    if seed < 0:
        raise DevkitError(f"Expected a seed of 0 or more, got {seed}.")
    if not 0 < mask_share <= 1:
        raise DevkitError(f"Expected a share of masks above 0 and at most 1, got {mask_share}.")
    with_mask = _with_mask(images, mask_share)
    existed = _prepare(out)
    try:
        for folder in _PICTURES:
            (out / folder).mkdir()
        ids = [
            _write_scene(out, seed, index, index in with_mask)
            for index in progress(range(images), images, "scenes")
        ]
        _write_lists(out, ids, with_mask)
    except BaseException as error:
        _clear(out, existed)
        if isinstance(error, OSError):
            raise DevkitError(f"Cannot write the sample devkit to {out}: {error}.") from error
        raise
    return Devkit.open(out)


def _prepare(out: Path) -> bool:
    """Make sure that ``out`` is an empty folder; return whether it was there before."""
    existed = out.exists()
    if existed and not out.is_dir():
        raise DevkitError(f"Expected a new or empty folder, got the file {out}.")
    if existed and any(out.iterdir()):
        raise DevkitError(
            f"Expected a new or empty folder, but {out} holds something already: name another "
            "one, or remove it first if it is left over from an interrupted make-sample."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DevkitError(f"Cannot make the folder {out}: {error}.") from error
    return existed


def _clear(out: Path, existed: bool) -> None:
    """Remove what was written so far, and the folder itself if it is ours."""
    for folder in (*_PICTURES, "ImageSets"):
        shutil.rmtree(out / folder, ignore_errors=True)
    if not existed and out.is_dir() and not any(out.iterdir()):
        out.rmdir()


def _is_val(index: int) -> bool:
    return index % 3 == 1


def _with_mask(images: int, share: float) -> frozenset[int]:
    """Return the scenes that have masks: all of val, and evenly spaced ones of train."""
    train = [index for index in range(images) if not _is_val(index)]
    chosen = (index for n, index in enumerate(train) if int((n + 1) * share) > int(n * share))
    return frozenset(chosen) | {index for index in range(images) if _is_val(index)}


def _write_scene(out: Path, seed: int, index: int, masks: bool) -> str:
    scene = draw_scene(seed, index)
    name = scene.annotation.image_id
    photograph = Image.fromarray(scene.image)
    photograph.save(out / "JPEGImages" / f"{name}.jpg", "JPEG", quality=_JPEG_QUALITY)
    if masks:
        write_mask(out / "SegmentationClass" / f"{name}.png", scene.class_mask)
        write_mask(out / "SegmentationObject" / f"{name}.png", scene.object_mask)
    xml = annotation_xml(scene.annotation, folder=out.resolve().name, segmented=masks)
    (out / "Annotations" / f"{name}.xml").write_text(xml, encoding="utf-8")
    return name


def _write_lists(out: Path, ids: list[str], with_mask: frozenset[int]) -> None:
    for task in ("Segmentation", "Main"):
        known = [(i, name) for i, name in enumerate(ids) if task == "Main" or i in with_mask]
        lists = {
            "train": [name for index, name in known if not _is_val(index)],
            "val": [name for index, name in known if _is_val(index)],
            "trainval": [name for _, name in known],
        }
        (out / "ImageSets" / task).mkdir(parents=True)
        for split, members in lists.items():
            text = "".join(f"{name}\n" for name in members)
            (out / "ImageSets" / task / f"{split}.txt").write_text(text, encoding="utf-8")
