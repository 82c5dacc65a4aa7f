"""BlitzNet: one pass for all tasks (arXiv 1708.02813)."""

from collections.abc import Iterator
from typing import Any, Self

from torch import Tensor, nn

from kdcli.student.model.anchors import make_anchors
from kdcli.student.model.blocks import ReverseBlock
from kdcli.student.model.config import ModelConfig
from kdcli.student.model.resnet import Trunk, make_block
from kdcli.student.model.torchvision_trunk import torchvision_trunk
from kdcli.student.model.trunks import BLITZNET_RESNET
from kdcli.student.tasks.registry import tasks_of


class BlitzNet(nn.Module):
    """Trunk, extra blocks, decoder of reverse blocks, and the heads of each task by its name.

    Initialisation: convolutions before a batch norm are normal with variance 2 / fan-in (He), all
    biases zero; how the heads begin is said by their tasks. The public TensorFlow code has the same
    variances. A trunk of torchvision's keeps the initialisation that it has there.

    The frozen stages have no gradients, and their batch norms are always in evaluation mode.

    Attributes:
        config: what the network is made of.
        anchors: (A, 4) float32 centre x, centre y, width, height, relative to the image;
            a buffer that follows the model to its device and stays out of its state dict.
    """

    anchors: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        own = config.trunk == BLITZNET_RESNET
        self.trunk: nn.Module = Trunk(config) if own else torchvision_trunk(config.trunk)
        widths = config.block_widths
        extra, inputs = [], config.layout.widths[-1]
        for _ in range(config.blocks_behind_trunk):
            width = config.extra_width
            extra.append(make_block(inputs, width // 4, width, config.extra_units, stride=2))
            inputs = width
        self.extra = nn.ModuleList(extra)
        self.reverse = nn.ModuleList()
        for skip in reversed(widths[0 if config.stride4 else 1 : -1]):
            self.reverse.append(ReverseBlock(inputs, skip, config.feature_width))
            inputs = config.feature_width
        self.tasks = tasks_of(config)
        for task in self.tasks:
            self.add_module(task.name, task.head(inputs, config))
        self.register_buffer("anchors", make_anchors(config), persistent=False)
        for name, part in self.named_children():
            if own or name != "trunk":
                part.apply(_initialise_body)
        for task in self.tasks:
            self.get_submodule(task.name).apply(task.initialise)
        for part in self._frozen():
            part.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def _frozen(self) -> Iterator[nn.Module]:
        """Submodules of the trunk up to the last frozen stage, as they are at the moment."""
        if not self.config.frozen_stages:
            return
        parent, _, last = self.config.layout.stages[self.config.frozen_stages - 1].rpartition(".")
        for name, part in self.trunk.get_submodule(parent).named_children():
            yield part
            if name == last:
                return

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Images (B, 3, S, S), floating, as `preprocessing.normalise` gives -> outputs by task."""
        size = self.config.input_size
        if images.shape[1:] != (3, size, size):
            raise ValueError(
                f"Expected images of shape (B, 3, {size}, {size}), got {tuple(images.shape)}"
            )
        maps = self.features(images)
        return {task.name: self.get_submodule(task.name)(maps) for task in self.tasks}

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps (B, feature_width, s, s) that the heads read, finest first, pool6 last."""
        blocks = self.trunk(images)
        for block in self.extra:
            blocks.append(block(blocks[-1]))
        x = blocks.pop()
        maps: list[Tensor] = []
        for reverse in self.reverse:
            x, shortcut = reverse(x, blocks.pop())
            if not maps:  # pool6 looks at the first shortcut, before the residual is added
                maps.append(shortcut.mean(dim=(2, 3), keepdim=True))
            maps.append(x)
        return [*reversed(maps[1:]), maps[0]]


def _initialise_body(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
