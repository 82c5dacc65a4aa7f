"""The two tutors of a run: what they say about one image, checked, filtered and coded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.record import (
    Dropped,
    InstanceMasks,
    TutorOutput,
    encode_dropped,
    quantise_masks,
)
from kdcli.common.errors import TutorError
from kdcli.tutor_gen.labels.coding import code_instances
from kdcli.tutor_gen.tutors.checks import check_instances
from kdcli.tutor_gen.tutors.device import full_float32
from kdcli.tutor_gen.tutors.label_form import THESIS, LabelForm
from kdcli.tutor_gen.tutors.preparation import Preparation, Views, prepare
from kdcli.tutor_gen.tutors.tutor import Instances, Tutor, predict_prepared, preparation_of
from kdcli.voc.classes import CLASSES

DETECTION_FLOOR = 0.001
"""The thesis' threshold on tutor boxes."""
SEGMENTATION_FLOOR = 0.05
"""Detectron2's own default threshold: what its Mask R-CNNs are evaluated with."""

Answer = tuple[Instances, Instances]
"""What the detection and the segmentation tutor said about one image."""

_NOTHING = Instances(
    boxes=np.zeros((0, 4), dtype=np.float32),
    labels=np.zeros(0, dtype=np.uint8),
    scores=np.zeros(0, dtype=np.float32),
)


@dataclass(frozen=True)
class TutorPair:
    """A detection and a segmentation tutor, one of which may be absent.

    Attributes:
        detection: gives the boxes; None leaves them empty.
        segmentation: gives the label vectors; None leaves them zero. If its description equals the
            detection tutor's, the model runs once for both.
        floor: boxes of lower confidence are left out.
        segmentation_floor: instances of lower confidence leave no trace in the label vectors.
        keep_masks: whether the segmentation tutor's own 28 x 28 masks are kept, too, of the
            instances that make the label vectors.
        form: what the label vectors are made of; a panoptic tutor has its own formula, for which
            only masks and levels of it count.

    Raises:
        TutorError: both are absent, or the one whose masks are to be kept; a floor is not in 0..1;
            or a panoptic tutor is to make other vectors than its own.
    """

    detection: Tutor | None
    segmentation: Tutor | None
    floor: float = DETECTION_FLOOR
    segmentation_floor: float = SEGMENTATION_FLOOR
    keep_masks: bool = False
    form: LabelForm = THESIS

    def __post_init__(self) -> None:
        if self.detection is None and self.segmentation is None:
            raise TutorError("both tutors are 'none': name at least one, there is nothing to store")
        if self.keep_masks and self.segmentation is None:
            raise TutorError("--keep-masks keeps the segmentation tutor's masks: name such a tutor")
        for floor in (self.floor, self.segmentation_floor):
            if not 0 <= floor < 1:
                raise TutorError(f"expected a confidence floor from 0 to below 1, got {floor}")
        if self._panoptic and (self.form.classes, self.form.background) != ("top", "none"):
            raise TutorError(
                "a panoptic tutor's label vectors are distributions with a background of their "
                "own: leave out --label-classes and --label-background"
            )

    @property
    def _panoptic(self) -> bool:
        return self.segmentation is not None and "panoptic" in self.segmentation.description

    @property
    def rounding_step(self) -> float:
        """Distance of two neighbouring values of a label vector's entry; 0 where it is exact."""
        exact = self.form.masks == "hard" and not self._panoptic
        return 0.0 if exact else 1 / self.form.levels

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what a cache holds, for its provenance."""
        described = {"detection": self.detection, "segmentation": self.segmentation}
        return {
            "class_names": list(CLASSES),
            **{role: tutor and dict(tutor.description) for role, tutor in described.items()},
            "detection_floor": self.floor,
            "segmentation_floor": self.segmentation_floor,
            "label_vectors": self.form.describe(panoptic=self._panoptic),
            "exif_orientation": "ignored",
            **({"keep_masks": True} if self.keep_masks else {}),
        }

    def label(self, image: NDArray[np.uint8], image_id: str) -> tuple[TutorOutput, Dropped]:
        """Label one (H, W, 3) uint8 RGB image.

        Raises:
            TutorError: a tutor's output cannot be true; the message names the image.
        """
        (answer,) = self.ask([prepare(self.preparations, image)])
        return self.record(answer, image_id, *image.shape[:2])

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """How the tutors want their images, each way once."""
        tutors = (self.detection, self.segmentation)
        return tuple(dict.fromkeys(preparation_of(tutor) for tutor in tutors if tutor is not None))

    def ask(self, images: Sequence[Views]) -> list[Answer]:
        """Let the tutors look at images, each prepared in all of `preparations`; in one batch."""
        with full_float32():
            segmented = _ask_one(self.segmentation, images)
            if (
                self.detection is not None
                and self.segmentation is not None
                and self.detection.description == self.segmentation.description
            ):
                detected = segmented
            else:
                detected = _ask_one(self.detection, images)
        return list(zip(detected, segmented, strict=True))

    def record(
        self, answer: Answer, image_id: str, height: int, width: int
    ) -> tuple[TutorOutput, Dropped]:
        """Check, filter and code what the tutors said about an image of this size in pixels.

        Raises:
            TutorError: a tutor's output cannot be true; the message names the image.
        """
        detected, segmented = (check_instances(said, image_id, height, width) for said in answer)
        detected = detected.select(detected.scores >= self.floor, "floor")
        segmented = segmented.above(self.segmentation_floor)
        try:
            label_map, palette = code_instances(segmented, self.form, height, width)
        except TutorError as error:
            raise TutorError(f"image {image_id}: {error}") from None
        lost = {"detection": detected.dropped, "segmentation": segmented.dropped}
        output = TutorOutput(
            image_id=image_id,
            boxes=detected.boxes,
            labels=detected.labels,
            scores=detected.scores,
            label_map=label_map,
            palette=palette,
            instances=self._own_masks(segmented) if self.keep_masks else None,
            dropped=encode_dropped(lost),
        )
        return output, lost

    def _own_masks(self, found: Instances) -> InstanceMasks:
        """The tutor's masks as the cache keeps them."""
        if found.mask_probabilities is None:
            name = self.segmentation.description["name"] if self.segmentation else "none"
            raise TutorError(
                f"the segmentation tutor {name} does not give the masks of its instances as "
                "28 x 28 probabilities; generate without --keep-masks, or load it to give them"
            )
        masks = quantise_masks(found.mask_probabilities)
        return InstanceMasks(masks, found.boxes, found.labels, found.scores)


def _ask_one(tutor: Tutor | None, images: Sequence[Views]) -> list[Instances]:
    if tutor is None:
        return [_NOTHING] * len(images)
    way = preparation_of(tutor)
    return predict_prepared(tutor, [views[way] for views in images])
