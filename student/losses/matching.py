"""Which anchor learns from which box (BlitzNet paper, as in SSD), batched on the device."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdcli.student.model.anchors import encode_boxes

IOU_THRESHOLD = 0.5
_PAIRS_AT_ONCE = 1 << 25  # anchor-box pairs held at a time: 128 MiB for each float32 table


class Matches(NamedTuple):
    """What every anchor of a batch shall learn.

    Attributes:
        labels: (B, A) int64, 0 for the background.
        offsets: (B, A, 4) float32 of the matched box, 0 for the background.
        scores: (B, A) float32 of the matched box, 1 for the background.
    """

    labels: Tensor
    offsets: Tensor
    scores: Tensor


@torch.no_grad()
def match(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    iou_threshold: float = IOU_THRESHOLD,
) -> Matches:
    """Match the boxes of every image to the anchors.

    An anchor takes the box with the highest IoU (the first of equals) if that is at least the
    threshold. Besides, every box claims the anchor with the highest IoU (the first of equals),
    whatever its value; of several boxes that claim one anchor the first wins it, and a claim
    beats the threshold.

    Args:
        anchors: (A, 4) centre x, centre y, width, height, relative to the image.
        boxes: (B, M, 4) x1 y1 x2 y2, relative to the image.
        labels: (B, M) classes from 1; 0 marks padding, ignored wherever it stands.
        scores: (B, M) of the boxes; 1 for ground truth.
        iou_threshold: least IoU of an unclaimed match.
    """
    if boxes.ndim != 3 or boxes.shape[-1] != 4:
        raise ValueError(f"Expected boxes of shape (B, M, 4), got {tuple(boxes.shape)}")
    for name, table in (("labels", labels), ("scores", scores)):
        if table.shape != boxes.shape[:2]:
            expected, got = tuple(boxes.shape[:2]), tuple(table.shape)
            raise ValueError(f"Expected {name} of shape {expected}, got {got}")
    batch, count = labels.shape
    if batch == 0 or count == 0:
        return _background(batch, anchors)
    images = max(1, _PAIRS_AT_ONCE // (len(anchors) * count))
    parts = []
    for start in range(0, batch, images):
        part = slice(start, start + images)
        arguments = boxes[part].float(), labels[part].long(), scores[part].float()
        parts.append(_match(anchors, *arguments, iou_threshold))
    return Matches(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _background(batch: int, anchors: Tensor) -> Matches:
    shape = (batch, len(anchors))
    return Matches(
        labels=torch.zeros(shape, dtype=torch.int64, device=anchors.device),
        offsets=torch.zeros((*shape, 4), device=anchors.device),
        scores=torch.ones(shape, device=anchors.device),
    )


def _match(
    anchors: Tensor, boxes: Tensor, labels: Tensor, scores: Tensor, threshold: float
) -> Matches:
    real = labels > 0
    # Padding gets a value below every IoU, so that it neither is anyone's best nor counts.
    iou = _iou(anchors, boxes).masked_fill(~real[:, :, None], -1.0)
    best_iou, best_box = iou.max(dim=1)
    positive = best_iou >= threshold
    claimant = _claimants(iou.argmax(dim=2), real, len(anchors))
    claimed = claimant < labels.shape[1]
    box = torch.where(claimed, claimant, best_box)
    positive = claimed | positive
    matched = boxes.gather(1, box[..., None].expand(-1, -1, 4))
    zero = torch.zeros((), device=boxes.device)
    return Matches(
        labels=labels.gather(1, box) * positive,
        offsets=torch.where(positive[..., None], encode_boxes(matched, anchors), zero),
        scores=torch.where(positive, scores.gather(1, box), zero + 1),
    )


def _claimants(best_anchor: Tensor, real: Tensor, num_anchors: int) -> Tensor:
    """(B, M) best anchor of every box -> (B, A) first box that claims an anchor, M for none."""
    batch, count = best_anchor.shape
    order = torch.arange(count, device=best_anchor.device).expand(batch, count)
    order = order.masked_fill(~real, count)
    claimants = torch.full((batch, num_anchors), count, device=best_anchor.device)
    return claimants.scatter_reduce(1, best_anchor, order, reduce="amin")


def _iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """(A, 4) centre-size and (B, M, 4) corner boxes -> IoU (B, M, A), 0 for an empty union.

    The order of the operations is that of the public TensorFlow code, so that overlaps that are
    equal but for rounding are told apart in the same way.
    """
    size, box_size = anchors[:, 2:], boxes[..., 2:] - boxes[..., :2]
    low, box_low = anchors[:, :2] - size / 2, boxes[..., :2]
    high, box_high = low + size, box_low + box_size
    extents = []
    for axis in (0, 1):  # one axis at a time, in place: these tables are large
        extent = torch.minimum(box_high[..., None, axis], high[:, axis])
        extent -= torch.maximum(box_low[..., None, axis], low[:, axis])
        extents.append(extent.clamp_(min=0))
    intersection = extents[0].mul_(extents[1])
    areas, box_areas = size.prod(dim=-1), box_size.prod(dim=-1)[..., None]
    union = torch.add(box_areas, areas, out=extents[1]).sub_(intersection)
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))
