"""The loss of a batch: each task against ground truth and tutor, each part by its share."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcli.student.config.schema import TargetsConfig
from kdcli.student.data.assignment import PARTS
from kdcli.student.data.batch import Batch, BoxTable
from kdcli.student.losses.losses import detection_loss, segmentation_loss, soft_segmentation_loss
from kdcli.student.losses.matching import match
from kdcli.student.losses.soft_labels import tutor_targets
from kdcli.student.model.blitznet import BlitzNetOutput

LOSSES: tuple[str, ...] = (
    "detection_gt/class",
    "detection_gt/box",
    "detection_tutor/class",
    "detection_tutor/box",
    "segmentation_gt",
    "segmentation_tutor",
)


def objective(
    output: BlitzNetOutput, batch: Batch, anchors: Tensor, targets: TargetsConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss to minimise and its parts, without weight decay.

    A part is computed over the images of the batch that learn it, and enters the sum with their
    share of the batch: with half of the images learning from the tutor,
    0.5 * L_gt + 0.5 * L_tutor, each averaged over its own half (the thesis' substitution and
    fill-in). In a combination every image is in both parts, with the weights configured.

    Args:
        output: The network's, for ``batch.images``.
        batch: On the device of ``output``.
        anchors: (A, 4) of the network.
        targets: Form and temperature of the segmentation targets.

    Returns:
        The float32 scalar, and those of ``LOSSES`` that the batch has, before their shares.
    """
    losses: dict[str, Tensor] = {}
    total = torch.zeros((), device=anchors.device)
    for index, part in enumerate(PARTS):
        if not batch.shares[part]:
            continue
        weights = batch.weights[:, index]
        if part.startswith("detection"):
            boxes = batch.gt if part == "detection_gt" else batch.tutor
            both = _detection(output, boxes, anchors, weights)
            losses[f"{part}/class"], losses[f"{part}/box"] = both
            loss = both[0] + both[1]
        else:
            loss = losses[part] = _segmentation(output.segmentation, batch, targets, part, weights)
        total = total + batch.shares[part] * loss
    return total, losses


def _detection(
    output: BlitzNetOutput, boxes: BoxTable, anchors: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    matches = match(anchors, boxes.boxes, boxes.labels, boxes.scores)
    loss = detection_loss(output.logits, output.offsets, matches, weights)
    return loss.classification, loss.box


def _segmentation(
    logits: Tensor, batch: Batch, targets: TargetsConfig, part: str, weights: Tensor
) -> Tensor:
    if part == "segmentation_gt":
        return segmentation_loss(logits, batch.masks, weights)
    target = tutor_targets(batch, targets.segmentation, logits.shape[1])
    return soft_segmentation_loss(logits, target.distributions, weights, target.weights)
