"""The classes of an export: what its sidecar says of them, and which labels they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcli.tutor_gen.classes.coco import COCO_CATEGORY_IDS, COCO_CLASSES
from kdcli.tutor_gen.classes.names import check_class_names
from kdcli.tutor_gen.classes.words import label_ids, whose
from kdcli.tutor_gen.exported.toml import Table
from kdcli.tutor_gen.tutors.sidecar import sidecar_path
from kdcli.voc.labels import LabelSet

_NUMBERINGS = ("coco-categories", "coco-contiguous")
_WANTED = f"one of {', '.join(_NUMBERINGS)}, or a list of names"


def read_classes(table: Table) -> dict[int, str]:
    """Return the name of each class number, from ``classes`` in a table of a sidecar."""
    classes: str | list[str] = table.take("classes", _is_classes, _WANTED)
    if classes == "coco-categories":
        return dict(zip(COCO_CATEGORY_IDS, COCO_CLASSES, strict=True))
    return dict(enumerate(COCO_CLASSES if isinstance(classes, str) else classes))


def _is_classes(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(name, str) for name in value)
    return value in _NUMBERINGS


def ids_of_numbers(
    path: Path, table: str, names: Mapping[int, str], labels: LabelSet
) -> NDArray[np.uint8]:
    """Return the class id of each class number from 0 on, 0 for none.

    Args:
        path: the export's file.
        table: of its sidecar, that holds the names.
        names: of the numbers.
        labels: what it is to label.

    Raises:
        TutorError: none of them is one of the labels.
    """
    where = f"{sidecar_path(path)}, [{table}] classes"
    remedy = f"Say in {where}, which are {whose(labels)}"
    check_class_names(str(path), names.values(), remedy, labels)
    found = np.zeros(max(names) + 1, dtype=np.uint8)
    found[list(names)] = label_ids(names.values(), labels)
    return found
