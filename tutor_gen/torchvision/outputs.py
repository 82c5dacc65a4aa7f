"""What torchvision's detectors say in forms that their own post-processing throws away.

Each function changes how one model runs, not what it computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import clip_boxes_to_image

from kdcli.common.errors import TutorError


def keep_masks_unpasted(model: FasterRCNN) -> None:
    """Let ``"masks"`` stay (n, 1, 28, 28) probabilities over the boxes.

    torchvision pastes all of an image at once, as floats, which a large photograph's do not fit
    the memory.
    """
    postprocess = model.transform.postprocess

    def with_boxes_only(found: list[dict[str, Any]], *sizes: Any) -> list[dict[str, Any]]:
        masks = [each.pop("masks") for each in found]
        for each, own in zip(postprocess(found, *sizes), masks, strict=True):
            each["masks"] = own
        return found

    model.transform.postprocess = with_boxes_only


def keep_distributions(model: Any, name: str) -> list[torch.Tensor]:
    """Return a list that each run of the model fills: of every image (n, K), the class
    probabilities of the regions that its detections were made of.

    Raises:
        TutorError: it does not decide by a softmax over the classes of a region.
    """
    if not isinstance(model, FasterRCNN):
        raise TutorError(
            f"torchvision:{name} does not give the class distribution of its boxes, only a Faster "
            "or Mask R-CNN does; generate without --label-classes full"
        )
    heads = model.roi_heads
    kept: list[torch.Tensor] = []
    decide = heads.postprocess_detections

    def postprocess(
        logits: torch.Tensor, regression: torch.Tensor, proposals: Any, shapes: Any
    ) -> Any:
        found = decide(logits, regression, proposals, shapes)
        counts = [len(each) for each in proposals]
        probabilities = torch.split(logits.softmax(-1), counts)
        decoded = torch.split(heads.box_coder.decode(regression, proposals), counts)
        kept[:] = [
            each[_origin(each, clip_boxes_to_image(boxes, shape), *one)]
            for each, boxes, shape, *one in zip(probabilities, decoded, shapes, *found, strict=True)
        ]
        return found

    heads.postprocess_detections = postprocess
    return kept


def _origin(
    probabilities: torch.Tensor,
    decoded: torch.Tensor,
    boxes: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """Of which of P regions each of n detections was made: the one of its score and its box.

    Args:
        probabilities: (P, K) of the regions.
        decoded: (P, K, 4) boxes of the regions, one for each class.
        boxes: (n, 4) of the detections.
        scores: (n,) of the detections.
        labels: (n,) of the detections.
    """
    same_score = probabilities[:, labels] == scores
    same_box = (decoded[:, labels] == boxes).all(-1)
    return (same_score & same_box).int().argmax(0)


def decide_in_float32(model: Any) -> None:
    """Let a model that computes in 16 bits turn what its heads say into boxes in 32.

    Anchors take the type of the features, boxes that of the heads' outputs; in 16 bits both would
    be pixels off.
    """
    heads = [model.backbone]
    if isinstance(model, FasterRCNN):
        roi = model.roi_heads
        heads += [model.rpn.head, roi.box_predictor, roi.mask_predictor]
    else:
        heads.append(model.head)
    for head in heads:
        if head is not None:
            head.register_forward_hook(_float32_output)


def _float32_output(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    return _in_float32(outputs)


def _in_float32(value: Any) -> Any:
    """Tensors, or dictionaries, lists and tuples of them, as float32."""
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _in_float32(each) for key, each in value.items()}
    return type(value)(map(_in_float32, value))
