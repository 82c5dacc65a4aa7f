"""Loss of instance masks: binary cross-entropy inside the matched box (YOLACT, arXiv 1904.02689).

An anchor is positive if a box with a mask was matched to it, as in detection. Its mask is the
sigmoid of the prototypes' sum, weighted by its coefficients. Of the pixels whose centre lies in the
matched box and that are not void, the mean cross-entropy is taken (YOLACT: the sum over the area,
which is the same without void), and over the positives the mean again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcli.common.distributed import sum_over_ranks
from kdcli.student.data.tables import BoxTable, InstanceTable
from kdcli.student.losses.matching import Matches, match
from kdcli.student.losses.pasting import inside, paste, places
from kdcli.student.model.instances import InstanceOutput
from kdcli.voc.labels import VOID

MOST = 16
"""So many positive anchors of an image take part at most (YOLACT: 100 of a batch of 8)."""
_SPREAD = 2_654_435_761
"""Odd, so that multiples modulo 2**32 are all different; by the golden ratio, so that neighbours
are far apart (Knuth, The Art of Computer Programming, volume 3, section 6.4)."""

Matcher = Callable[..., Matches]


class Chosen(NamedTuple):
    """Positive anchors, K an image.

    Attributes:
        anchors: (B, K) int64.
        numbers: (B, K) int64, of their boxes from 1; 0 where an image has no more.
    """

    anchors: Tensor
    numbers: Tensor


class MaskTargets(NamedTuple):
    """What the masks of some positive anchors shall be, K an image; of the same shapes always.

    Attributes:
        anchors: (B, K) int64.
        scores: (B, K) float32 confidences of their boxes; 1 for ground truth.
        masks: (B, K, s, s) float32 probabilities.
        counted: (B, K, s, s) float32, 1 for the pixels that count, else 0; no pixel counts where an
            image has fewer positive anchors.
    """

    anchors: Tensor
    scores: Tensor
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


@torch.no_grad()
def targets_of_objects(
    anchors: Tensor, boxes: BoxTable, objects: Tensor, matched: Matcher = match
) -> MaskTargets:
    """Return what ground truth asks of masks.

    Args:
        anchors: (A, 4) of the network.
        boxes: those of the objects that have a mask, relative to the map, labelled 1, 2, ...
        objects: (B, s, s) uint8: these labels, 0 for background and other objects, `VOID`.
        matched: ``match``, or what it was compiled to.
    """
    chosen, (own, scores) = _learners(anchors, boxes, matched)
    number = chosen.numbers[:, :, None, None]
    wanted = objects[:, None] == number
    counted = inside(*places(own, objects.shape[-1])) & (objects != VOID)[:, None] & (number > 0)
    # A box in which the map shows nothing of its object says nothing of its mask.
    seen = (wanted & counted).flatten(2).any(dim=2)[:, :, None, None]
    return MaskTargets(chosen.anchors, scores, wanted.float(), (counted & seen).float())


@torch.no_grad()
def targets_of_masks(
    anchors: Tensor, instances: InstanceTable, side: int, matched: Matcher = match
) -> MaskTargets:
    """Return what a tutor's masks ask: their probabilities inside their boxes.

    Args:
        anchors: (A, 4) of the network.
        instances: relative to the map, labelled 1, 2, ...; their boxes may reach outside.
        side: s.
        matched: ``match``, or what it was compiled to.
    """
    chosen, (own, scores) = _learners(anchors, instances.found, matched)
    index = chosen.numbers[:, :, None, None].expand(-1, -1, *instances.masks.shape[2:])
    masks = F.pad(instances.masks, (0, 0, 0, 0, 1, 0)).gather(1, index)
    counted = inside(*places(own, side)) & (chosen.numbers > 0)[:, :, None, None]
    return MaskTargets(chosen.anchors, scores, paste(masks, own, side), counted.float())


def _learners(
    anchors: Tensor, table: BoxTable, matched: Matcher
) -> tuple[Chosen, tuple[Tensor, Tensor]]:
    """Choose among the positive anchors; return with them their boxes (B, K, 4) and scores."""
    # What the sample shows of a box is what an anchor can match.
    shown = table.boxes.clamp(0, 1)
    chosen = choose(matched(anchors, shown, table.labels, table.scores).labels)
    # With a row before the first, which stands for no box, a box' number is its row.
    boxes, scores = F.pad(table.boxes, (0, 0, 1, 0)), F.pad(table.scores, (1, 0))
    index = chosen.numbers[..., None].expand(-1, -1, 4)
    return chosen, (boxes.gather(1, index), scores.gather(1, chosen.numbers))


def instance_loss(
    output: InstanceOutput, targets: MaskTargets, weights: Tensor | None = None
) -> Tensor:
    """Mean over the anchors that learn of their masks' cross-entropy, times confidence.

    Args:
        output: of the network.
        targets: of the anchors' masks; an anchor without a pixel that counts takes no part.
        weights: (B,) per-image weights, see `student.losses.losses`.

    Returns:
        A float32 scalar; 0 if no anchor takes part.
    """
    index = targets.anchors[..., None].expand(-1, -1, output.coefficients.shape[-1])
    coefficients = output.coefficients.float().gather(1, index)
    logits = torch.einsum("bnk,bkhw->bnhw", coefficients, output.prototypes.float())
    entropy = F.binary_cross_entropy_with_logits(
        logits, targets.masks, weight=targets.counted, reduction="none"
    ).sum(dim=(2, 3))
    pixels = targets.counted.sum(dim=(2, 3))
    values = entropy / pixels.clamp(min=1) * targets.scores
    taking_part = pixels > 0
    if weights is not None:
        taking_part = taking_part & (weights > 0)[:, None]
        values = values * weights.float()[:, None]
    total = torch.where(taking_part, values, values.new_zeros(())).sum()
    return total / sum_over_ranks(taking_part.sum()).clamp(min=1)
