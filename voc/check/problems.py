"""The problems that a data set can have: what they are called, how bad they are, what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad a problem is."""

    ERROR = "error"
    """Training or evaluation would stop, or learn or measure something wrong."""
    WARNING = "warning"
    """Nothing stops, but it may not be meant."""


class Problem(Enum):
    """A kind of problem: what it is called, how bad it is, what to do about it."""

    LIST = Level.ERROR, "list that cannot be used", "one image id a line, no ending, each id once"
    NO_PHOTOGRAPH = Level.ERROR, "photograph missing", "restore it, or take the id off the list"
    SEVERAL_FILES = Level.ERROR, "several files of one image", "remove all but one"
    PHOTOGRAPH = Level.ERROR, "photograph unreadable", "restore it, or save it as a JPEG"
    XML = Level.ERROR, "XML unreadable", "restore it, or annotate the image again"
    MASK = Level.ERROR, "mask unreadable", "save it as an 8-bit palette PNG of class ids"
    XML_SIZE = Level.ERROR, "XML of another size than the photograph", "one is another picture's"
    MASK_SIZE = Level.ERROR, "mask of another size than the photograph", "one is another picture's"
    BOX_OUTSIDE = Level.ERROR, "box leaves the image", "1 <= xmin, xmax <= width; so for y"
    BOX_INVERTED = Level.ERROR, "box inverted", "xmin <= xmax, ymin <= ymax"
    CLASS_NAME = Level.ERROR, "unknown class name", "correct the XML, or the data set's labels"
    MASK_VALUE = Level.ERROR, "mask value without a label", "correct the mask, or the labels"
    LEAK = Level.ERROR, "the same photograph in train and val", "take it off one of the lists"
    OTHER_LIST = Level.WARNING, "list of another form", "fine for VOC's other tasks; else mend it"
    OTHER_LEAK = (
        Level.WARNING,
        "the same photograph in train of one task and val of another",
        "do not train from one and evaluate on the other",
    )
    TWICE = Level.WARNING, "photograph under several ids", "keep one of them"
    EXIF = Level.WARNING, "EXIF says turned", "boxes and masks must fit the pixels as stored"
    BOX_SMALL = Level.WARNING, "box of less than 2 pixels", "a slip of the mouse? remove it"
    NO_LABELS = Level.WARNING, "image without box or mask", "fine if tutors label it"
    ONLY_VAL = Level.WARNING, "class in no image but val's", "it cannot be learnt: move some images"
    NO_OBJECTS = Level.WARNING, "class that never occurs", "remove the label, or label some"
    OBJECT_WITHOUT_BOX = (
        Level.WARNING,
        "object of an object mask without a box",
        "its pixels teach no instance: correct the XML, or the mask",
    )
    ORPHAN_XML = Level.WARNING, "XML without photograph", "restore the photograph, or remove it"
    ORPHAN_MASK = Level.WARNING, "mask without photograph", "restore the photograph, or remove it"
    UNLISTED = Level.WARNING, "photograph in no list", "it is never used: list it, or not"

    def __init__(self, level: Level, title: str, remedy: str) -> None:
        self.level, self.title, self.remedy = level, title, remedy


@dataclass(frozen=True)
class Finding:
    """One problem of one thing.

    Attributes:
        problem: which.
        where: image id, list or class; a file where no image is known.
        detail: what exactly, in a few words; may be empty.
    """

    problem: Problem
    where: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.where} ({self.detail})" if self.detail else self.where


@dataclass(frozen=True)
class Report:
    """What was looked at, and what was found.

    Attributes:
        facts: numbers by what they count: images, images with boxes, and so on.
        findings: every finding, those of a kind together, errors first.
    """

    facts: Mapping[str, int]
    findings: Sequence[Finding]

    @property
    def has_errors(self) -> bool:
        """Whether training or evaluation would be wrong."""
        return any(finding.problem.level is Level.ERROR for finding in self.findings)

    def of_kind(self) -> Mapping[Problem, Sequence[Finding]]:
        """Return the findings by kind, in the order of `Problem`."""
        found = {
            problem: [finding for finding in self.findings if finding.problem is problem]
            for problem in Problem
        }
        return {problem: those for problem, those in found.items() if those}
