"""Loss of instance masks: binary cross-entropy inside the matched box (YOLACT, arXiv 1904.02689).

An anchor is positive if a box with a mask was matched to it, as in detection. Its mask is the
sigmoid of the prototypes' sum, weighted by its coefficients. Of the pixels whose centre lies in the
matched box and that are not void, the mean cross-entropy is taken (YOLACT: the sum over the area,
which is the same without void), and over the positives the mean again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcli.common.distributed import sum_over_ranks
from kdcli.student.losses.pasting import inside, paste, places
from kdcli.student.model.instances import InstanceOutput
from kdcli.voc.labels import VOID

MOST = 32
"""So many positive anchors of an image take part at most."""
_SPREAD = 2_654_435_761
"""Odd, so that multiples modulo 2**32 are all different; by the golden ratio, so that neighbours
are far apart (Knuth, The Art of Computer Programming, volume 3, section 6.4)."""


class Chosen(NamedTuple):
    """Positive anchors, K an image.

    Attributes:
        anchors: (B, K) int64.
        numbers: (B, K) int64, of their boxes from 1; 0 where an image has no more.
    """

    anchors: Tensor
    numbers: Tensor


class MaskTargets(NamedTuple):
    """What the masks of the chosen anchors shall be, float32 both.

    Attributes:
        masks: (B, K, s, s) probabilities.
        counted: (B, K, s, s) 1 for the pixels that count, else 0.
    """

    masks: Tensor
    counted: Tensor


def choose(numbers: Tensor, most: int = MOST) -> Chosen:
    """Take at most so many positive anchors of each image.

    Of more, it takes those that are first in one order of all anchors, always the same, in which
    neighbours lie far apart: what a random draw would spread, at no state to resume.

    Args:
        numbers: (B, A) of the matched boxes from 1, 0 for the background.
        most: K.
    """
    count = numbers.shape[1]
    order = torch.arange(1, count + 1, device=numbers.device) * _SPREAD % 2**32
    ranked = torch.where(numbers > 0, order, 0)
    anchors = ranked.topk(min(most, count), dim=1).indices
    return Chosen(anchors, numbers.gather(1, anchors))


def targets_of_objects(objects: Tensor, boxes: Tensor, chosen: Chosen) -> MaskTargets:
    """Return what ground truth asks of masks.

    Args:
        objects: (B, s, s) uint8 numbers of the boxes from 1, 0 for background, `VOID`.
        boxes: (B, M, 4) relative to the map, each a positive number's, in their order.
        chosen: the anchors; their numbers are those of ``objects``.
    """
    number = chosen.numbers[:, :, None, None]
    wanted = objects[:, None] == number
    counted = inside(*places(boxes, objects.shape[-1])) & (objects != VOID)[:, None]
    # A box in which the map shows nothing of its object says nothing of its mask.
    counted = counted & (number > 0) & (wanted & counted).flatten(2).any(dim=2)[..., None, None]
    return MaskTargets(wanted.float(), counted.float())


def targets_of_masks(masks: Tensor, boxes: Tensor, chosen: Chosen, side: int) -> MaskTargets:
    """Return what a tutor's masks ask: their probabilities inside their boxes.

    Args:
        masks: (B, K, 28, 28) uint8 of the chosen anchors' instances, probabilities times 255.
        boxes: (B, K, 4) of those, relative to the map; they may reach outside.
        chosen: the anchors.
        side: s.
    """
    within = inside(*places(boxes, side)) & (chosen.numbers > 0)[:, :, None, None]
    return MaskTargets(paste(masks, boxes, side), within.float())


def instance_loss(
    output: InstanceOutput,
    chosen: Chosen,
    targets: MaskTargets,
    scores: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean over the chosen anchors of their masks' cross-entropy, times confidence.

    Args:
        output: of the network.
        chosen: the anchors that learn.
        targets: of their masks; an anchor without a pixel that counts takes no part.
        scores: (B, K) confidences of their boxes; 1 for ground truth.
        weights: (B,) per-image weights, see `student.losses.losses`.

    Returns:
        A float32 scalar; 0 if no anchor takes part.
    """
    rows = chosen.anchors[..., None].expand(-1, -1, output.coefficients.shape[-1])
    coefficients = output.coefficients.float().gather(1, rows)
    logits = torch.einsum("bnk,bkhw->bnhw", coefficients, output.prototypes.float())
    entropy = F.binary_cross_entropy_with_logits(
        logits, targets.masks, weight=targets.counted, reduction="none"
    ).sum(dim=(2, 3))
    pixels = targets.counted.sum(dim=(2, 3))
    values = entropy / pixels.clamp(min=1) * scores
    taking_part = pixels > 0
    if weights is not None:
        taking_part = taking_part & (weights > 0)[:, None]
        values = values * weights.float()[:, None]
    total = torch.where(taking_part, values, values.new_zeros(())).sum()
    return total / sum_over_ranks(taking_part.sum()).clamp(min=1)
