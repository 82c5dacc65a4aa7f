"""From the words of a teacher to a data set's labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from kdcli.common.names import folded
from kdcli.tutor_gen.classes.synonyms import VOC_WORDS
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet

Words = Mapping[str, tuple[str, ...]]


def label_words(names: tuple[str, ...], words: Words = MappingProxyType({})) -> dict[str, str]:
    """Return the label that each word means, by its `folded` spelling.

    A label means the ``words`` that a user gave it, or without an entry its own name. Where the
    labels are VOC's, the names of other data sets for its classes count, too.
    """
    built_in: Words = VOC_WORDS if names == VOC.names else {}
    implied = {
        folded(word): name
        for name in names
        if name not in words
        for word in (name, *built_in.get(name, ()))
    }
    return implied | {folded(word): name for name, own in words.items() for word in own}


def label_ids(class_names: Iterable[str], labels: LabelSet = VOC) -> tuple[int, ...]:
    """Return the class id of each of a teacher's names, 0 where it is none of the labels.

    For VOC, names may be spelt as COCO, VOC, LVIS, Cityscapes, Objects365 or Open Images spell
    them. Case, spaces, underscores and hyphens never matter.

    >>> label_ids(["airplane", "aeroplane", "zebra", "person", "Potted Plant", "bus_(vehicle)"])
    (1, 1, 0, 15, 16, 6)
    >>> label_ids(["cup", "Wine Glass"], LabelSet(("mug", "cup"), words={"mug": ("wine_glass",)}))
    (2, 1)
    """
    words = label_words(labels.names, labels.words)
    return tuple(labels.ids.get(words.get(folded(name), ""), 0) for name in class_names)


def is_plain_voc(labels: LabelSet) -> bool:
    """Whether labels are VOC's, by the words that are built in."""
    return labels.names == VOC.names and not labels.words


def whose(labels: LabelSet) -> str:
    """What messages call the labels: "one of VOC's", "one of the data set's labels"."""
    return "VOC's" if labels.names == VOC.names else "the data set's labels"
