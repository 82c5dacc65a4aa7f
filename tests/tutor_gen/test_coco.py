from __future__ import annotations

from kdcli.tutor_gen.classes.coco import COCO_CATEGORY_IDS, COCO_CLASSES, VOC_OF_COCO
from kdcli.tutor_gen.classes.words import label_ids
from kdcli.tutor_gen.detectron2.door import MetadataCatalog
from kdcli.voc.classes import CLASSES


def test_names_and_numbers_are_those_detectron2_knows() -> None:
    metadata = MetadataCatalog.get("coco_2017_val")
    assert list(COCO_CLASSES) == metadata.thing_classes
    numbers = metadata.thing_dataset_id_to_contiguous_id
    assert [numbers[category] for category in COCO_CATEGORY_IDS] == list(range(80))


def test_every_voc_class_has_exactly_one_coco_class() -> None:
    assert sorted(VOC_OF_COCO.values()) == list(range(1, 21))


def test_six_classes_are_renamed_and_fourteen_keep_their_names() -> None:
    renamed = {name: CLASSES[i] for name, i in VOC_OF_COCO.items() if CLASSES[i] != name}
    assert renamed == {
        "airplane": "aeroplane",
        "motorcycle": "motorbike",
        "couch": "sofa",
        "potted plant": "pottedplant",
        "dining table": "diningtable",
        "tv": "tvmonitor",
    }


def test_voc_ids_takes_both_spellings_and_gives_zero_to_the_rest() -> None:
    assert label_ids(["tv", "tvmonitor", "zebra", "train"]) == (20, 20, 0, 19)
