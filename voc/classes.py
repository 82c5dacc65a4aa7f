"""PASCAL VOC's labels: 20 object classes and background."""

from __future__ import annotations

from kdcli.voc.labels import LabelSet

VOC = LabelSet(
    (
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    )
)
"""The labels of a data set that states none of its own; alphabetical."""

CLASSES: tuple[str, ...] = VOC.all_names
"""Class names by id: background is 0, the 20 object classes follow alphabetically."""

NUM_CLASSES = len(CLASSES)
"""21, background included."""

CLASS_IDS: dict[str, int] = dict(VOC.ids)
"""Class id by name, background included."""
