"""ImageNet weights for the trunk, from a file with torchvision's names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdcli.common.errors import StudentError
from kdcli.common.names import listed_names
from kdcli.common.torch_file import read_torch_file, reason
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.conventions import convert_stem, guess_convention
from kdcli.student.model.torchvision_trunk import names_of_torchvision
from kdcli.student.model.trunks import BLITZNET_RESNET

_REMEDY = "Give a file for this trunk as init.trunk, or set model.trunk to the file's network."
_SHOWN = 3


@dataclass(frozen=True)
class WeightReport:
    """What came out of a weights file; names as in torchvision, sorted.

    Attributes:
        loaded: parameters and statistics taken from the file.
        missing: what the trunk has and the file lacks; initialised at random, and the statistics
            of a batch norm behind a missing convolution reset to mean 0, variance 1.
        unexpected: what the file has and the trunk has no use for (the classifier, for one).
        convention: the inputs that the file was trained on, a name of ``PREPROCESSING``.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    convention: str


def load_trunk(model: BlitzNet, path: Path, convention: str | None = None) -> WeightReport:
    """Load the trunk of a model from a state dict with torchvision's names.

    The file is read without running any code from it (`weights_only`); half precision is fine.

    `blitznet-resnet` takes a ResNet's weights as far as the file goes; a bias that some
    convolutions of other frameworks have is expected to be folded into the `running_mean` behind
    it. Published torchvision weights have the stride in the 3x3 convolutions, BlitzNet in the
    first 1x1; the shapes are the same and training adapts. For a torchvision network the file has
    to hold the whole trunk, and nothing that is no part of that network; the classifier is not
    used.

    A file that was trained on other inputs than the model reads (`model.preprocessing`) is
    converted, see `conventions`. Without a choice, the statistics of the first batch norm tell
    which inputs these were; a file without one is believed to fit.

    Args:
        model: Whose trunk.
        path: The file.
        convention: The inputs that the file was trained on, a name of ``PREPROCESSING``.

    Raises:
        StudentError: there is no such file, it is no state dict, it has nothing of the trunk, or
            not what it has to have, or a shape differs.
    """
    state = _read_state(path)
    expected = model.trunk.state_dict()
    wanted = [name for name in expected if not name.endswith("num_batches_tracked")]
    found = {name: value for name, value in state.items() if name in wanted}
    trunk, own = model.config.trunk, model.config.input_convention
    _check_names(trunk, path, state, found, wanted)
    _check_shapes(trunk, path, found, expected)
    convention = convention or guess_convention(model.trunk, found, own)
    model.trunk.load_state_dict(convert_stem(model.trunk, found, convention, own), strict=False)
    missing = tuple(sorted(set(wanted) - found.keys()))
    _reset_statistics(model.trunk, missing)
    ignored = (name for name in state if name not in expected)
    return WeightReport(tuple(sorted(found)), missing, tuple(sorted(ignored)), convention)


def _check_names(
    trunk: str,
    path: Path,
    state: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    wanted: Sequence[str],
) -> None:
    if not found:
        raise StudentError(
            f"{path}: expected weights under torchvision's {_family(trunk)} names "
            f"({listed_names(wanted, _SHOWN)}), got "
            f"{listed_names(state, _SHOWN) or 'an empty state dict'}. {_REMEDY}"
        )
    if trunk == BLITZNET_RESNET:
        return
    known = names_of_torchvision(trunk)
    faults = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in state if name not in known],
    }
    said = [
        f"{len(names)} are {what} ({listed_names(names, _SHOWN)})"
        for what, names in faults.items()
        if names
    ]
    if said:
        raise StudentError(
            f"{path}: these are not the weights of torchvision's {trunk}: {', '.join(said)}. "
            f"{_REMEDY}"
        )


def _check_shapes(
    trunk: str, path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    remedy = "a model with the full ResNet-50 trunk is needed to use it."
    for name, value in found.items():
        if value.shape != expected[name].shape:
            raise StudentError(
                f"{path}: expected {name} of shape {tuple(expected[name].shape)} for this model, "
                f"got {tuple(value.shape)}. The file is for another network"
                + (f"; {remedy}" if trunk == BLITZNET_RESNET else f". {_REMEDY}")
            )


def _family(trunk: str) -> str:
    return "ResNet" if trunk == BLITZNET_RESNET else trunk


def _read_state(path: Path) -> dict[str, Tensor]:
    remedy = "Expected a state dict saved by torch.save."
    try:
        loaded = read_torch_file(path)
    except FileNotFoundError:
        raise StudentError(f"{path}: no such file. Give the path of the trunk's weights.") from None
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
