"""TorchScript as the engine of an export."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401  (registers the operators nms and roi_align)

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.engine import FailedError, contained


class TorchScript:
    """A TorchScript file, loaded. Quantised ones run on the CPU only.

    Raises:
        TutorError: no TorchScript file, or a quantised one for another device.
    """

    what = "a TorchScript file"
    kind = "torchscript"
    takes_bytes = False

    def __init__(self, path: Path, device: torch.device) -> None:
        if device.type != "cpu" and _is_quantised(_load(path, torch.device("cpu"))):
            raise TutorError(
                f"{path} is a quantised (int8) export, which PyTorch computes on the CPU only: use "
                "--device cpu"
            )
        self._model = _load(path, device)

    def __call__(self, pixels: torch.Tensor, container: str) -> Any:
        """Run it; see `tutor_gen.exported.engine.Engine`."""
        try:
            with torch.inference_mode():
                return self._model(contained(pixels, container))
        except (RuntimeError, TypeError) as error:
            raise FailedError(str(error).strip().splitlines()[-1]) from None


def _load(path: Path, device: torch.device) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch deprecates TorchScript
            model = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
            return model.eval()
    except (RuntimeError, ValueError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TutorError(f"{path} is not a readable TorchScript file: {reason}") from None


def _is_quantised(model: Any) -> bool:
    """Whether an export uses operators of whole numbers, in whichever of its functions."""
    return "quantized::" in str(model.inlined_graph)
