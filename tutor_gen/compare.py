"""How far a cache is from what its tutors say now: on other hardware, with other libraries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from cache.checks import check_fits
from cache.reader import TutorCache
from cache.record import Boxes, InstanceMasks, TutorOutput
from cache.track import Track, no_track
from tutor_gen.pair import TutorPair
from tutor_gen.scan import scan_images
from voc.devkit import Devkit

TOLERANCE = 1e-3
"""Largest difference, in pixels or confidence, between runs that say the same."""


@dataclass(frozen=True)
class Difference:
    """How far apart two outputs are, over one image or many.

    Attributes:
        images: images compared.
        boxes: boxes in the cache.
        identical_boxes: those of them that the tutors gave again bit for bit, with label and
            confidence.
        unmatched_boxes: boxes of either side that have no counterpart of their class.
        coordinate: largest difference of a coordinate between counterparts, in pixels.
        confidence: largest difference of their confidences; a box without a counterpart counts
            with what it is above the floor.
        pixels: pixels compared.
        equal_pixels: those of equal label vectors, bit for bit.
        vector_entry: largest difference of a label vector's entry, of rounded ones beyond one step.
        mask: largest difference of a kept mask probability beyond one step (1/255) of its
            quantisation, 1 where the instances are others; 0 without kept masks.
    """

    images: int = 0
    boxes: int = 0
    identical_boxes: int = 0
    unmatched_boxes: int = 0
    coordinate: float = 0.0
    confidence: float = 0.0
    pixels: int = 0
    equal_pixels: int = 0
    vector_entry: float = 0.0
    mask: float = 0.0

    @property
    def within_tolerance(self) -> bool:
        """Whether nothing differs by more than `TOLERANCE`."""
        differences = (self.coordinate, self.confidence, self.vector_entry, self.mask)
        return max(differences) <= TOLERANCE

    def plus(self, other: Difference) -> Difference:
        """Both together: counts added, the larger of the differences."""
        mine, theirs = asdict(self), asdict(other)
        return Difference(
            **{
                name: max(value, theirs[name]) if isinstance(value, float) else value + theirs[name]
                for name, value in mine.items()
            }
        )


def compare_with_tutors(
    cache: TutorCache,
    pair: TutorPair,
    devkit: Devkit,
    images: int,
    track: Track = no_track,
) -> Difference:
    """Let the tutors label some images again and compare.

    Args:
        cache: what they said.
        pair: the tutors.
        devkit: where the photographs lie.
        images: how many of the cache's images, evenly spread over it.
        track: wraps the loop over images for a progress bar.

    Raises:
        CacheError: a photograph is another one than the cache was made of.
        DevkitError: a photograph is missing or broken.
        TutorError: an output cannot be true.
    """
    chosen = np.linspace(0, len(cache) - 1, min(images, len(cache))).round().astype(int)
    ids = [cache.image_ids[i] for i in chosen]
    check_fits(cache, scan_images(devkit, ids))
    total = Difference()
    for image_id in track(ids, len(ids), "tutors"):
        again, _ = pair.label(devkit.read_image(image_id), image_id)
        total = total.plus(difference(cache[image_id], again, pair.floor, pair.rounding_step))
    return total


def difference(
    stored: TutorOutput, again: TutorOutput, floor: float, rounding_step: float = 0.0
) -> Difference:
    """Compare two outputs about one image, made with one floor and one rounding of entries."""
    boxes, others = (Boxes(o.boxes, o.labels, o.confidences) for o in (stored, again))
    pairs = list(_counterparts(boxes, others))
    coordinate, confidence, identical = 0.0, 0.0, 0
    for i, j in pairs:
        apart = float(np.abs(boxes.boxes[i] - others.boxes[j]).max())
        shift = abs(float(boxes.confidences[i]) - float(others.confidences[j]))
        coordinate, confidence = max(coordinate, apart), max(confidence, shift)
        identical += apart == 0 and shift == 0
    alone = _without(boxes, [i for i, _ in pairs]) + _without(others, [j for _, j in pairs])
    entry = _vector_differences(stored, again)
    return Difference(
        images=1,
        boxes=len(boxes.boxes),
        identical_boxes=identical,
        unmatched_boxes=len(alone),
        coordinate=coordinate,
        confidence=max([confidence, *(c - floor for c in alone)]),
        pixels=entry.size,
        equal_pixels=int((entry == 0).sum()),
        vector_entry=max(0.0, float(entry.max(initial=0)) - rounding_step),
        mask=_mask_difference(stored.instances, again.instances),
    )


def _counterparts(boxes: Boxes, others: Boxes) -> Iterator[tuple[int, int]]:
    """Pairs of overlapping boxes of the same label, the nearest ones first, each box once."""
    lower = np.maximum(boxes.boxes[:, None, :2], others.boxes[None, :, :2])
    upper = np.minimum(boxes.boxes[:, None, 2:], others.boxes[None, :, 2:])
    possible = (lower < upper).all(axis=2) & (boxes.labels[:, None] == others.labels[None])
    i, j = np.nonzero(possible)
    distance = np.abs(boxes.boxes[i] - others.boxes[j]).max(axis=1, initial=0)
    shift = np.abs(boxes.confidences[i] - others.confidences[j])
    order = np.lexsort((shift, distance))
    taken: tuple[set[int], set[int]] = set(), set()
    for first, second in zip(i[order].tolist(), j[order].tolist(), strict=True):
        if first not in taken[0] and second not in taken[1]:
            taken[0].add(first)
            taken[1].add(second)
            yield first, second


def _without(boxes: Boxes, matched: Sequence[int]) -> list[float]:
    """Confidences of the boxes that have no counterpart."""
    alone: list[float] = np.delete(boxes.confidences, list(matched)).tolist()
    return alone


def _vector_differences(stored: TutorOutput, again: TutorOutput) -> NDArray[np.float32]:
    """Largest difference of an entry, per pixel (H, W); looked up per pair of vectors."""
    codes = stored.label_map.astype(np.int64) * len(again.palette) + again.label_map
    present, position = np.unique(codes, return_inverse=True)
    first, second = np.divmod(present, len(again.palette))
    apart = np.abs(stored.palette[first] - again.palette[second]).max(axis=1)
    differences: NDArray[np.float32] = apart[position].reshape(stored.label_map.shape)
    return differences


def _mask_difference(stored: InstanceMasks | None, again: InstanceMasks | None) -> float:
    if stored is None or again is None:
        return 0.0
    if not np.array_equal(stored.labels, again.labels):
        return 1.0
    steps = np.abs(stored.masks.astype(int) - again.masks).max(initial=0)
    return max(0, int(steps) - 1) / 255.0
