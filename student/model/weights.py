"""ImageNet weights for the trunk, from a file with torchvision's names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from kdcli.common.errors import StudentError
from kdcli.common.torch_file import read_torch_file, reason
from kdcli.student.model.blitznet import BlitzNet

InputConvention = Literal["bgr-255", "rgb-unit"]

_RGB_STD = (0.229, 0.224, 0.225)  # torchvision's normalisation of inputs in 0..1
_INPUT_VARIANCE_BETWEEN = 60.0  # far above that of unit inputs, far below that of 0..255 ones


@dataclass(frozen=True)
class WeightReport:
    """What came out of a weights file; names as in torchvision's ResNet, sorted.

    Attributes:
        loaded: parameters and statistics taken from the file.
        missing: what the trunk has and the file lacks; initialised at random, and the statistics
            of a batch norm behind a missing convolution reset to mean 0, variance 1.
        unexpected: what the file has and the trunk has no use for (the classifier, for one).
        convention: the inputs that the file was trained on.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    convention: InputConvention


def load_trunk(
    model: BlitzNet, path: Path, convention: InputConvention | None = None
) -> WeightReport:
    """Load the trunk of a model from a ResNet state dict, as far as the file goes.

    The file is read without running any code from it (`weights_only`). Names are torchvision's;
    half precision is fine; a bias that some convolutions of other frameworks have is expected to
    be folded into the `running_mean` behind it. A partial file loads what it has.

    Two input conventions are known: "bgr-255" (Caffe and its descendants: BGR, 0..255 minus the
    mean), which is BlitzNet's own, and "rgb-unit" (torchvision: RGB, 0..1, normalised), for which
    the stem convolution is converted: input channels reversed, weights divided by 255 and by the
    channels' standard deviations. The means of both agree to 0.5 of 255. Without a choice, the
    statistics of the first batch norm tell which one it is. Published torchvision weights have the
    stride in the 3x3 convolutions, BlitzNet in the first 1x1; the shapes are the same and training
    adapts.

    Raises:
        StudentError: there is no such file, it is no state dict, it has nothing of the trunk, or
            a shape differs.
    """
    state = _read_state(path)
    expected = model.trunk.state_dict()
    wanted = {name for name in expected if not name.endswith("num_batches_tracked")}
    found = {name: value for name, value in state.items() if name in wanted}
    if not found:
        some = ", ".join(sorted(state)[:3])
        raise StudentError(
            f"{path}: expected weights under torchvision's ResNet names (conv1.weight, "
            f"layer1.0.conv1.weight, ...), got {some or 'an empty state dict'}."
        )
    for name, value in found.items():
        if value.shape != expected[name].shape:
            raise StudentError(
                f"{path}: expected {name} of shape {tuple(expected[name].shape)} for this model, "
                f"got {tuple(value.shape)}. The file is for another network; a model with the full "
                f"ResNet-50 trunk is needed to use it."
            )
    convention = convention or _guess_convention(found)
    if convention == "rgb-unit" and "conv1.weight" in found:
        found["conv1.weight"] = _stem_for_bgr_255(found["conv1.weight"])
    model.trunk.load_state_dict(found, strict=False)
    missing = tuple(sorted(wanted - found.keys()))
    _reset_statistics(model.trunk, missing)
    ignored = (name for name in state if name not in expected)
    return WeightReport(tuple(sorted(found)), missing, tuple(sorted(ignored)), convention)


def _read_state(path: Path) -> dict[str, Tensor]:
    remedy = "Expected a state dict saved by torch.save."
    try:
        loaded = read_torch_file(path)
    except FileNotFoundError:
        raise StudentError(f"{path}: no such file. Give the path of ResNet weights.") from None
    except Exception as error:
        raise StudentError(
            f"{path}: not readable as weights ({reason(error)}). {remedy}"
        ) from error
    if isinstance(loaded, Mapping):
        for wrapper in ("state_dict", "model"):
            if isinstance(loaded.get(wrapper), Mapping):
                loaded = loaded[wrapper]
                break
    if not isinstance(loaded, Mapping):
        raise StudentError(f"{path}: got a {type(loaded).__name__}. {remedy}")
    numbers = {str(name): value for name, value in loaded.items() if _is_numbers(value)}
    return {name: torch.as_tensor(value) for name, value in numbers.items()}


def _is_numbers(value: object) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    )


def _guess_convention(found: Mapping[str, Tensor]) -> InputConvention:
    """Tell the convention from the variance of the inputs that the file saw.

    A filter w turns inputs of variance v into outputs of a variance of the order v * |w|^2, which
    is what the batch norm behind it has recorded: v is about 1 or about 60^2 = 3600.
    """
    weight, variance = found.get("conv1.weight"), found.get("bn1.running_var")
    if weight is None or variance is None:
        return "bgr-255"
    energy = weight.float().square().sum(dim=(1, 2, 3))
    alive = energy > 0
    ratio = (variance.float()[alive] / energy[alive]).median()
    return "rgb-unit" if ratio < _INPUT_VARIANCE_BETWEEN else "bgr-255"


def _stem_for_bgr_255(weight: Tensor) -> Tensor:
    """Stem weights (O, 3, 7, 7) for normalised RGB -> for BGR in 0..255 minus the mean."""
    std = torch.tensor(_RGB_STD).reshape(1, 3, 1, 1)
    return (weight.float() / (255 * std)).flip(1)


def _reset_statistics(trunk: nn.Module, missing: tuple[str, ...]) -> None:
    """Statistics of batch norms whose convolution is not from the file say nothing: reset them."""
    modules = dict(trunk.named_modules())
    for name in missing:
        convolution, _, kind = name.rpartition(".")
        if kind != "weight" or not isinstance(modules[convolution], nn.Conv2d):
            continue
        parent, _, leaf = convolution.rpartition(".")
        behind = leaf.replace("conv", "bn") if leaf.startswith("conv") else "1"
        norm = modules[f"{parent}.{behind}" if parent else behind]
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
