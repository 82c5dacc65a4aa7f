"""The two tutors of a run: what they say about one image, checked, filtered and coded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from kdcli.tutor_gen.classes.names import check_words
from kdcli.tutor_gen.config import GenerationConfig
from kdcli.tutor_gen.labels.coding import code_instances
from kdcli.tutor_gen.labels.dense import Coded, code_semantic
from kdcli.tutor_gen.tutors.checks import check_answers, check_instances, check_semantic
from kdcli.tutor_gen.tutors.device import full_float32
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.preparation import Preparation, Views, prepare
from kdcli.tutor_gen.tutors.tutor import (
    Answer,
    Instances,
    Tutor,
    name_of,
    predict_prepared,
    preparation_of,
)
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet

Answers = tuple[Answer, Answer]
"""What the detection and the segmentation tutor said about one image."""


@dataclass(frozen=True)
class TutorPair:
    """A detection and a segmentation tutor, one of which may be absent.

    Attributes:
        detection: gives the boxes; None leaves them empty.
        segmentation: gives the label vectors; None leaves them zero. If its description equals the
            detection tutor's, the model runs once for both.
        config: what becomes of their answers: thresholds, label vectors, kept masks. (The tutors
            it names have been loaded, or are one's own.) A panoptic tutor has its own formula of
            label vectors, for which only masks and levels of it count, and a dense one gives them
            itself, so that only levels do.
        loaded: whether the tutors are those that ``config`` names.
        labels: what they give: the data set's.

    Raises:
        TutorError: both are absent, or the one whose masks are to be kept; the labels have words
            that are no classes of theirs; a dense tutor is to give
            boxes or masks; or a panoptic or dense one is to make other vectors than its own.
    """

    detection: Tutor | None
    segmentation: Tutor | None
    config: GenerationConfig = field(default_factory=GenerationConfig)
    loaded: bool = False
    labels: LabelSet = VOC

    def __post_init__(self) -> None:
        if self.detection is None and self.segmentation is None:
            raise TutorError("both tutors are 'none': name at least one, there is nothing to store")
        if self.config.segmentation.keep_masks and self.segmentation is None:
            raise TutorError("--keep-masks keeps the segmentation tutor's masks: name such a tutor")
        if self.detection is not None and "semantic" in self.detection.description:
            raise TutorError(
                f"the tutor {name_of(self.detection.description)} gives a class for each pixel, no "
                "boxes: name it with --segmentation-tutor"
            )
        if self._dense and self.config.segmentation.keep_masks:
            raise TutorError("a dense tutor has no masks of instances: leave out --keep-masks")
        check_words(self.labels, [tutor.description for tutor in self._tutors])
        own_vectors = self._panoptic or self._dense
        if own_vectors and (self._form.classes, self._form.background) != ("top", "none"):
            raise TutorError(
                f"a {'dense' if self._dense else 'panoptic'} tutor's label vectors are "
                "distributions with a background of their own: leave out --label-classes and "
                "--label-background"
            )

    @property
    def _tutors(self) -> list[Tutor]:
        return [tutor for tutor in (self.detection, self.segmentation) if tutor is not None]

    @property
    def _form(self) -> LabelForm:
        return self.config.label_vectors

    @property
    def _dense(self) -> bool:
        return self.segmentation is not None and "semantic" in self.segmentation.description

    @property
    def _panoptic(self) -> bool:
        return self.segmentation is not None and "panoptic" in self.segmentation.description

    @property
    def rounding_step(self) -> float:
        """Distance of two neighbouring values of a label vector's entry; 0 where it is exact."""
        exact = self._form.masks == "hard" and not self._panoptic and not self._dense
        return 0.0 if exact else 1 / self._form.levels

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what a cache holds, for its provenance."""
        described = {"detection": self.detection, "segmentation": self.segmentation}
        return {
            "class_names": list(self.labels.all_names),
            **{role: tutor and dict(tutor.description) for role, tutor in described.items()},
            "detection_floor": self.config.detection.score_threshold,
            "segmentation_floor": self.config.segmentation.score_threshold,
            "label_vectors": self._form.describe(panoptic=self._panoptic, dense=self._dense),
            "exif_orientation": "ignored",
            **({"grid": True} if self._dense else {}),
            **({"keep_masks": True} if self.config.segmentation.keep_masks else {}),
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
        return tuple(dict.fromkeys(map(preparation_of, self._tutors)))

    def ask(self, images: Sequence[Views]) -> list[Answers]:
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
        self, answer: Answers, image_id: str, height: int, width: int
    ) -> tuple[TutorOutput, Dropped]:
        """Check, filter and code what the tutors said about an image of this size in pixels.

        Raises:
            TutorError: a tutor's output cannot be true; the message names the image.
        """
        boxes, vectors = answer
        detected = check_instances(
            _instances(boxes, image_id), image_id, height, width, self.labels.size
        )
        above = detected.scores >= self.config.detection.score_threshold
        detected = detected.select(above, "floor")
        coded, masks = self._code(vectors, image_id, height, width)
        lost = {"detection": detected.dropped, "segmentation": coded.dropped}
        output = TutorOutput(
            image_id=image_id,
            boxes=detected.boxes,
            labels=detected.labels.astype(np.uint8, copy=False),
            scores=detected.scores,
            index_map=coded.index_map,
            palette=coded.palette,
            instances=masks,
            dropped=encode_dropped(lost),
            window=coded.window,
        )
        return output, lost

    def _code(
        self, said: Answer, image_id: str, height: int, width: int
    ) -> tuple[Coded, InstanceMasks | None]:
        """The label vectors of an image, and the masks that made them if they are kept."""
        if self._dense:
            semantic = check_semantic(said, image_id, self.labels.size)
            return code_semantic(semantic, self._form.levels, height, width), None
        classes = self.labels.size
        found = check_instances(_instances(said, image_id), image_id, height, width, classes)
        found = found.above(self.config.segmentation.score_threshold)
        try:
            index_map, palette = code_instances(found, self._form, height, width, classes)
        except TutorError as error:
            raise TutorError(f"image {image_id}: {error}") from None
        kept = self._own_masks(found) if self.config.segmentation.keep_masks else None
        return Coded(index_map, palette, found.dropped), kept

    def _own_masks(self, found: Instances) -> InstanceMasks:
        """The tutor's masks as the cache keeps them."""
        if found.mask_probabilities is None:
            name = name_of(self.segmentation.description) if self.segmentation else "none"
            raise TutorError(
                f"the segmentation tutor {name} does not give the masks of its instances as "
                "28 x 28 probabilities; generate without --keep-masks, or load it to give them"
            )
        masks = quantise_masks(found.mask_probabilities)
        return InstanceMasks(found.boxes, found.labels, found.scores, masks)


def _ask_one(tutor: Tutor | None, images: Sequence[Views]) -> Sequence[Answer]:
    if tutor is None:
        return [Instances.none()] * len(images)
    way = preparation_of(tutor)
    answers = predict_prepared(tutor, [views[way] for views in images])
    return check_answers(answers, len(images), name_of(tutor.description))


def _instances(said: Answer, image_id: str) -> Instances:
    if isinstance(said, Instances):
        return said
    raise TutorError(
        f"image {image_id}: expected the tutor's objects (Instances), got a {type(said).__name__}; "
        "a dense tutor says so by the key 'semantic' of its description"
    )
