"""What a BlitzNet is made of: one frozen configuration for every variant, and the named presets."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from kdcli.common.config import nearest
from kdcli.common.errors import StudentError
from kdcli.student.config.tasks import TASK_NAMES
from kdcli.student.model.trunks import (
    BLITZNET_RESNET,
    RESNET_STAGES,
    TORCHVISION,
    TRUNKS,
    Layout,
)

TRUNK_BLOCKS = 4  # strides 4 to 32, called block 1 to block 4; the extra blocks count on from there


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a BlitzNet (BlitzNet paper, arXiv 1708.02813); the default is 300 x4.

    Attributes:
        input_size: side of the square input, pixels.
        stride4: whether the decoder goes on to the stride-4 map ("x4"), which then is the
            finest of the maps; else the stride-8 map is.
        num_classes: classes with the background; a run takes it from its data set's labels.
        trunk: ``blitznet-resnet``, the reference's, or the name of a torchvision network (see
            ``trunks``; docs/trunks.md).
        preprocessing: what images become before the trunk reads them, see ``preprocessing``;
            ``auto`` is what the trunk is trained with: ``bgr-255`` for ``blitznet-resnet``,
            ``rgb-unit`` for torchvision's.
        frozen_stages: number of the trunk's first stages that stay as they were loaded, batch
            norms' statistics included; 1 is all up to the stride-4 map, 2 up to stride 8, ...
        stem_width: ``blitznet-resnet``: channels of the 7x7 stem convolution.
        trunk_units: ``blitznet-resnet``: bottleneck units of blocks 1 to 4.
        trunk_widths: ``blitznet-resnet``: channels inside the bottlenecks of blocks 1 to 4; a unit
            returns four times as many.
        extra_blocks: number of blocks behind stride 32, numbered from 5. A trunk that ends before
            stride 32 gets its last block from their kind, too.
        extra_units: bottleneck units of every extra block.
        extra_width: channels that an extra block returns; a quarter of it inside.
        feature_width: channels of the decoder's maps; a quarter of it inside a reverse block.
        segmentation_width: channels that every map adds to the segmentation head.
        smallest_scale: anchor scale of the finest map, relative to the image side.
        min_scale: anchor scale of the second map.
        max_scale: anchor scale of the last map.
        aspect_ratios: each stands for two anchors, the ratio and its inverse.
        prototypes: maps that an instance's mask is a sum of; YOLACT found 8 nearly as good as 32.
        tasks: what the network does; it has the heads of these, and learns nothing else.
    """

    input_size: int = 300
    stride4: bool = True
    num_classes: int = 21
    trunk: str = BLITZNET_RESNET
    preprocessing: Literal["auto", "bgr-255", "rgb-unit", "bgr-caffe"] = "auto"
    frozen_stages: int = 0
    stem_width: int = 64
    trunk_units: tuple[int, ...] = (3, 4, 6, 3)
    trunk_widths: tuple[int, ...] = (64, 128, 256, 512)
    extra_blocks: int = 3
    extra_units: int = 2
    extra_width: int = 2048
    feature_width: int = 512
    segmentation_width: int = 64
    smallest_scale: float = 0.04
    min_scale: float = 0.1
    max_scale: float = 0.95
    aspect_ratios: tuple[float, ...] = (2.0, 3.0)
    prototypes: int = 8
    tasks: tuple[str, ...] = ("detection", "segmentation")

    def __post_init__(self) -> None:
        self._check_trunk()
        self._check_sizes()
        self._check_anchors()
        self._check_tasks()
        if self.block_sides[-1] == self.block_sides[-2]:
            raise StudentError(
                f"Expected every extra block to halve its input, but {self.extra_blocks} extra "
                f"blocks at model.input_size {self.input_size} end at the sides "
                f"{self.block_sides}: take a larger input or fewer extra blocks."
            )

    def _check_trunk(self) -> None:
        if self.trunk not in TRUNKS:
            raise StudentError(
                f"Expected model.trunk to be one of {', '.join(TRUNKS)}, got {self.trunk!r}"
                f"{nearest(self.trunk, TRUNKS)}"
            )
        most = len(self.layout.stages)
        self._expect(0 <= self.frozen_stages <= most, "frozen_stages", f"0 to {most}")

    def _check_sizes(self) -> None:
        for name in ("trunk_units", "trunk_widths"):
            values = getattr(self, name)
            self._expect(
                len(values) == TRUNK_BLOCKS and min(values) >= 1, name, "4 numbers of 1 or more"
            )
        for name in ("input_size", "stem_width", "extra_blocks", "extra_units"):
            self._expect(getattr(self, name) >= 1, name, "at least 1")
        for name in ("extra_width", "feature_width"):
            width = getattr(self, name)
            self._expect(width >= 4 and width % 4 == 0, name, "a multiple of 4")
        self._expect(self.segmentation_width >= 1, "segmentation_width", "at least 1")
        self._expect(self.prototypes >= 1, "prototypes", "at least 1")
        self._expect(self.num_classes >= 2, "num_classes", "2 or more, the background included")

    def _check_anchors(self) -> None:
        self._expect(self.smallest_scale > 0, "smallest_scale", "above 0")
        self._expect(self.min_scale > self.smallest_scale, "min_scale", "above smallest_scale")
        self._expect(self.max_scale > self.min_scale, "max_scale", "above min_scale")
        positive = all(ratio > 0 for ratio in self.aspect_ratios)
        self._expect(positive, "aspect_ratios", "above 0")

    def _check_tasks(self) -> None:
        known = tuple(task for task in TASK_NAMES if task in self.tasks)
        what = f"one or more of {', '.join(TASK_NAMES)}, each once and in this order"
        self._expect(bool(known) and self.tasks == known, "tasks", what)

    def _expect(self, condition: bool, name: str, what: str) -> None:
        if not condition:
            raise StudentError(f"Expected model.{name} to be {what}, got {getattr(self, name)}.")

    @property
    def block_sides(self) -> tuple[int, ...]:
        """Side of the output of block 1, 2, ... to the last extra block, in cells."""
        side = _halved(_halved(self.input_size))  # stem convolution, max pool
        sides = [side]
        for _ in range(TRUNK_BLOCKS - 1 + self.extra_blocks):
            side = _halved(side)
            sides.append(side)
        return tuple(sides)

    @property
    def input_convention(self) -> str:
        """What images become before the trunk reads them: ``preprocessing``, with no ``auto``."""
        if self.preprocessing != "auto":
            return self.preprocessing
        return "bgr-255" if self.trunk == BLITZNET_RESNET else "rgb-unit"

    @property
    def layout(self) -> Layout:
        """Where the trunk has its maps, and their channels."""
        if self.trunk == BLITZNET_RESNET:
            return Layout(RESNET_STAGES, tuple(4 * width for width in self.trunk_widths))
        return TORCHVISION[self.trunk]

    @property
    def blocks_behind_trunk(self) -> int:
        """The extra blocks, and the one in the place of a stage that the trunk lacks."""
        return self.extra_blocks + TRUNK_BLOCKS - len(self.layout.stages)

    @property
    def block_widths(self) -> tuple[int, ...]:
        """Channels of the output of block 1, 2, ... to the last extra block."""
        return self.layout.widths + (self.extra_width,) * self.blocks_behind_trunk

    @property
    def map_sides(self) -> tuple[int, ...]:
        """Sides of the maps that the heads read, finest first; the last one is pool6, 1 x 1."""
        first = 0 if self.stride4 else 1
        return (*self.block_sides[first:-1], 1)

    @property
    def finest_side(self) -> int:
        """Side of the finest map, cells."""
        return self.map_sides[0]

    @property
    def anchors_per_cell(self) -> int:
        """Two squares, and two boxes for every aspect ratio."""
        return 2 + 2 * len(self.aspect_ratios)

    @property
    def num_anchors(self) -> int:
        """Anchors of one image."""
        return self.anchors_per_cell * sum(side * side for side in self.map_sides)


def _halved(side: int) -> int:
    """Side after a stride of 2, every kind of padding used here: rounded up."""
    return (side + 1) // 2


_TINY = ModelConfig(
    input_size=128,
    stem_width=16,
    trunk_units=(1, 1, 1, 1),
    trunk_widths=(16, 24, 32, 48),
    extra_blocks=2,
    extra_units=1,
    extra_width=192,
    feature_width=64,
    segmentation_width=32,
    smallest_scale=0.08,
    min_scale=0.16,
)

_MOBILE = ModelConfig(
    input_size=160,
    stride4=False,
    trunk="mobilenet_v2",
    frozen_stages=1,
    extra_blocks=2,
    extra_units=1,
    extra_width=256,
    feature_width=128,
    smallest_scale=0.1,
    min_scale=0.2,
)

PRESETS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "blitznet300-x4": ModelConfig(),
        "blitznet300": ModelConfig(stride4=False, smallest_scale=0.1, min_scale=0.2),
        "blitznet512": ModelConfig(
            input_size=512, stride4=False, extra_blocks=4, smallest_scale=0.04, min_scale=0.1
        ),
        "blitznet512-x4": ModelConfig(
            input_size=512, extra_blocks=4, smallest_scale=0.02, min_scale=0.08
        ),
        "tiny": _TINY,
        "mobile": _MOBILE,
    }
)
