"""From the network's output to boxes and label maps of the original images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcli.common.detections import Detections
from kdcli.student.model.anchors import decode_boxes
from kdcli.student.model.blitznet import BlitzNetOutput
from kdcli.student.model.blocks import resize_bilinear


@dataclass(frozen=True)
class DetectionLimits:
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
    output: BlitzNetOutput,
    anchors: Tensor,
    sizes: Sequence[tuple[int, int]],
    limits: DetectionLimits | None = None,
) -> list[Detections]:
    """Detections of a batch, the most confident first, computed on the device of the output.

    Args:
        output: what the network said of B images, each resized as a whole to the input square.
        anchors: (A, 4) of the network.
        sizes: (height, width) of the B original images.
        limits: which boxes survive.
    """
    limits = limits or DetectionLimits()
    if len(sizes) != len(output.logits):
        raise ValueError(f"Expected {len(output.logits)} image sizes, got {len(sizes)}")
    probabilities = torch.softmax(output.logits.float(), dim=-1)[..., 1:]
    boxes = decode_boxes(output.offsets, anchors).clamp(0, 1)
    return [_detect_one(probabilities[i].T, boxes[i], size, limits) for i, size in enumerate(sizes)]


def _detect_one(
    probabilities: Tensor, boxes: Tensor, size: tuple[int, int], limits: DetectionLimits
) -> Detections:
    """(C, A) probabilities without the background and (A, 4) relative boxes -> detections."""
    # Here, as it brings in half a compiler: more than a second that most programs need not wait.
    from torchvision.ops import batched_nms

    best, anchor = probabilities.topk(min(limits.before_nms, probabilities.shape[1]), dim=1)
    index, rank = torch.nonzero(best > limits.score, as_tuple=True)
    scores, candidates = best[index, rank], boxes[anchor[index, rank]]
    kept = batched_nms(candidates, scores, index, limits.nms_iou)
    kept = kept[_rank_in_class(index[kept]) < limits.after_nms][: limits.per_image]
    height, width = size
    scale = boxes.new_tensor([width, height, width, height])
    found = candidates[kept] * scale, index[kept] + 1, scores[kept]
    return Detections(*(tensor.cpu().numpy() for tensor in found))


def _rank_in_class(labels: Tensor) -> Tensor:
    """For every label of a list, how many equal ones stand before it."""
    order = labels.argsort(stable=True)
    ordered = labels[order]
    position = torch.arange(len(labels), device=labels.device)
    first = torch.searchsorted(ordered, ordered)  # where the run of this label begins
    return torch.empty_like(position).scatter_(0, order, position - first)


@torch.no_grad()
def segment(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Label map of one original image.

    Args:
        logits: (C, s, s) segmentation logits.
        size: (height, width) of the original image.

    Returns:
        (height, width) uint8 classes: the logits resized bilinearly, arg max.
    """
    resized = resize_bilinear(logits[None].float(), *size)
    return resized[0].argmax(dim=0).to(torch.uint8)
