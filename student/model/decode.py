"""From the network's output to boxes and label maps of the original images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcli.common.detections import Detections
from kdcli.student.model.anchors import decode_boxes
from kdcli.student.model.blocks import resize_bilinear

_GROUPS = 160
"""Groups whose pairs are compared at once: 400 boxes each are 25.6 million pairs, 100 MB."""


class AnchorOutput(NamedTuple):
    """What the network says of the anchors of a batch: A anchors, C classes.

    Attributes:
        offsets: (B, A, 4) box offsets, see `anchors.decode_boxes`.
        logits: (B, A, C) class logits, index 0 the background.
    """

    offsets: Tensor
    logits: Tensor


@dataclass(frozen=True)
class BoxLimits:
    """Which boxes survive inference; the defaults are the BlitzNet paper's.

    Attributes:
        score: a box of a class must have a probability above this.
        before_nms: boxes of one class that enter the non-maximum suppression, the best.
        nms_iou: a box that overlaps a better one of its class by more than this is dropped.
        after_nms: boxes of one class that may leave it.
        per_image: boxes of an image, over all classes.
    """

    score: float = 0.01
    before_nms: int = 400
    nms_iou: float = 0.45
    after_nms: int = 50
    per_image: int = 200


@torch.no_grad()
def detect(
    output: AnchorOutput,
    anchors: Tensor,
    sizes: Sequence[tuple[int, int]],
    limits: BoxLimits | None = None,
) -> list[Detections]:
    """Detections of a batch, the most confident first, computed on the device of the output.

    Args:
        output: what the network said of B images, each resized as a whole to the input square.
        anchors: (A, 4) of the network.
        sizes: (height, width) of the B original images.
        limits: which boxes survive.
    """
    if len(sizes) != len(output.logits):
        raise ValueError(f"Expected {len(output.logits)} image sizes, got {len(sizes)}")
    rows = detected_rows(output, anchors, limits or BoxLimits())
    return detections_of(rows.cpu().numpy(), sizes)


@torch.no_grad()
def detected_rows(output: AnchorOutput, anchors: Tensor, limits: BoxLimits) -> Tensor:
    """Return what `detect` makes detections of, on the device of the output.

    Returns:
        (B, N, 7) float32: a box x1 y1 x2 y2 relative to its image, its label, its score and its
        anchor, the best first; as many places for every image, those that are none have the score
        -1.
    """
    scores, boxes, anchor = _candidates(output, anchors, limits)
    kept = suppress(boxes, scores, limits)
    ranked = torch.where(kept, scores, -1).flatten(1)
    best, place = ranked.topk(min(limits.per_image, ranked.shape[1]), dim=1)
    found = boxes.flatten(1, 2).gather(1, place[..., None].expand(-1, -1, 4))
    labels = place // max(scores.shape[2], 1) + 1
    taken = anchor.flatten(1).gather(1, place)  # up to 2**24 a float is as good as a whole number
    return torch.cat([found, labels[..., None], best[..., None], taken[..., None]], dim=2)


def detections_of(rows: NDArray[np.float32], sizes: Sequence[tuple[int, int]]) -> list[Detections]:
    """Return the detections in `detected_rows`, in pixels of images of these (height, width)."""
    return [_of_image(*each) for each in zip(rows, sizes, strict=True)]


def _candidates(
    output: AnchorOutput, anchors: Tensor, limits: BoxLimits
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (B, C, K) falling scores, (B, C, K, 4) relative boxes and (B, C, K) their anchors.

    C is without the background. K is the most that any class of any image has above the limit; the
    others are filled up.
    """
    probabilities = torch.softmax(output.logits.float(), dim=-1)[..., 1:].transpose(1, 2)
    boxes = decode_boxes(output.offsets, anchors).clamp(0, 1)
    scores, anchor = probabilities.topk(min(limits.before_nms, len(anchors)), dim=2)
    most = int((scores > limits.score).sum(dim=2).max())
    scores, anchor = scores[..., :most], anchor[..., :most]
    index = anchor.flatten(1)[..., None].expand(-1, -1, 4)
    return scores, boxes.gather(1, index).view(*anchor.shape, 4), anchor


def suppress(boxes: Tensor, scores: Tensor, limits: BoxLimits) -> Tensor:
    """Return which boxes non-maximum suppression keeps, (..., K) bool.

    The rule is greedy: each box, from the best on, is dropped if a kept better one of its group
    overlaps it by more than ``limits.nms_iou``. A CPU follows it box by box; a GPU compares all
    pairs of all groups at once, so that the host waits a few times a batch, not for every image.

    Args:
        boxes: (..., K, 4) x1 y1 x2 y2, a group (a class of an image) its best boxes first.
        scores: (..., K) falling; those of at most ``limits.score`` are dropped.
        limits: Which boxes survive.
    """
    alive = (scores > limits.score).flatten(0, -2)
    crowds = boxes.flatten(0, -3)
    if boxes.device.type == "cpu":
        kept = one_by_one(crowds, scores.flatten(0, -2), alive, limits.nms_iou)
    else:
        parts = zip(torch.split(crowds, _GROUPS), torch.split(alive, _GROUPS), strict=True)
        kept = torch.cat([all_at_once(some, those, limits.nms_iou) for some, those in parts])
    return (kept & (kept.cumsum(dim=1) <= limits.after_nms)).view_as(scores)


def one_by_one(boxes: Tensor, scores: Tensor, alive: Tensor, iou: float) -> Tensor:
    """Return what `suppress` keeps of (G, K, 4) boxes, of which (G, K) count: (G, K) bool."""
    # Here, as it brings in half a compiler: more than a second that most programs need not wait.
    from torchvision.ops import nms

    kept = torch.zeros_like(alive)
    for group, count in enumerate(alive.sum(dim=1).tolist()):
        if count:
            kept[group, nms(boxes[group, :count], scores[group, :count], iou)] = True
    return kept


def all_at_once(boxes: Tensor, alive: Tensor, iou: float) -> Tensor:
    """Return the same as `one_by_one`, by comparing all pairs of a group.

    Who is dropped is asked again and again, each time of those that were kept before. The best of a
    group is right at once, and who depends on n better ones after n more rounds: what no longer
    changes is the greedy rule's answer.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    width = torch.minimum(x2[:, :, None], x2[:, None]) - torch.maximum(x1[:, :, None], x1[:, None])
    height = torch.minimum(y2[:, :, None], y2[:, None]) - torch.maximum(y1[:, :, None], y1[:, None])
    shared = width.clamp_(min=0).mul_(height.clamp_(min=0))
    area = (x2 - x1) * (y2 - y1)
    united = area[:, :, None] + area[:, None] - shared
    drops = shared.div_(united).gt(iou).triu_(1)  # [g, i, j]: i is better than j and overlaps it
    kept = alive
    while True:
        following = alive & ~(drops & kept[:, :, None]).any(dim=1)
        if torch.equal(following, kept):
            return kept
        kept = following


def _of_image(rows: NDArray[np.float32], size: tuple[int, int]) -> Detections:
    """(N, 7) rows of `detected_rows`, those of score -1 left out -> detections in pixels."""
    height, width = size
    rows = rows[rows[:, 5] >= 0]
    scale = np.array([width, height, width, height], np.float32)
    return Detections(rows[:, :4] * scale, rows[:, 4].astype(np.int64), rows[:, 5].copy())


@torch.no_grad()
def segment(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Label map of one original image.

    Args:
        logits: (C, s, s) class logits of the cells.
        size: (height, width) of the original image.

    Returns:
        (height, width) uint8 classes: the logits resized bilinearly, arg max.
    """
    resized = resize_bilinear(logits[None].float(), *size)
    # As argmax, which takes seven times as long on a CPU.
    return resized[0].max(dim=0).indices.to(torch.uint8)
