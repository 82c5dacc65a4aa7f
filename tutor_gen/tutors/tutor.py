"""What a tutor is, and what it says about one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kdcli.common.detections import Detections
from kdcli.tutor_gen.tutors.preparation import AS_IS, Preparation, Prepared


@dataclass(frozen=True, eq=False)
class Instances(Detections):
    """The objects of the labels that a tutor found in one image, highest score first.

    Attributes:
        masks: (n, H, W) at the original image's size, or None from a pure detector: bool, or where
            soft masks were asked for uint8, the mask's probability times 255.
        dropped: how many objects were left out, by reason: ``"class"`` for what is no label.
        mask_probabilities: (n, 28, 28) float32, 0..1, the network's own masks over their boxes,
            before they were pasted into ``masks``; None unless asked for.
        distributions: (n, K) float32, 0..1, the labels' part of the class distribution that each
            box's confidence is an entry of, column 0 zero; None unless asked for.
        panoptic: what else a panoptic tutor says about the image; None from other tutors.
    """

    masks: NDArray[np.bool_] | NDArray[np.uint8] | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    mask_probabilities: NDArray[np.float32] | None = None
    distributions: NDArray[np.float32] | None = None
    panoptic: Panoptic | None = None

    def select(self, keep: NDArray[Any], reason: str) -> Instances:
        """Return the objects that ``keep`` (indices or a mask) names; count the others."""
        if keep.dtype == np.bool_ and keep.all():
            return self  # masks are large; spare the copy
        kept = self.take(keep)
        lost = len(self) - len(kept)
        dropped = dict(self.dropped)
        if lost:
            dropped[reason] = dropped.get(reason, 0) + lost
        return replace(
            kept,
            masks=_rows(self.masks, keep),
            dropped=dropped,
            mask_probabilities=_rows(self.mask_probabilities, keep),
            distributions=_rows(self.distributions, keep),
        )

    def above(self, score_threshold: float) -> Instances:
        """Return the objects of at least this score, those of other classes included."""
        kept = self.select(self.scores >= score_threshold, "floor")
        if kept.panoptic is None:
            return kept
        others = kept.panoptic.others
        others = others.select(others.scores >= score_threshold, "floor")
        return replace(kept, panoptic=replace(kept.panoptic, others=others))


def _rows(array: NDArray[Any] | None, keep: NDArray[Any]) -> Any:
    return None if array is None else array[keep]


@dataclass(frozen=True, eq=False)
class Panoptic:
    """What a panoptic tutor says about an image beside its instances of the labels.

    Attributes:
        things: (H, W) float32, 0..1: the semantic head's probability that a pixel belongs to
            countable objects of any class.
        others: the instances of classes that are no labels; their labels are the tutor's own class
            numbers, int64: there may be more than a byte holds.
    """

    things: NDArray[np.float32]
    others: Instances


@dataclass(frozen=True, eq=False)
class SemanticOutput:
    """What a dense tutor says about one image: class probabilities of its network's own cells.

    Attributes:
        probabilities: (K, h, w) float32, sums of 1 over the classes, 0 background; as the
            network gives them, before they are enlarged to the image.
        window: (4,) float32, the rectangle x1 y1 x2 y2 of the cells that the image fills, for
            networks that pad it; None where it fills all (`cache.format.grid`).
        dropped: as of `Instances`.
    """

    probabilities: NDArray[np.float32]
    window: NDArray[np.float32] | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)


Answer = Instances | SemanticOutput
"""What a tutor says about one image: objects, or a class of every cell."""


@runtime_checkable
class Tutor(Protocol):
    """A trained model that labels images.

    ``description`` goes into the provenance of every cache the tutor fills: its kind, name, the
    SHA-256 of its weights, its settings. Two tutors of equal description say the same. That of a
    dense tutor, which answers with `SemanticOutput`, has the key ``semantic``.
    """

    @property
    def description(self) -> Mapping[str, Any]:
        """What the tutor is; JSON values only."""

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[Answer]:
        """Label images.

        Args:
            images: each (H, W, 3) uint8 RGB, sizes may differ.

        Returns:
            One `Instances` (or `SemanticOutput`) per image, unfiltered except for classes that
            are no labels.
        """


@runtime_checkable
class PreparingTutor(Tutor, Protocol):
    """A tutor whose images may be prepared elsewhere, ahead of its network, and come in batches."""

    @property
    def preparation(self) -> Preparation:
        """How it wants its images."""

    def predict_prepared(self, prepared: Sequence[Prepared]) -> Sequence[Answer]:
        """Label images that ``preparation`` made; all in one pass of the network.

        Returns:
            One `Instances` per image, as `Tutor.predict`. The last bits may depend on the batch.
        """


def name_of(description: Mapping[str, Any]) -> str:
    """What messages call a tutor of this description."""
    return str(description.get("name", description.get("kind", "of your own")))


def preparation_of(tutor: Tutor) -> Preparation:
    """How a tutor wants its images; as they are, if it does not say."""
    return tutor.preparation if isinstance(tutor, PreparingTutor) else AS_IS


def predict_prepared(tutor: Tutor, prepared: Sequence[Prepared]) -> Sequence[Answer]:
    """Let any tutor label images that its `preparation_of` made."""
    if isinstance(tutor, PreparingTutor):
        return tutor.predict_prepared(prepared)
    return tutor.predict([each.pixels.numpy() for each in prepared])
