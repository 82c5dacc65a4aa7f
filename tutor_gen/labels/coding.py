"""From what a segmentation tutor found in an image to label vectors, in the form asked for."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.labels.hard import IndexMap, add_background, at_class, code_hard
from kdcli.tutor_gen.labels.panoptic import code_panoptic
from kdcli.tutor_gen.labels.soft import Coded, code_soft, with_levels_that_fit
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.tutor import Instances
from kdcli.voc.classes import VOC


def code_instances(
    found: Instances, form: LabelForm, height: int, width: int, classes: int = VOC.size
) -> tuple[IndexMap, NDArray[np.float32]]:
    """Code the label vectors of one image.

    Args:
        found: checked and filtered; without masks (no segmentation tutor) all vectors are zero.
        form: what the vectors are made of.
        height: image height in pixels.
        width: image width in pixels.
        classes: length of a vector, background included.

    Returns:
        Map and palette as `tutor_gen.labels.hard.code_label_vectors`.

    Raises:
        TutorError: the tutor gives no masks, or no soft ones or distributions though the form
            wants them, or the image has more than 65,536 distinct vectors.
    """
    if found.masks is None and len(found):
        raise TutorError(
            "the segmentation tutor gives boxes without masks; take it as the detection tutor"
        )
    if found.masks is None:
        empty = np.zeros((height, width), dtype=np.uint8)
        return empty, np.zeros((1, classes), dtype=np.float32)
    soft = found.masks.dtype == np.uint8
    if soft != (form.masks == "soft"):
        raise TutorError(
            f"the segmentation tutor gives {'soft' if soft else 'hard'} masks, label vectors of "
            f"{form.masks} ones are wanted: load it with the same --label-masks"
        )
    panoptic = found.panoptic
    if panoptic is not None:
        return with_levels_that_fit(
            lambda n: code_panoptic(found, panoptic, n, classes), form.levels
        )
    weights = _weights(found, form, classes)
    if not soft:
        marks = cast("NDArray[np.bool_]", found.masks)
        coded = code_hard(marks, weights, height, width, found.boxes)
        return add_background(*coded, form.background)
    values = cast("NDArray[np.uint8]", found.masks)

    def code(levels: int) -> Coded:
        coded = code_soft(values, weights, found.boxes, levels)
        return add_background(*coded, form.background, levels)

    return with_levels_that_fit(code, form.levels)


def _weights(found: Instances, form: LabelForm, classes: int) -> NDArray[np.float32]:
    """What each instance puts into each entry, (n, classes)."""
    if form.classes == "top":
        return at_class(found.labels, found.scores, classes)
    if found.distributions is None:
        raise TutorError(
            "the segmentation tutor does not give the class distribution of its boxes: "
            "load it with --label-classes full, or take another"
        )
    return found.distributions
