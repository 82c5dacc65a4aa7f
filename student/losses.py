"""Losses of the student, for ground truth and tutors alike, in float32 under autocast.

Per-image weights: every loss takes an optional (B,) tensor. The losses of an image are multiplied
by its weight, before mining where there is mining; an image of weight 0 takes no part at all,
neither in counts nor in averages. A constant weight thus scales the loss, and weights of 0 and 1
give the loss of a part of the batch.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from student.matching import Matches

VOID = 255
NEGATIVES_PER_POSITIVE = 3
WEIGHT_DECAY = 5e-5

TargetForm = Literal["softmax", "background"]


class DetectionLoss(NamedTuple):
    """Two float32 scalars; their sum is the detection loss."""

    classification: Tensor
    box: Tensor


def detection_loss(
    scores: Tensor, offsets: Tensor, matches: Matches, weights: Tensor | None = None
) -> DetectionLoss:
    """Class and box loss of a batch (BlitzNet paper; weighting by confidence: the thesis).

    Let P be the positive anchors of the batch and A the anchors of one image. Class: cross-entropy
    times confidence, summed over the positives and over the min(3 P, A - P) negatives of the batch
    where that product is largest, divided by P. Box: smooth L1 summed over the 4 offsets, times
    confidence, averaged over the positives. Without positives both are 0, with zero gradients;
    with P >= A no negative counts (as in the public TensorFlow code).

    Args:
        scores: (B, A, C) class logits.
        offsets: (B, A, 4) predicted offsets.
        matches: what the anchors shall learn.
        weights: (B,) per-image weights, see the module.
    """
    labels, factor = matches.labels, matches.confidences
    if scores.shape[:2] != labels.shape or offsets.shape[:2] != labels.shape:
        got = (tuple(scores.shape[:2]), tuple(offsets.shape[:2]))
        raise ValueError(f"Expected scores and offsets of {tuple(labels.shape)}, got {got}")
    positive, negative = labels > 0, labels == 0
    if weights is not None:
        taking_part = (weights > 0)[:, None]
        positive, negative = positive & taking_part, negative & taking_part
        factor = factor * weights.float()[:, None]
    flat = scores.float().reshape(-1, scores.shape[-1])
    entropy = F.cross_entropy(flat, labels.reshape(-1), reduction="none")
    entropy = entropy.reshape(labels.shape) * factor
    positives = positive.sum()
    negatives = torch.minimum(NEGATIVES_PER_POSITIVE * positives, labels.shape[1] - positives)
    zero = entropy.new_zeros(())
    hardest = _sum_of_largest(
        torch.where(negative, entropy, zero), negatives, wait_for_device=not entropy.is_cuda
    )
    distance = F.smooth_l1_loss(offsets.float(), matches.offsets, reduction="none").sum(dim=-1)
    normaliser = positives.clamp(min=1)
    return DetectionLoss(
        classification=(torch.where(positive, entropy, zero).sum() + hardest) / normaliser,
        box=torch.where(positive, distance * factor, zero).sum() / normaliser,
    )


def _sum_of_largest(values: Tensor, number: Tensor, *, wait_for_device: bool) -> Tensor:
    """Sum of the `number` largest of some values, none of them negative.

    A selection of the top k is quicker, but must know k; a GPU would have to finish all work
    under way to tell. There the whole table is sorted, and nothing waits.
    """
    values = values.flatten()
    if wait_for_device:
        k = min(max(int(number), 0), len(values))
        return values.topk(k, sorted=False).values.sum()
    ranked = values.sort(descending=True).values
    chosen = torch.arange(len(ranked), device=ranked.device) < number
    return torch.where(chosen, ranked, ranked.new_zeros(())).sum()


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
    logits: Tensor, target: Tensor | tuple[Tensor, Tensor], weights: Tensor | None = None
) -> Tensor:
    """Mean over all pixels of the cross-entropy between two distributions (the thesis).

    Args:
        logits: (B, C, h, w).
        target: distributions (B, C, h, w), see `label_vector_target`; or an index map (B, h, w)
            of any integer type and the table (B, K, C) of distributions it points into.
        weights: (B,) per-image weights, see the module.

    Returns:
        A float32 scalar; 0 if no image takes part.
    """
    if isinstance(target, tuple):
        target = _look_up(*target)
    if target.shape != logits.shape:
        expected, got = tuple(logits.shape), tuple(target.shape)
        raise ValueError(f"Expected target distributions of shape {expected}, got {got}")
    entropy = -(target.float() * F.log_softmax(logits.float(), dim=1)).sum(dim=1)
    return _mean(entropy, torch.ones_like(entropy, dtype=torch.bool), weights)


def _look_up(index: Tensor, table: Tensor) -> Tensor:
    """(B, h, w) indices into (B, K, C) -> (B, C, h, w)."""
    batch, height, width = index.shape
    rows = index.reshape(batch, -1, 1).long().expand(-1, -1, table.shape[-1])
    vectors = table.gather(1, rows)
    return vectors.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def _mean(values: Tensor, counted: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of (B, h, w) values over the counted pixels of the images that take part, or 0."""
    if weights is not None:
        counted = counted & (weights > 0)[:, None, None]
        values = values * weights.float()[:, None, None]
    total = torch.where(counted, values, values.new_zeros(())).sum()
    return total / counted.sum().clamp(min=1)


def label_vector_target(
    vectors: Tensor, form: TargetForm = "softmax", temperature: float = 1.0
) -> Tensor:
    """Distributions over classes for the student to learn from a tutor's label vectors.

    - "softmax": softmax(v / T), the thesis' form. A pixel without instances (v = 0) becomes the
      uniform distribution; at T = 0.4 a pixel of confidence 1 gets 0.38 for its class.
    - "background": v with an explicit background of 1 - max(v), divided by the sum. A pixel
      without instances becomes background. The temperature plays no part.

    Args:
        vectors: (..., C) label vectors: confidences in 0..1, index 0 (background) zero.
        form: which of the two.
        temperature: T above.

    Returns:
        (..., C) float32, every vector sums to 1.
    """
    vectors = vectors.float()
    if form == "softmax":
        if temperature <= 0:
            raise ValueError(f"Expected a temperature above 0, got {temperature}")
        return torch.softmax(vectors / temperature, dim=-1)
    if form == "background":
        classes = vectors[..., 1:]
        background = (1 - classes.amax(dim=-1, keepdim=True)).clamp(min=0)
        completed = torch.cat([background, classes], dim=-1)
        return completed / completed.sum(dim=-1, keepdim=True)
    raise ValueError(f"Expected the form 'softmax' or 'background', got {form!r}")


def weight_decay_loss(model: nn.Module, coefficient: float = WEIGHT_DECAY) -> Tensor:
    """L2 term of the loss: coefficient * sum(w ** 2) / 2 over all convolution weights.

    Biases and batch norms have none (as with TF-slim's l2_regularizer in the public code).
    """
    weights = list(_convolution_weights(model))
    return coefficient / 2 * torch.stack([w.float().square().sum() for w in weights]).sum()


def parameter_groups(model: nn.Module, weight_decay: float = WEIGHT_DECAY) -> list[dict[str, Any]]:
    """Two parameter groups for `torch.optim.Adam`, which puts the L2 term into the gradient.

    Adam's own weight_decay adds weight_decay * w to the gradient of w, which is the gradient of
    `weight_decay_loss`: the same training without the work of computing that sum. (AdamW, which
    decays apart from the gradient, would be another method.)
    """
    decayed = list(_convolution_weights(model))
    ids = {id(weight) for weight in decayed}
    others = [p for p in model.parameters() if id(p) not in ids]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _convolution_weights(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            yield module.weight
