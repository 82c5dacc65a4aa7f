"""Reading weight files without running what they contain.

Detectron2's ``.pkl`` files are pickles, and a pickle can name any function and have it called. Here
only NumPy arrays and plain containers are admitted; ``.pth`` files are read by PyTorch with
``weights_only``, which does the same with tensors, and here with NumPy's arrays and numbers, too.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.common.errors import TutorError
from kdcli.common.numpy_pickles import ARRAYS, PYTORCH
from kdcli.tutor_gen.tutors.file_kinds import CONFIG_ENDINGS, is_torchscript, other_kind

Checkpoint = dict[str, Any]
"""What Detectron2's checkpointer wants: the key ``"model"`` (name to tensor or array) and hints."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read weights from a ``.pkl``, ``.pth`` or ``.pyth`` file.

    Returns:
        A dictionary in Detectron2's form: ``"model"`` maps names to float32 tensors (half precision
        is widened, other types stay); ``"matching_heuristics"`` and ``"__author__"`` as they were.

    Raises:
        TutorError: the file is missing, damaged, or holds anything but weights.
    """
    _check_kind(path)
    content = _read_pickle(path) if path.suffix == ".pkl" else _read_torch(path)
    if not isinstance(content, Mapping):
        raise TutorError(f"{path}: expected a dictionary of weights, got {_type(content)}")
    hints, weights = _split(content)
    if not weights:
        raise TutorError(f"{path} holds no weights")
    return {**hints, "model": {name: _as_tensor(path, name, w) for name, w in weights.items()}}


def check_named_digest(path: Path, expected_name: str) -> None:
    """Check a model-zoo file against the MD5 prefix that its official name ends with.

    Args:
        path: the file to check.
        expected_name: its official name, such as ``model_final_280758.pkl``.

    Raises:
        TutorError: the content's MD5 does not begin with the name's six digits.
    """
    prefix = expected_name.removesuffix(".pkl").rsplit("_", 1)[-1]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if not digest.startswith(prefix):
        raise TutorError(
            f"{path} is not the intact {expected_name}: expected an MD5 beginning with {prefix}, "
            f"got {digest[:6]}; download it again"
        )


def _check_kind(path: Path) -> None:
    """Say what a file is that holds no weights, or holds them in another way."""
    kind = "a configuration" if path.suffix in CONFIG_ENDINGS else other_kind(path)
    if kind is not None:
        raise TutorError(f"{path} is {kind}, no file of weights (.pkl, .pth)")
    if not path.is_file():
        raise TutorError(f"the weights file {path} does not exist")
    if path.suffix == ".safetensors":
        raise TutorError(
            f"{path} is a file of safetensors; save its weights as PyTorch does: "
            "torch.save({'model': safetensors.torch.load_file(FILE)}, 'weights.pth')"
        )
    if is_torchscript(path):
        raise TutorError(
            f"{path} is a TorchScript file, a tutor by itself: name it with --detection-tutor or "
            "--segmentation-tutor, without weights"
        )


def _split(content: Mapping[str, Any]) -> tuple[Checkpoint, Mapping[str, Any]]:
    """Tell hints and weights apart in any of the forms that Detectron2 reads."""
    if "model" in content and isinstance(content["model"], Mapping):
        hints = {k: content[k] for k in ("__author__", "matching_heuristics") if k in content}
        return hints, content["model"]
    if "model_state" in content and isinstance(content["model_state"], Mapping):  # pycls
        return {"__author__": "pycls", "matching_heuristics": True}, content["model_state"]
    weights = content.get("blobs", content)  # Detectron 1 and Caffe 2
    if not isinstance(weights, Mapping):
        return {}, {}
    kinds = [type(value) for value in weights.values()]
    if np.ndarray in kinds and torch.Tensor not in kinds:
        kept = {name: w for name, w in weights.items() if not name.endswith("_momentum")}
        return {"__author__": "Caffe2", "matching_heuristics": True}, kept
    return {}, weights


def _as_tensor(path: Path, name: str, value: object) -> torch.Tensor:
    if isinstance(value, np.ndarray | np.generic) and np.asarray(value).dtype.kind in "fiub":
        value = torch.from_numpy(np.array(value))
    if not isinstance(value, torch.Tensor):
        raise TutorError(f"{path}: expected '{name}' to be an array of numbers, got {_type(value)}")
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


_REFUSED = re.compile(r"GLOBAL (\S+)|got <class '(\S+)'>")
"""How PyTorch names what it does not admit."""


def _read_torch(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(PYTORCH):
            return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged file can fail in about any way; none of them deserves a traceback.
    except Exception as error:
        if named := _REFUSED.search(str(error)):
            raise _refused(path, named[1] or named[2]) from None
        said = str(error).rsplit("WeightsUnpickler error:", 1)[-1].strip()
        reason = (said or _type(error)).splitlines()[0]
        raise TutorError(f"{path} cannot be read as a file of PyTorch weights: {reason}") from None


def _refused(path: Path, name: str) -> TutorError:
    return TutorError(
        f"{path} is refused: besides arrays it wants '{name}', which could run any code; if you "
        "trust the file, read it in Python and save its weights alone: "
        "torch.save({'model': weights}, 'weights.pth')"
    )


def _read_pickle(path: Path) -> object:
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, path).load()
    except TutorError:
        raise
    except Exception as error:
        raise TutorError(f"{path} cannot be read as a pickle of weights: {error}") from None


def _type(value: object) -> str:
    return type(value).__name__


class _Admitted:
    """A callable that a pickle may use but not change (pickles can set attributes)."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> object:
        return self._function(*arguments)  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise pickle.UnpicklingError("it tries to change a function")


def _array_from_buffer(
    buffer: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any, *_: object
) -> NDArray[Any]:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order).copy()


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2; no other codec is admitted."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec '{encoding}'")
    return text.encode("latin1")


_CONTAINERS: dict[str, object] = {
    **ARRAYS,
    "collections.OrderedDict": OrderedDict,
    "numpy.core.numeric._frombuffer": _Admitted(_array_from_buffer),
    "numpy._core.numeric._frombuffer": _Admitted(_array_from_buffer),
    "_codecs.encode": _Admitted(_latin1_bytes),
}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows arrays and plain containers and refuses every other name."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        # Python 2 wrote the older files: latin1 keeps their byte strings as they are.
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> object:
        try:
            return _CONTAINERS[f"{module}.{name}"]
        except KeyError:
            raise _refused(self._path, f"{module}.{name}") from None
