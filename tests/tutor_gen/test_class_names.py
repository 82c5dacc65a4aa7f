"""Class names of other data sets, and what is said of the classes that a tutor lacks."""

from __future__ import annotations

import pytest

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.classes.coco import COCO_CLASSES, VOC_OF_COCO
from kdcli.tutor_gen.classes.names import (
    check_class_names,
    describe_class_names,
    gaps,
    never_labelled,
)
from kdcli.tutor_gen.classes.words import label_ids
from kdcli.tutor_gen.detectron2.door import MetadataCatalog
from kdcli.voc.classes import CLASSES

BOTH_LVIS = {
    "airplane": "aeroplane",
    "armchair": "chair",
    "cow": "cow",
    "bicycle": "bicycle",
    "bird": "bird",
    "boat": "boat",
    "bottle": "bottle",
    "bus_(vehicle)": "bus",
    "car_(automobile)": "car",
    "cat": "cat",
    "chair": "chair",
    "deck_chair": "chair",
    "dining_table": "diningtable",
    "dog": "dog",
    "horse": "horse",
    "monitor_(computer_equipment) computer_monitor": "tvmonitor",
    "motor_scooter": "motorbike",
    "motorcycle": "motorbike",
    "pony": "horse",
    "sheep": "sheep",
    "sofa": "sofa",
    "television_set": "tvmonitor",
    "train_(railroad_vehicle)": "train",
}


def described(names: list[str]) -> dict[str, object]:
    return {"class_names": names, **describe_class_names(names)}


def read_as(names: list[str]) -> dict[str, str]:
    """VOC's name of each name that means one of its classes."""
    return {name: CLASSES[i] for name, i in zip(names, label_ids(names), strict=True) if i}


@pytest.mark.parametrize(
    "names",
    [
        ("Person", "Potted Plant", "TV", "Aeroplane", "Motorbike", "Dining Table"),
        ("PERSON", "potted_plant", "tv monitor", "aero-plane", "motor bike", "dining-table"),
        ("person", "pottedplant", "tvmonitor", "airplane", "motorcycle", "dining table"),
    ],
)
def test_case_spaces_underscores_and_hyphens_do_not_matter(names: tuple[str, ...]) -> None:
    assert label_ids(names) == (15, 16, 20, 1, 14, 11)


@pytest.mark.parametrize(
    ("data_set", "people", "count"),
    [("lvis_v0.5_val", "baby", 1230), ("lvis_v1_val", "person", 1203)],
)
def test_lvis_classes_are_read_by_their_own_names(data_set: str, people: str, count: int) -> None:
    names = MetadataCatalog.get(data_set).thing_classes
    assert len(names) == count
    assert read_as(names) == BOTH_LVIS | {people: "person"}
    assert never_labelled(described(names)) == ("pottedplant",)


def test_cityscapes_classes() -> None:
    names = MetadataCatalog.get("cityscapes_fine_instance_seg_val").thing_classes
    assert read_as(names) == {
        "person": "person",
        "rider": "person",
        "car": "car",
        "bus": "bus",
        "train": "train",
        "motorcycle": "motorbike",
        "bicycle": "bicycle",
    }


def test_of_coco_only_the_twenty_are_read() -> None:
    ids = dict(zip(COCO_CLASSES, label_ids(COCO_CLASSES), strict=True))
    assert {name: i for name, i in ids.items() if i} == VOC_OF_COCO


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Monitor/TV", "Dinning Table", "Wild Bird", "SUV", "Van", "Ship"), (20, 11, 3, 7, 7, 4)),
        (("Cattle", "Television", "Houseplant", "Woman", "Man"), (10, 20, 16, 15, 15)),
        (("Pickup Truck", "Coffee Table", "Vase", "Flowerpot", "Sofa bed", "Scooter"), (0,) * 6),
        (("__background__", "background", "", "bench"), (0,) * 4),
    ],
)  # Objects365, Open Images, and what is something else
def test_names_of_other_data_sets(names: tuple[str, ...], expected: tuple[int, ...]) -> None:
    assert label_ids(names) == expected


def test_a_tutor_of_other_classes_only_is_refused_with_its_names() -> None:
    with pytest.raises(TutorError) as error:
        check_class_names("zoo.yaml", ["zebra", "areoplane"], "Say in zoo.toml what they mean")
    assert str(error.value) == (
        "zoo.yaml would label nothing: none of its classes is one of VOC's, they are 'zebra', "
        "'areoplane' (is it aeroplane?). Say in zoo.toml what they mean"
    )
    with pytest.raises(TutorError, match=r"'19' and 10 more\. Change"):
        check_class_names("numbers", [str(i) for i in range(30)], "Change them")
    check_class_names("fine", ["zebra", "Cat"], "nothing")


def test_what_is_never_labelled_is_listed_with_misspelt_names() -> None:
    assert gaps(described(list(COCO_CLASSES))) == ""
    assert gaps(described([*CLASSES[1:18], "sofas", "Boots", "Tram"])) == (
        "sofa (misspelt as 'sofas'?), train, tvmonitor"
    )
    numbered = {"class_names": dict(enumerate(CLASSES[1:20]))}
    assert gaps(numbered) == "tvmonitor"


def test_a_description_says_what_names_were_taken_for() -> None:
    """So other readings of the same names are other tutors, and old stores keep their gaps."""
    assert describe_class_names(COCO_CLASSES) == describe_class_names(CLASSES) == {}
    names = [*COCO_CLASSES[1:], "Human", "PERSON"]
    assert described(names)["taken_for"] == {"PERSON": "person"}
    assert never_labelled(described(names)) == ()
    assert never_labelled({"class_names": names}) == ("person",)
