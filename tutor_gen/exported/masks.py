"""The masks of an export: what they cover, and how they get to the original's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.frame import Frame
from kdcli.tutor_gen.tutors.sidecar import sidecar_path

LARGEST_BOX_MASK = 224
"""Side of the largest masks over boxes that are known of, PointRend's; most have 28."""
_ROUNDING = 1e-3

Masks = NDArray[np.bool_] | NDArray[np.uint8]


def flat_masks(path: Path, masks: torch.Tensor, count: int) -> torch.Tensor:
    """Return masks (n, h, w) of (n, h, w) or (n, 1, h, w), checked.

    Raises:
        TutorError: there are not ``count`` of them, or they hold others values than 0..1.
    """
    if count == 0:
        return masks.new_zeros(0, 0, 0)
    flat = masks[:, 0] if masks.dim() == 4 and masks.shape[1] == 1 else masks
    if flat.dim() != 3 or len(flat) != count:
        raise TutorError(
            f"{path}: by its sidecar, expected {count} masks of (n, h, w) or (n, 1, h, w), got "
            f"{tuple(masks.shape)}"
        )
    if not ((flat >= -_ROUNDING) & (flat <= 1 + _ROUNDING)).all():
        raise TutorError(
            f"{path}: expected masks of probabilities 0..1, or of 0 and 1, got "
            f"{flat.min():.3g} to {flat.max():.3g}; let the export apply its sigmoid, or divide"
        )
    return flat


def mask_frame(
    path: Path, masks: torch.Tensor, given: tuple[int, ...], known: str | None
) -> str | None:
    """Say what masks (n, h, w) cover: the tensor ``given`` (``"input"``) or their ``"box"``.

    Args:
        path: the export's file.
        masks: of one image; none of them tell nothing new.
        given: height and width of the tensor.
        known: what the sidecar states, or earlier images told, if anything.

    Raises:
        TutorError: they contradict what is known; or nothing is, and their shape fits neither or
            both.
    """
    if not len(masks):
        return known
    height, width = masks.shape[1:]
    fits = []
    if (height, width) == given:
        fits.append("input")
    if height == width and (known or height <= LARGEST_BOX_MASK):
        fits.append("box")
    if known in fits:
        return known
    if known is None and len(fits) == 1:
        return fits[0]
    size, of_input = f"{height} x {width}", f"an input of {given[0]} x {given[1]}"
    if known is None and fits:
        raise TutorError(
            f"{path} gives masks of {size} for {of_input}: they could cover the input, or each its "
            f'box. Say which in {sidecar_path(path)}: mask_frame = "input" or "box" under [output]'
        )
    expected = {"input": "the input's size", "box": "squares over the boxes"}
    wanted = expected.get(known or "", "the input's size, or small squares over the boxes")
    raise TutorError(f"{path}: expected masks of {wanted}, got {size} for {of_input}")


def to_original(
    masks: torch.Tensor,
    covers: str | None,
    boxes: NDArray[np.float32],
    frame: Frame,
    *,
    soft: bool,
) -> Masks:
    """Bring masks (n, h, w) to the original image's (height, width).

    Those of the input are resized bilinearly (smoothed where they shrink), marks as 0 and 1; those
    of boxes are pasted as Detectron2 does it.

    Args:
        masks: probabilities or marks.
        covers: see `mask_frame`.
        boxes: (n, 4) x1 y1 x2 y2 in the original's pixels.
        frame: where the original lies in the input.
        soft: whether probabilities times 255, rounded down, are wanted as uint8, or bool: those of
            at least 0.5.
    """
    size = frame.original
    if not len(masks):
        return np.zeros((0, *size), dtype=np.uint8 if soft else np.bool_)
    if covers == "box":
        from kdcli.tutor_gen.detectron2.tutor import paste_masks  # takes seconds

        height, width = size
        return paste_masks(masks.float(), boxes, height, width, soft)
    top, left, rows, columns = frame.window
    shown = masks[:, top : top + rows, left : left + columns]
    # One by one: as floats of a large photograph they would not fit the memory all at once.
    resized = (_resize(mask, size) for mask in shown)
    if soft:
        levels = [(mask.clamp(0, 1) * 255).to(torch.uint8) for mask in resized]
    else:
        levels = [mask >= 0.5 for mask in resized]
    array: Masks = torch.stack(levels).numpy()
    return array


def _resize(mask: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    values = mask.float()
    if values.shape == size:
        return values
    return F.interpolate(values[None, None], size, mode="bilinear", antialias=True)[0, 0]
