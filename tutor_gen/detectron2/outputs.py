"""What a Detectron2 model says in forms that its own post-processing throws away.

Detectron2 runs in two steps, the network and the post-processing into the original image. Between
them lie the 28 x 28 mask probabilities, the class distributions of the boxes and the semantic
logits of a panoptic model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.detectron2.door import (
    FastRCNNOutputLayers,
    GeneralizedRCNN,
    PanopticFPN,
    detector_postprocess,
    paste_masks_in_image,
    sem_seg_postprocess,
)

Inputs = Sequence[dict[str, Any]]


class Said(NamedTuple):
    """What a model said about one image: its instances, and (H, W) float32 of a panoptic one."""

    instances: Any
    things: torch.Tensor | None = None


THINGS = 0
"""The semantic class that stands for all countable objects, in Detectron2's panoptic models."""


def keep_distributions(model: Any, name: str) -> None:
    """Let each detection of ``model`` carry its box's class probabilities (K + 1,).

    Raises:
        TutorError: its box head does not give one distribution a box (a cascade, a RetinaNet).
    """
    predictor = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if not isinstance(predictor, FastRCNNOutputLayers):
        raise TutorError(
            f"{name} does not give the class distribution of its boxes, only a Faster or Mask "
            "R-CNN with one box head does; generate without --label-classes full"
        )
    infer = predictor.inference

    def inference(predictions: Any, proposals: Any) -> Any:
        found, chosen = infer(predictions, proposals)
        scores = predictor.predict_probs(predictions, proposals)
        for detections, rows, probabilities in zip(found, chosen, scores, strict=True):
            own = probabilities[rows]
            # Detectron2 numbers the rows after it left out those that are not finite.
            if not torch.equal(
                own[torch.arange(len(own)), detections.pred_classes], detections.scores
            ):
                raise TutorError(f"{name} gives boxes or scores that are NaN or infinite")
            detections.distributions = own
        return found, chosen

    predictor.inference = inference


class Raw(NamedTuple):
    """What a network says about one image: its instances in the network's own frame, and the
    semantic logits (C, h', w') of a panoptic one."""

    instances: Any
    logits: torch.Tensor | None = None


def run_network(model: Any, inputs: Inputs, *, masks: bool) -> list[Raw]:
    """Run the first step of a model.

    Args:
        model: a ``GeneralizedRCNN``, in evaluation mode.
        inputs: Detectron2's: ``image`` (C, h, w) float32, ``height`` and ``width`` of the original.
        masks: whether the model gives masks.
    """
    if masks and isinstance(model, PanopticFPN):
        detected, logits = model.inference(inputs, do_postprocess=False)
        return [Raw(*each) for each in zip(detected, logits, strict=True)]
    # Not the model's own method: a panoptic model without masks runs as a Faster R-CNN.
    return [Raw(each) for each in GeneralizedRCNN.inference(model, inputs, do_postprocess=False)]


def postprocess(raw: Sequence[Raw], inputs: Inputs, *, soft: bool) -> list[Said]:
    """Do the second step, in float32: bring what a network said to the original images' sizes.

    Args:
        raw: what `run_network` returned.
        inputs: what it was given.
        soft: whether masks are wanted as probabilities.

    Returns:
        For each image Detectron2's ``Instances`` in the original image's pixels. With masks they
        carry ``mask_probabilities`` (n, M, M), the network's own, and ``pred_masks`` (n, H, W),
        bool, or if ``soft`` uint8 as probability times 255, rounded down. A panoptic model with
        masks says the probability of things, too.
    """
    return [
        Said(
            _postprocess(each.instances, given, soft),
            None if each.logits is None else things_probability(each.logits, given),
        )
        for each, given in zip(raw, inputs, strict=True)
    ]


def things_probability(logits: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    """Return (H, W) float32, the probability of "things" by a semantic head's logits (C, h', w').

    The softmax over the head's classes is taken at the original image's size, after Detectron2's
    own bilinear resize of the logits.
    """
    size = tuple(given["image"].shape[-2:])
    resized = sem_seg_postprocess(logits.float(), size, given["height"], given["width"])
    things: torch.Tensor = resized.softmax(dim=0)[THINGS]
    return things


def _postprocess(found: Any, given: dict[str, Any], soft: bool) -> Any:
    """Bring one image's detections to the original's size by Detectron2's own functions.

    Its post-processing pastes ``pred_masks``; a field of another name it only filters as it filters
    the boxes.
    """
    height, width = given["height"], given["width"]
    if not found.has("pred_masks"):
        return detector_postprocess(found, height, width)
    found.pred_masks = found.pred_masks.float()
    found.mask_probabilities = found.pred_masks[:, 0]
    if soft:
        found.remove("pred_masks")  # spare the hard pasting
    found = detector_postprocess(found, height, width)
    if soft:
        own, boxes = found.mask_probabilities, found.pred_boxes.tensor
        found.pred_masks = paste_masks_in_image(own, boxes, (height, width), threshold=-1)
    return found
