"""COCO's 80 classes, and which of VOC's 20 each of them is."""

from __future__ import annotations

from kdcli.tutor_gen.classes.words import label_ids

COCO_CLASSES: tuple[str, ...] = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
"""Class names in the order of their category ids, which is Detectron2's order 0..79."""

_UNUSED_CATEGORY_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})

COCO_CATEGORY_IDS: tuple[int, ...] = tuple(
    number for number in range(1, 91) if number not in _UNUSED_CATEGORY_IDS
)
"""COCO's own category ids (80 of 1..90), in the same order as `COCO_CLASSES`."""

VOC_OF_COCO: dict[str, int] = {
    name: label for name, label in zip(COCO_CLASSES, label_ids(COCO_CLASSES), strict=True) if label
}
"""VOC class id (1..20) of each of the 20 COCO classes that VOC has too."""
