"""The settings that there are once for each task: what it learns from, and when it is updated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from kdcli.cache.format.vectors import READING, THRESHOLD
from kdcli.common.config import expect

Source = Literal["gt", "tutor", "share", "fill-in", "combination"]
TargetForm = Literal["softmax", "background", "complement", "remainder", "hard"]

SHARED = "shared"
"""The group of parameters that all tasks learn: trunk, extra blocks and decoder."""


@dataclass(frozen=True)
class TaskTargets:
    """What one task learns from, image by image.

    Attributes:
        source: ``gt``, ``tutor``; ``share``: the tutor for a share of the images, GT for the
            others (thesis, tables 12 and 13, figures 15 and 16); ``fill-in``: GT where the image
            has it, the tutor where not (table 17); ``combination``: both, weighted (table 19).
        share: With source ``share``, the share of images that learn from the tutor.
        share_draw: Which images those are: ``image``, a fixed, seeded subset by image id, as the
            thesis' text says; or ``visit``, drawn anew each time an image comes up, as its code
            did, so that every image sometimes learns from GT.
        gt_weight: With source ``combination``, the weight of the loss against GT.
        tutor_weight: With source ``combination``, the weight of the loss against the tutor.
        gt_share: Only this seeded share of the images keeps its GT for this task; the others are
            treated as images that have none.
        missing_gt: What to do if images that should learn from GT have none in the devkit:
            ``error``, or ``skip`` (they teach this task nothing).
    """

    source: Source = "gt"
    share: float = 0.5
    share_draw: Literal["image", "visit"] = "image"
    gt_weight: float = 0.5
    tutor_weight: float = 0.5
    gt_share: float = 1.0
    missing_gt: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        for name in ("share", "gt_share"):
            value = getattr(self, name)
            expect(0 <= value <= 1, f"targets' {name}", "between 0 and 1", value)
        for name in ("gt_weight", "tutor_weight"):
            value = getattr(self, name)
            expect(value >= 0, f"targets' {name}", "at least 0", value)

    @property
    def learns_from_tutor(self) -> bool:
        """Whether a tutor may teach some image."""
        return self.source != "gt"

    @property
    def least_box_score(self) -> float:
        """The least confidence of the boxes that it takes from a store; 1 if it takes none."""
        return 1.0

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies a run beside its settings, where a tutor teaches this task."""
        return {}


@dataclass(frozen=True)
class DetectionTargets(TaskTargets):
    """Targets of detection.

    Attributes:
        threshold: Tutor boxes of lower confidence are left out. The thesis' recipes name its own,
            0.001, which lets through boxes that are mostly wrong: docs/photographs.md.
        confidence_weighting: Whether the losses of an anchor are multiplied by the confidence of
            the tutor's box that it was matched to.
    """

    threshold: float = 0.3
    confidence_weighting: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(0 <= self.threshold <= 1, "threshold", "between 0 and 1", self.threshold)

    @property
    def least_box_score(self) -> float:
        """See `TaskTargets`."""
        return self.threshold


@dataclass(frozen=True)
class SegmentationTargets(TaskTargets):
    """Targets of segmentation; ``student.losses.soft_labels`` has the formulas.

    The defaults are what docs/segmentation_study.md recommends: one class a pixel, weighted.

    Attributes:
        threshold: Entries of label vectors below it do not exist; a vector without any is
            background.
        form: How a label vector v becomes a distribution: ``softmax`` is the thesis'
            softmax(v / temperature); ``background`` gives the background 1 - max(v),
            ``complement`` prod(1 - v), ``remainder`` what the sum lacks of 1, and each normalises;
            ``hard`` is the class of the largest entry alone.
        temperature: Of the softmax.
        masks: ``hard``: the cache's label vectors; ``soft``: mask probability times confidence,
            from the tutor's own masks (a cache made with ``--keep-masks``).
        confidence_weighting: Whether the loss of a covered pixel is multiplied by its confidence.
        ignore: Pixels whose largest confidence, whatever the threshold, is at least the first and
            below the second number teach nothing.
        ignore_largest: Of the tutor's pixels in each image, the share with the largest losses that
            teaches nothing, as potentially wrong (Depth Anything V2 takes 0.1).
        ignore_border: Pixels within this distance of another class teach nothing; in pixels of the
            network's segmentation map.
        confirm: Which of the tutor's pixels are believed: ``none``: all; ``gt-classes``: of classes
            that the image's GT boxes have; ``gt-boxes``: inside a GT box of the class (both in
            images that learn detection from GT); ``tutor-boxes``: inside a box of the class from
            the detection tutor.
        confirm_threshold: With ``tutor-boxes``, the least confidence of such a box.
        ignore_missed: With ``confirm``, whether the unlabelled pixels of boxes in which the tutor
            labelled nothing teach nothing, instead of background.
    """

    threshold: float = THRESHOLD
    form: TargetForm = "hard"
    temperature: float = 0.4
    masks: Literal["hard", "soft"] = "hard"
    confidence_weighting: bool = True
    ignore: tuple[float, float] = (0.0, 0.0)
    ignore_largest: float = 0.0
    ignore_border: int = 0
    confirm: Literal["none", "gt-classes", "gt-boxes", "tutor-boxes"] = "none"
    confirm_threshold: float = 0.3
    ignore_missed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(0 <= self.threshold <= 1, "segmentation.threshold", "between 0 and 1",
                self.threshold)  # fmt: skip
        expect(self.temperature > 0, "temperature", "above 0", self.temperature)
        low, high = self.ignore
        expect(0 <= low <= high, "segmentation.ignore", "two rising numbers from 0", self.ignore)
        expect(0 <= self.ignore_largest < 1, "segmentation.ignore_largest", "a share from 0 to "
                "below 1", self.ignore_largest)  # fmt: skip
        expect(self.ignore_border >= 0, "ignore_border", "at least 0", self.ignore_border)

    @property
    def facts(self) -> dict[str, Any]:
        """How label vectors are read: a run that reads them otherwise is another."""
        return {"label_vectors": READING}


@dataclass(frozen=True)
class InstanceTargets(TaskTargets):
    """Targets of instance masks.

    Attributes:
        threshold: The segmentation tutor's instances of lower confidence are left out.
        confidence_weighting: Whether the loss of an anchor's mask is multiplied by the confidence
            of the tutor's instance that it was matched to.
    """

    threshold: float = 0.3
    confidence_weighting: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(0 <= self.threshold <= 1, "instances.threshold", "between 0 and 1", self.threshold)


@dataclass(frozen=True)
class TargetsConfig:
    """Targets of each task; ``gt_share`` keeps the GT of *all* for only a share of the images."""

    gt_share: float = 1.0
    detection: DetectionTargets = field(default_factory=DetectionTargets)
    segmentation: SegmentationTargets = field(default_factory=SegmentationTargets)
    instances: InstanceTargets = field(default_factory=InstanceTargets)

    def __post_init__(self) -> None:
        expect(0 <= self.gt_share <= 1, "targets.gt_share", "between 0 and 1", self.gt_share)

    def of(self, task: str) -> TaskTargets:
        """Return the targets of a task by its name."""
        targets: TaskTargets = getattr(self, task)
        return targets


TASK_NAMES = tuple(field.name for field in fields(TargetsConfig) if field.name != "gt_share")
"""The tasks that there are, in their order; `student.tasks.registry` has what they do."""

FIRST_DEFAULTS = {"targets.detection.threshold": 0.001}
"""Of defaults that were changed since: the value that a run's identity leaves out."""


@dataclass(frozen=True)
class AsynchronousConfig:
    """Each group of parameters waits for an effective batch of its own (UberNet, arXiv 1609.02132).

    `student.training.asynchronous` has the formula. The numbers count images, over all processes,
    and are looked at after each step; 0 stands for ``optim.batch_size``.

    Attributes:
        enabled: Whether updates are asynchronous; without, the numbers play no part.
        shared: Trunk, extra blocks and decoder are updated when so many images were seen.
        detection: The detection heads are, when so many were that learn detection.
        segmentation: The segmentation head is, when so many were that learn segmentation.
        instances: Prototypes and coefficients are, when so many were that learn instances.
    """

    enabled: bool = False
    shared: int = 0
    detection: int = 0
    segmentation: int = 0
    instances: int = 0

    def __post_init__(self) -> None:
        for group in (SHARED, *TASK_NAMES):
            number = getattr(self, group)
            expect(number >= 0, f"optim.asynchronous.{group}", "a number of images, or 0 for "
                    "optim.batch_size", number)  # fmt: skip

    def effective_batch(self, group: str, batch_size: int) -> int:
        """Return how many images a group waits for, with steps of ``batch_size``."""
        return int(getattr(self, group)) or batch_size


SEGMENTATION_TARGETS: Mapping[str, Mapping[str, Any]] = {
    "thesis": {
        "targets.segmentation.form": "softmax",
        "targets.segmentation.temperature": 0.4,
        "targets.segmentation.confidence_weighting": False,
    },
    "background": {
        "targets.segmentation.form": "background",
        "targets.segmentation.confidence_weighting": False,
    },
    "weighted": {
        "targets.segmentation.form": "hard",
        "targets.segmentation.confidence_weighting": True,
    },
}
"""Settings by name; docs/segmentation_study.md compares them."""
