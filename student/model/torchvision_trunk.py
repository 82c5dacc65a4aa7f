"""Trunks of torchvision: its feature extraction, and sides that are rounded up throughout."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from kdcli.student.model.resnet import max_pool_same
from kdcli.student.model.trunks import TORCHVISION


def torchvision_trunk(name: str) -> fx.GraphModule:
    """Return a network of torchvision up to its last map, initialised at random as there.

    It maps (B, 3, S, S) to a list of its maps at strides 4, 8, ... (see ``trunks.TORCHVISION``),
    sides S/4, S/8, ... rounded up, and has torchvision's names in its state dict.

    Stochastic depth is switched off: training draws nothing that a resumed run could not repeat.
    """
    # Here, as it brings in half a compiler: more than a second that most programs need not wait.
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.ops import StochasticDepth

    net = get_model(name, weights=None)
    for module in net.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    _round_sides_up(net)
    extractor = create_feature_extractor(
        net,
        list(TORCHVISION[name].stages),
        tracer_kwargs={"leaf_modules": [PatchConv2d, SameMaxPool2d]},
    )
    # Its graphs for training and evaluation are the same, as modules hold all that differs. One of
    # them alone is not exchanged with every change of mode, which torch.compile would have to
    # translate anew.
    graph = extractor.train_graph
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (list(output.args[0].values()),)
    return fx.GraphModule(extractor, graph)


def names_of_torchvision(name: str) -> frozenset[str]:
    """Return the names in the state dict of a network of torchvision, its classifier included."""
    from torchvision.models import get_model

    with torch.device("meta"):
        return frozenset(get_model(name, weights=None).state_dict())


class SameMaxPool2d(nn.Module):
    """``resnet.max_pool_same``: torchvision's pooling in SqueezeNet, but n / 2 is rounded up."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        return max_pool_same(x)


class PatchConv2d(nn.Conv2d):
    """A convolution of patches that lie side by side, the last ones filled up with zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        stride = self.stride[0]
        right, below = -x.shape[-1] % stride, -x.shape[-2] % stride
        return super().forward(F.pad(x, (0, right, 0, below)) if right or below else x)


def _round_sides_up(net: nn.Module) -> None:
    """Change what rounds down in SqueezeNet and ConvNeXt; where sides divide, nothing changes.

    Apart from SqueezeNet's stem, whose windows then begin a pixel earlier.
    """
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d) and child.padding == 0:
                setattr(parent, name, SameMaxPool2d())
            elif isinstance(child, nn.Conv2d) and child.stride != (1, 1):
                if child.kernel_size == child.stride:
                    child.__class__ = PatchConv2d
                elif child.kernel_size == (3, 3):
                    child.padding = (1, 1)
