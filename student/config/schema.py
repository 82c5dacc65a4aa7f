"""A run's configuration: frozen dataclasses, one per section of the TOML file.

Defaults are the thesis' setting where it states one and nothing better was found, BlitzNet's
otherwise. ``student.config.toml`` reads and writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from kdcli.common.config import expect
from kdcli.student.config.tasks import AsynchronousConfig, TargetsConfig
from kdcli.student.model.config import ModelConfig

AUTO: Literal["auto"] = "auto"
"""A setting that ``student.config.machine`` decides where the run is started."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, and which of their annotation.

    Attributes:
        list: Training list below ``ImageSets``, without ``.txt``.
        mask_folder: Folder of the class masks of the training list; empty for the list's own (see
            ``voc.devkit.mask_folder``), which those of other lists always are.
        difficult: Whether objects marked difficult are learned from, as in the reference.
    """

    list: str = "Segmentation/train"
    mask_folder: str = ""
    difficult: bool = True


@dataclass(frozen=True)
class AugmentationConfig:
    """Ranges of the random policy; the defaults are BlitzNet's.

    Attributes:
        zoom_out_probability: Of placing the image on a larger canvas of the mean colour.
        zoom_out_range: That canvas' size relative to the image's.
        crop_area: Range of a crop's area relative to the canvas.
        crop_aspect: Range of a crop's width by its height.
        crop_coverages: One is drawn; a crop has to cover at least that fraction of some box.
        crop_tries: Crops drawn before the whole canvas is taken.
        flip_probability: Of mirroring.
        min_box: Boxes with a side below this many pixels of the network's input are dropped.
        brightness: Largest amount added, images in 0..1.
        contrast: Largest deviation of the contrast's factor from 1.
        saturation: Largest deviation of the saturation's factor from 1.
        hue: Largest turn, as a fraction of the circle.
    """

    zoom_out_probability: float = 0.5
    zoom_out_range: tuple[float, float] = (1.05, 4.0)
    crop_area: tuple[float, float] = (0.3, 1.0)
    crop_aspect: tuple[float, float] = (0.5, 2.0)
    crop_coverages: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    crop_tries: int = 50
    flip_probability: float = 0.5
    min_box: float = 2.0
    brightness: float = 0.125
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.07

    def __post_init__(self) -> None:
        for name in ("zoom_out_range", "crop_area", "crop_aspect"):
            low, high = getattr(self, name)
            expect(0 < low <= high, f"augmentation.{name}", "two rising positive numbers",
                    getattr(self, name))  # fmt: skip
        expect(len(self.crop_coverages) > 0, "augmentation.crop_coverages", "a list of at least "
                "one number", "an empty one")  # fmt: skip
        expect(self.zoom_out_range[0] >= 1, "augmentation.zoom_out_range", "at least 1",
                self.zoom_out_range)  # fmt: skip
        expect(self.crop_area[1] <= 1, "augmentation.crop_area", "at most 1", self.crop_area)


@dataclass(frozen=True)
class InitConfig:
    """Where weights come from.

    Attributes:
        trunk: A file of ImageNet weights for ``model.trunk``; empty for random ones; ``sample`` for
            the trunk that ships with the project, which fits the tiny network and knows the drawn
            classes.
    """

    trunk: str = ""


@dataclass(frozen=True)
class OptimConfig:
    """Adam and its schedule.

    Attributes:
        steps: Training steps.
        batch_size: Images a step, over all processes that train together.
        accumulate: Parts in which these are worked off, one after the other, for want of memory;
            their gradients are averaged. Batch norm, the losses' normalisers and the mining of
            negatives then see a part, ``batch_size / accumulate`` images.
        lr: Learning rate.
        milestones: After these steps the learning rate is multiplied by ``decay``.
        decay: See ``milestones``.
        weight_decay: Of the weights of convolutions and linear layers, as part of the loss.
        bf16: Whether the network runs under bfloat16 autocast; ``auto``: on a GPU that computes it
            natively.
        asynchronous: Whether each group of parameters waits for a batch of its own.
    """

    steps: int = 65_000
    batch_size: int = 32
    accumulate: int = 1
    lr: float = 1e-4
    milestones: tuple[int, ...] = (40_000, 50_000)
    decay: float = 0.1
    weight_decay: float = 5e-5
    bf16: bool | Literal["auto"] = AUTO
    asynchronous: AsynchronousConfig = field(default_factory=AsynchronousConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "lr"):
            value = getattr(self, name)
            expect(value > 0, f"optim.{name}", "above 0", value)
        expect(self.batch_size % self.accumulate == 0, "optim.accumulate",
                f"a divisor of optim.batch_size ({self.batch_size})", self.accumulate)  # fmt: skip


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation during training: every ``every`` steps on ``list`` (0: never).

    ``metric`` is VOC's average precision: ``area`` (2010 and later) or ``11point`` (2007).
    """

    every: int = 0
    list: str = "Segmentation/val"
    batch_size: int = 32
    metric: Literal["area", "11point"] = "area"

    def __post_init__(self) -> None:
        expect(self.every >= 0, "evaluation.every", "at least 0", self.every)
        expect(self.batch_size > 0, "evaluation.batch_size", "above 0", self.batch_size)


@dataclass(frozen=True)
class RuntimeConfig:
    """How a run is carried out; nothing here changes what is learned, so it may change on resuming.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: Processes that prepare samples; 0 prepares them in the training process; ``auto``:
            by the cores that each training process may use.
        channels_last: Whether the network runs in channels-last memory format; ``auto``: on a GPU,
            with bfloat16.
        compile: Whether ``torch.compile`` translates the step for the device first; takes a
            minute or more and, on a CPU, a C++ compiler. ``auto``: on a GPU, in one process, if
            enough steps are left.
        sync_bn: Whether batch norms see the whole batch when several processes share it, as one
            process would; without, each process' own images, which is faster and less exact.
        log_every: Steps between lines of the loss curve.
        checkpoint_every: Steps between checkpoints.
    """

    device: str = "auto"
    workers: int | Literal["auto"] = AUTO
    channels_last: bool | Literal["auto"] = AUTO
    compile: bool | Literal["auto"] = AUTO
    sync_bn: bool = True
    log_every: int = 20
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every"):
            value = getattr(self, name)
            expect(value > 0, f"runtime.{name}", "above 0", value)
        expect(self.workers == AUTO or self.workers >= 0, "runtime.workers", "at least 0",
                self.workers)  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a training run, apart from where its data lie."""

    seed: int = 1
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        expect(self.seed >= 0, "seed", "at least 0", self.seed)

    def of_classes(self, classes: int) -> RunConfig:
        """Return it for a data set of so many classes, background included."""
        return replace(self, model=replace(self.model, num_classes=classes))
