"""What the segmentation tutor's label vectors become for the student to learn, on the device.

A label vector v holds, per pixel, the confidence of each class; where no instance lies it is all
zero, which says background (`cache.format.vectors`). The thesis takes softmax(v / T). Everything
else here is what can be done about wrong, doubtful or missing instances: a threshold, one class
instead of a distribution, soft masks, confirmation by boxes, pixels left out or weighted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcli.cache.format.vectors import background_mass, from_threshold, winners
from kdcli.student.config.tasks import SegmentationTargets, TargetForm
from kdcli.student.data.grid import sample_cells
from kdcli.student.data.tables import PADDING, BoxTable, InstanceTable
from kdcli.student.losses.pasting import inside, paste, places

if TYPE_CHECKING:
    from kdcli.student.tasks.segmentation import PixelBatch


class PixelTargets(NamedTuple):
    """What every pixel shall learn, and how much it counts.

    ``distributions`` (B, C, s, s) float32, sums of 1 over C; ``weights`` (B, s, s) float32, 0 where
    a pixel teaches nothing.
    """

    distributions: Tensor
    weights: Tensor


def tutor_targets(
    batch: PixelBatch, settings: SegmentationTargets, num_classes: int
) -> PixelTargets:
    """Return the targets that the tutor gives the pixels of a batch.

    Args:
        batch: on any device.
        settings: form, temperature, and which pixels count; see ``SegmentationTargets``.
        num_classes: C, background included.
    """
    side = batch.masks.shape[-1]
    beyond = batch.index_maps == PADDING
    if settings.masks == "soft":
        said = soft_vectors(batch.instances, num_classes, side)
    else:
        said = look_up(batch.index_maps, batch.palettes)
        if batch.placements is not None:
            said, beyond = sample_cells(said, batch.placements, side)
    vectors = from_threshold(said, settings.threshold)
    left_out = beyond | doubtful(said, settings.ignore)
    if settings.confirm != "none":
        anywhere = settings.confirm == "gt-classes"
        covered = cover(batch.confirming, num_classes, side, anywhere=anywhere)
        vectors = _confirmed(vectors, covered, batch.confirmable)
        if settings.ignore_missed:
            missed = missed_boxes(vectors, batch.confirming)
            left_out |= missed & batch.confirmable[:, None, None]
    channels_last = vectors.permute(0, 2, 3, 1)
    distributions = label_vector_target(channels_last, settings.form, settings.temperature)
    weights = torch.where(left_out, 0.0, pixel_weights(vectors, settings))
    return PixelTargets(distributions.permute(0, 3, 1, 2), weights)


def label_vector_target(
    vectors: Tensor, form: TargetForm = "softmax", temperature: float = 1.0
) -> Tensor:
    """Distributions over classes for the student to learn from a tutor's label vectors v.

    - ``softmax``: softmax(v / T), the thesis' form; a pixel without instances (v = 0) is background
      of confidence 1. At T = 0.4 a confidence of 1 becomes 0.38, at T = 0.1 more than 0.99.
    - ``background``: v with a background of 1 - max(v), divided by the sum.
    - ``complement``: the same with a background of prod(1 - v_c), the probability that no class is
      there if the classes were independent.
    - ``remainder``: v as it is, what its sum lacks of 1 being background, divided by the sum.
    - ``hard``: all mass on the largest entry, background where there is none.

    A background mass of the tutor's own, v[0] > 0, is one more entry in every form:
    ``background`` and ``complement`` then compute none.

    Args:
        vectors: (..., C) label vectors: confidences in 0..1, index 0 is background.
        form: which of them.
        temperature: T of the softmax; plays no part in the others.

    Returns:
        (..., C) float32, every vector sums to 1.
    """
    vectors = vectors.float()
    if form == "hard":
        return F.one_hot(winners(vectors), vectors.shape[-1]).float()
    given, classes = vectors[..., :1], vectors[..., 1:]
    if form == "softmax":
        uncovered = (vectors == 0).all(dim=-1, keepdim=True).float()
        background = given + uncovered
    elif form == "background":
        background = background_mass(given, 1 - classes.amax(dim=-1, keepdim=True))
    elif form == "complement":
        background = background_mass(given, (1 - classes).prod(dim=-1, keepdim=True))
    elif form == "remainder":
        background = given + (1 - vectors.sum(dim=-1, keepdim=True)).clamp(min=0)
    else:
        raise ValueError(f"Expected one of {', '.join(get_args(TargetForm))}, got {form!r}")
    completed = torch.cat([background, classes], dim=-1)
    if form == "softmax":
        if temperature <= 0:
            raise ValueError(f"Expected a temperature above 0, got {temperature}")
        return torch.softmax(completed / temperature, dim=-1)
    return completed / completed.sum(dim=-1, keepdim=True)


def doubtful(vectors: Tensor, limits: tuple[float, float]) -> Tensor:
    """Pixels whose largest class confidence is at least the first and below the second limit.

    Args:
        vectors: (B, C, s, s), as the tutor said them, whatever the threshold.
        limits: of confidence.

    Returns:
        (B, s, s) bool.
    """
    low, high = limits
    confidence = vectors[:, 1:].amax(dim=1)
    return (confidence >= low) & (confidence < high)


def pixel_weights(vectors: Tensor, settings: SegmentationTargets) -> Tensor:
    """How much each pixel counts: (B, s, s) float32 for label vectors (B, C, s, s).

    With ``confidence_weighting`` a covered pixel gets its largest confidence (a background mass of
    the tutor's own included) and an uncovered one 1, as anchors do in the thesis' loss of boxes.
    Pixels close to a border between classes get 0 if ``ignore_border`` says so.
    """
    weights = torch.ones_like(vectors[:, 0])
    if settings.confidence_weighting:
        weights = torch.where((vectors > 0).any(dim=1), vectors.amax(dim=1), weights)
    if settings.ignore_border:
        weights = torch.where(near_border(vectors, settings.ignore_border), 0.0, weights)
    return weights


def near_border(vectors: Tensor, distance: int) -> Tensor:
    """Pixels with another class (arg max, uncovered is background) within ``distance`` pixels.

    Args:
        vectors: (B, C, s, s).
        distance: in pixels of the map, in rows and columns each (a square neighbourhood).

    Returns:
        (B, s, s) bool.
    """
    labels = winners(vectors.permute(0, 2, 3, 1)).float()[:, None]
    size = 2 * distance + 1
    largest = F.max_pool2d(labels, size, stride=1, padding=distance)
    smallest = -F.max_pool2d(-labels, size, stride=1, padding=distance)
    return (largest != smallest)[:, 0]


def look_up(index_maps: Tensor, palettes: Tensor) -> Tensor:
    """Label vectors (B, C, s, s) of the maps (B, s, s) of rows of the palettes (B, K, C).

    `PADDING` gets the first row, which is all zero.
    """
    batch, height, width = index_maps.shape
    rows = index_maps.clamp(min=0).reshape(batch, -1, 1).long().expand(-1, -1, palettes.shape[-1])
    vectors = palettes.gather(1, rows)
    return vectors.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def soft_vectors(instances: InstanceTable, num_classes: int, side: int) -> Tensor:
    """Soft label vectors: per class the largest mask probability times confidence.

    A mask spans its box; pixel centres inside the box are interpolated bilinearly between the
    centres of the mask's cells, as when Detectron2 pastes masks into an image.

    Args:
        instances: (B, N, ...), boxes relative to the map; they may reach outside.
        num_classes: C.
        side: s of the map.

    Returns:
        (B, C, s, s) float32.
    """
    found = instances.found
    values = paste(instances.masks, found.boxes, side) * found.scores[:, :, None, None]
    return _largest_per_class(values, found.labels, num_classes)


def cover(table: BoxTable, num_classes: int, side: int, *, anywhere: bool = False) -> Tensor:
    """Whether a pixel's centre lies in some box of a class: (B, C, s, s) bool.

    Args:
        table: boxes relative to the map; label 0 is padding.
        num_classes: C.
        side: s of the map.
        anywhere: take a box for the whole image, so only the classes of the boxes matter.
    """
    covered = inside(*places(table.boxes, side)) | anywhere
    covered = covered & (table.labels > 0)[:, :, None, None]
    return _largest_per_class(covered.float(), table.labels, num_classes) > 0


def missed_boxes(vectors: Tensor, table: BoxTable) -> Tensor:
    """Pixels without a label in boxes of which the tutor labelled nothing: (B, s, s) bool.

    There the tutor overlooked an object that is known to be there; that its pixels are background
    would be a wrong lesson.

    Args:
        vectors: (B, C, s, s).
        table: boxes relative to the map; label 0 is padding.
    """
    within = inside(*places(table.boxes, vectors.shape[-1]))
    images = torch.arange(len(vectors), device=vectors.device)[:, None]
    own = vectors[images, table.labels]  # (B, M, s, s): each box's own class
    found = (within & (own > 0)).flatten(2).any(dim=2)
    missed = within & (~found & (table.labels > 0))[:, :, None, None]
    return missed.any(dim=1) & (vectors[:, 1:].amax(dim=1) == 0)


def _confirmed(vectors: Tensor, covered: Tensor, confirmable: Tensor) -> Tensor:
    """Vectors without the classes that no box confirms, in the images that can be checked."""
    keep = covered | ~confirmable[:, None, None, None]
    keep[:, 0] = True  # a background mass of its own needs nobody's word
    return torch.where(keep, vectors, 0.0)


def _largest_per_class(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(B, M, s, s) values of M things with labels (B, M) -> (B, C, s, s), 0 where there is none."""
    images, _, height, width = values.shape
    out = values.new_zeros((images, num_classes, height, width))
    index = labels[:, :, None, None].expand_as(values)
    return out.scatter_reduce_(1, index, values, "amax")
