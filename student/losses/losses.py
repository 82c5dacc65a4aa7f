"""Losses of the student, for ground truth and tutors alike, in float32 under autocast.

Per-image weights: every loss takes an optional (B,) tensor. The losses of an image are multiplied
by its weight, before mining where there is mining; an image of weight 0 takes no part at all,
neither in counts nor in averages. A constant weight thus scales the loss, and weights of 0 and 1
give the loss of a part of the batch.

Several processes (`common.distributed`) hold equal shares of one batch: what is counted or ranked
is so over the whole batch, and the losses of the processes sum to that of the batch.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcli.common.distributed import gather_over_ranks, rank, ranks, sum_over_ranks
from kdcli.student.losses.matching import Matches
from kdcli.voc.labels import VOID

NEGATIVES_PER_POSITIVE = 3
WEIGHT_DECAY = 5e-5


class DetectionLoss(NamedTuple):
    """Two float32 scalars; their sum is the detection loss."""

    classification: Tensor
    box: Tensor


def detection_loss(
    logits: Tensor, offsets: Tensor, matches: Matches, weights: Tensor | None = None
) -> DetectionLoss:
    """Class and box loss of a batch (BlitzNet paper; weighting by confidence: the thesis).

    Let P be the positive anchors of the batch and A the anchors of one image. Class: cross-entropy
    times confidence, summed over the positives and over the min(3 P, A - P) negatives of the batch
    where that product is largest, divided by P. Box: smooth L1 summed over the 4 offsets, times
    confidence, averaged over the positives. Without positives both are 0, with zero gradients;
    with P >= A no negative counts (as in the public TensorFlow code).

    Args:
        logits: (B, A, C) class logits.
        offsets: (B, A, 4) predicted offsets.
        matches: what the anchors shall learn.
        weights: (B,) per-image weights, see the module.
    """
    labels, factor = matches.labels, matches.scores
    if logits.shape[:2] != labels.shape or offsets.shape[:2] != labels.shape:
        got = (tuple(logits.shape[:2]), tuple(offsets.shape[:2]))
        raise ValueError(f"Expected logits and offsets of {tuple(labels.shape)}, got {got}")
    positive, negative = labels > 0, labels == 0
    if weights is not None:
        taking_part = (weights > 0)[:, None]
        positive, negative = positive & taking_part, negative & taking_part
        factor = factor * weights.float()[:, None]
    flat = logits.float().reshape(-1, logits.shape[-1])
    entropy = F.cross_entropy(flat, labels.reshape(-1), reduction="none")
    entropy = entropy.reshape(labels.shape) * factor
    positives = sum_over_ranks(positive.sum())
    negatives = torch.minimum(NEGATIVES_PER_POSITIVE * positives, labels.shape[1] - positives)
    zero = entropy.new_zeros(())
    # min(3 P, A - P) is no more, whatever P is.
    most = NEGATIVES_PER_POSITIVE * labels.shape[1] // (NEGATIVES_PER_POSITIVE + 1)
    wait = not (entropy.is_cuda or torch.compiler.is_compiling())
    mined = torch.where(negative, entropy, zero)
    hardest = _sum_of_largest(mined, negatives, most, wait_for_device=wait)
    distance = F.smooth_l1_loss(offsets.float(), matches.offsets, reduction="none").sum(dim=-1)
    normaliser = positives.clamp(min=1)
    return DetectionLoss(
        classification=(torch.where(positive, entropy, zero).sum() + hardest) / normaliser,
        box=torch.where(positive, distance * factor, zero).sum() / normaliser,
    )


def _sum_of_largest(values: Tensor, number: Tensor, most: int, *, wait_for_device: bool) -> Tensor:
    """Sum of the `number` largest, at most `most`, of some values, none of them negative.

    A selection of the top k must know k. A GPU would have to finish all work under way to tell, and
    a compiled program cannot ask: there the `most` largest are ranked, and nothing waits.
    """
    values = values.flatten()
    if ranks() > 1:
        return _sum_of_own_among_largest(values, number)
    most = min(most, len(values))
    if wait_for_device:
        k = min(max(int(number), 0), most)
        return values.topk(k, sorted=False).values.sum()
    ranked = values.topk(most).values
    chosen = torch.arange(most, device=ranked.device) < number
    return torch.where(chosen, ranked, ranked.new_zeros(())).sum()


def _sum_of_own_among_largest(values: Tensor, number: Tensor) -> Tensor:
    """Sum of those of the `number` largest over all processes that are this process' own."""
    everyone = gather_over_ranks(values)
    # Stable, so that the processes agree on which of equal values are in.
    order = everyone.flatten().sort(descending=True, stable=True).indices
    place = torch.arange(len(order), device=order.device)
    chosen = torch.empty_like(order, dtype=torch.bool).scatter_(0, order, place < number)
    own = chosen.reshape(everyone.shape)[rank()]
    return torch.where(own, values, values.new_zeros(())).sum()


def segmentation_loss(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the pixels that are not void (BlitzNet paper).

    Args:
        logits: (B, C, h, w).
        target: (B, h, w) classes, any integer type; 255 is void.
        weights: (B,) per-image weights, see the module.

    Returns:
        A float32 scalar; 0 if every pixel is void.
    """
    if target.shape != (logits.shape[0], *logits.shape[2:]):
        expected = (logits.shape[0], *logits.shape[2:])
        raise ValueError(f"Expected a target of shape {expected}, got {tuple(target.shape)}")
    target = target.long()
    entropy = F.cross_entropy(logits.float(), target, ignore_index=VOID, reduction="none")
    return _mean(entropy, target != VOID, weights)


def soft_segmentation_loss(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    ignore_largest: float = 0.0,
) -> Tensor:
    """Mean over all pixels of the cross-entropy between two distributions (the thesis).

    Args:
        logits: (B, C, h, w).
        target: (B, C, h, w) distributions, see ``student.losses.soft_labels``.
        weights: (B,) per-image weights, see the module.
        pixel_weights: (B, h, w), multiply the pixels' losses; those of weight 0 are not averaged
            over.
        ignore_largest: of the averaged pixels of each image, the share that is left out, too: those
            whose losses, so multiplied, are largest. What a tutor says where a student that follows
            it elsewhere differs most is often wrong (Depth Anything V2, arXiv 2406.09414, leaves
            out 0.1).

    Returns:
        A float32 scalar; 0 if no pixel takes part.
    """
    if target.shape != logits.shape:
        expected, got = tuple(logits.shape), tuple(target.shape)
        raise ValueError(f"Expected target distributions of shape {expected}, got {got}")
    entropy = -(target.float() * F.log_softmax(logits.float(), dim=1)).sum(dim=1)
    counted = torch.ones_like(entropy, dtype=torch.bool)
    if pixel_weights is not None:
        entropy, counted = entropy * pixel_weights, pixel_weights > 0
    if ignore_largest:
        counted = counted & ~_largest_of_each(entropy, counted, ignore_largest)
    return _mean(entropy, counted, weights)


def _largest_of_each(values: Tensor, counted: Tensor, share: float) -> Tensor:
    """Where the largest values of each image lie, a share of its counted pixels: (B, h, w) bool.

    Nothing waits for the device: all pixels are ranked, so that no number has to be known. An image
    lies on one process, and so does all that it is compared with.
    """
    # No loss is negative, so that those that do not count come last.
    ranked = torch.where(counted, values.detach(), -1.0).flatten(1)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    number = (share * counted.flatten(1).sum(dim=1, keepdim=True).double()).round()
    place = torch.arange(order.shape[1], device=order.device)
    largest = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order, place < number)
    return largest.reshape(counted.shape)


def _mean(values: Tensor, counted: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of (B, h, w) values over the counted pixels of the images that take part, or 0."""
    if weights is not None:
        counted = counted & (weights > 0)[:, None, None]
        values = values * weights.float()[:, None, None]
    total = torch.where(counted, values, values.new_zeros(())).sum()
    return total / sum_over_ranks(counted.sum()).clamp(min=1)


def weight_decay_loss(model: nn.Module, coefficient: float = WEIGHT_DECAY) -> Tensor:
    """L2 term of the loss: coefficient * sum(w ** 2) / 2 over the weights of all layers that train.

    Biases and batch norms have none (as with TF-slim's l2_regularizer in the public code).
    """
    weights = list(_layer_weights(model))
    return coefficient / 2 * torch.stack([w.float().square().sum() for w in weights]).sum()


def parameter_groups(model: nn.Module, weight_decay: float = WEIGHT_DECAY) -> list[dict[str, Any]]:
    """Two parameter groups for `torch.optim.Adam`, which puts the L2 term into the gradient.

    Adam's own weight_decay adds weight_decay * w to the gradient of w, which is the gradient of
    `weight_decay_loss`: the same training without the work of computing that sum. (AdamW, which
    decays apart from the gradient, would be another method.) Frozen parameters are in neither.
    """
    decayed = list(_layer_weights(model))
    ids = {id(weight) for weight in decayed}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _layer_weights(model: nn.Module) -> Iterator[Tensor]:
    """Weights of convolutions, of which a linear layer is one of 1x1, unless they are frozen."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.requires_grad:
            yield module.weight
