"""What a file is that a user names where it does not fit, so that a message can say it."""

from __future__ import annotations

import zipfile
from pathlib import Path

CONFIG_ENDINGS = (".yaml", ".yml")
_WEIGHT_ENDINGS = (".pkl", ".pth", ".pyth", ".safetensors")
_BY_ENDING = {
    ".py": "a Python configuration (such as Detectron2's LazyConfig), a program",
    ".ipynb": "a notebook",
    ".json": "a JSON file",
    ".toml": "a sidecar, which lies beside a model's file",
    ".onnx": "an ONNX model",
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".tflite": "a TensorFlow model",
    ".pb": "a TensorFlow model",
    ".h5": "a Keras model",
    ".keras": "a Keras model",
    ".pt2": "a program of torch.export",
}
_PICKLE = b"\x80"


def other_kind(path: Path) -> str | None:
    """Say what a file or folder is that is neither TorchScript nor weights; None if it may be.

    >>> other_kind(Path("model.onnx"))
    'an ONNX model'
    """
    if path.is_dir():
        return "a folder"
    return _BY_ENDING.get(path.suffix.lower())


def holds_weights(path: Path) -> bool:
    """Whether a file holds weights, or a pickled model: by its content, or else by its ending."""
    members = _zip_members(path)
    if members is not None:  # torch.save and torch.jit.save both write archives
        return any(name.endswith("/data.pkl") for name in members) and not is_torchscript(path)
    with path.open("rb") as file:
        return path.suffix in _WEIGHT_ENDINGS or file.read(1) == _PICKLE


def is_torchscript(path: Path) -> bool:
    """Whether ``torch.jit.save`` wrote a file."""
    return any(name.endswith("/constants.pkl") for name in _zip_members(path) or ())


def _zip_members(path: Path) -> list[str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return None
