"""ONNX Runtime as the engine of an export."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.engine import FailedError, contained

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
}
SIDECAR = "kdcli_sidecar"
"""The entry of a file's metadata that says what a sidecar says, where none lies beside it."""


class Onnx:
    """An ONNX file in ONNX Runtime, on a GPU where the installed one can use it.

    Raises:
        TutorError: ONNX Runtime is not installed, no ONNX file, or one that wants something else
            than one image.
    """

    what = "an ONNX file"
    kind = "onnx"

    def __init__(self, path: Path, device: torch.device) -> None:
        runtime = _runtime(path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # its warnings are about what a user cannot change
        try:
            session = runtime.InferenceSession(
                str(path), options, providers=_providers(runtime, device)
            )
        # Its errors share no class of their own.
        except Exception as error:
            raise TutorError(f"{path} is not a readable ONNX file: {_line(error)}") from None
        self._session = session
        self._input, self._dtype = _input(path, session.get_inputs())
        self._outputs = [output.name for output in session.get_outputs()]
        self.takes_bytes = self._dtype is torch.uint8
        self.sidecar: str | None = session.get_modelmeta().custom_metadata_map.get(SIDECAR)

    def __call__(self, pixels: torch.Tensor, container: str) -> Any:
        """Run it; see `tutor_gen.exported.engine.Engine`. Outputs by name, in their order."""
        if container == "list":
            raise FailedError("an ONNX file takes no list: it is 'batch' or 'image'")
        given = contained(pixels, container).to(self._dtype).cpu().numpy()
        try:
            outputs = self._session.run(self._outputs, {self._input: given})
        except Exception as error:
            raise FailedError(_line(error)) from None
        return dict(zip(self._outputs, map(_as_tensor, outputs), strict=True))


def _runtime(path: Path) -> Any:
    if importlib.util.find_spec("onnxruntime") is None:
        raise TutorError(
            f"{path} is an ONNX file, which needs the package onnxruntime: "
            "pip install 'kdcli[onnx]'"
        )
    return importlib.import_module("onnxruntime")


def _providers(runtime: Any, device: torch.device) -> list[Any]:
    """A GPU's first, in full float32, where it is wanted and the installed runtime has it."""
    gpu = ("CUDAExecutionProvider", {"device_id": device.index or 0, "use_tf32": 0})
    has_gpu = device.type == "cuda" and gpu[0] in runtime.get_available_providers()
    return [*([gpu] if has_gpu else []), "CPUExecutionProvider"]


def _input(path: Path, inputs: Any) -> tuple[str, torch.dtype]:
    """Name and type of an export's one input."""
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
        raise TutorError(f"{path} wants {len(inputs)} inputs ({names}); a tutor gives an image")
    if inputs[0].type not in _DTYPES:
        raise TutorError(
            f"{path} wants its image as {inputs[0].type}; a tutor gives one of {', '.join(_DTYPES)}"
        )
    return inputs[0].name, _DTYPES[inputs[0].type]


def _as_tensor(value: Any) -> Any:
    """An array of numbers as a tensor; texts and sequences, which no sidecar can mean, as it is."""
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    return torch.from_numpy(value) if numbers else value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
