from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.detectron2.weights import check_named_digest, read_checkpoint


class Calls:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def write_pickle(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_zoo_files_are_read_whatever_the_protocol(tmp_path: Path, protocol: int) -> None:
    weights = OrderedDict(
        a=np.arange(6, dtype=np.float32).reshape(2, 3),
        b=np.float32(4.5),
        c=np.asfortranarray(np.eye(3, dtype=np.float64)),
        half=np.array([0.5, 2.0], dtype=np.float16),
        count=np.array(7, dtype=np.int64),
    )
    content = {"model": weights, "__author__": "someone", "matching_heuristics": True}
    checkpoint = read_checkpoint(write_pickle(tmp_path / "w.pkl", content, protocol))
    assert checkpoint["__author__"] == "someone"
    assert checkpoint["matching_heuristics"] is True
    model = checkpoint["model"]
    assert list(model) == list(weights)
    for name, expected in weights.items():
        np.testing.assert_array_equal(model[name].numpy(), expected)
    assert model["half"].dtype == torch.float32
    assert model["count"].dtype == torch.int64


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_files_of_older_and_newer_numpy_are_read(tmp_path: Path, package: bytes) -> None:
    here = np.empty(0).__reduce__()[0].__module__.removesuffix(".multiarray").encode()
    content = {"model": {"w": np.arange(3.0), "s": np.float64(2)}}
    path = write_pickle(tmp_path / "w.pkl", content)
    path.write_bytes(path.read_bytes().replace(here, package))
    assert package + b".multiarray" in path.read_bytes()
    model = read_checkpoint(path)["model"]
    assert (model["w"].tolist(), model["s"].item()) == ([0, 1, 2], 2)


def test_caffe2_files_lose_their_momenta_and_ask_for_name_matching(tmp_path: Path) -> None:
    blobs = {"conv1_w": np.ones(3, np.float32), "conv1_w_momentum": np.ones(3, np.float32)}
    checkpoint = read_checkpoint(write_pickle(tmp_path / "w.pkl", {"blobs": blobs}))
    assert list(checkpoint["model"]) == ["conv1_w"]
    assert checkpoint["matching_heuristics"] is True


@pytest.mark.parametrize("wrapped", [True, False])
def test_pth_files_are_widened_to_single_precision(tmp_path: Path, wrapped: bool) -> None:
    weights = {"w": torch.tensor([1.5, -2.0]).half(), "n": torch.tensor(3)}
    torch.save({"model": weights} if wrapped else weights, tmp_path / "w.pth")
    model = read_checkpoint(tmp_path / "w.pth")["model"]
    assert model["w"].dtype == torch.float32
    assert model["w"].tolist() == [1.5, -2.0]
    assert model["n"].dtype == torch.int64


NUMPY = {
    "score": np.float64(41.25),
    "step": np.int64(7),
    "flag": np.bool_(True),
    "name": np.str_("best"),
    "means": np.arange(6, dtype=np.float32).reshape(2, 3),
}


@pytest.mark.parametrize("archive", [True, False])
def test_numpy_numbers_beside_weights_are_read(tmp_path: Path, archive: bool) -> None:
    path = tmp_path / "w.pth"
    content = {"model": {"w": torch.ones(2), "a": np.eye(2)}, **NUMPY}
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    model = read_checkpoint(path)["model"]
    assert model["w"].tolist() == [1, 1]
    assert model["a"].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_pth_files_of_older_and_newer_numpy_are_read(tmp_path: Path, package: bytes) -> None:
    here = np.empty(0).__reduce__()[0].__module__.removesuffix(".multiarray").encode()
    path = tmp_path / "w.pth"
    content = {"model": {"w": torch.ones(2)}, **NUMPY}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(here + b".multi", package + b".multi"))
    assert package + b".multiarray" in path.read_bytes()
    assert list(read_checkpoint(path)["model"]) == ["w"]


def test_arrays_among_tensors_ask_for_no_name_matching(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "score": np.ones(1)}, tmp_path / "w.pth")
    assert "matching_heuristics" not in read_checkpoint(tmp_path / "w.pth")


class Settings(dict[str, int]):
    """Stands for a CfgNode, a DictConfig and their like."""


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    ("beside", "name"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (Settings(lr=1), f"{__name__}.Settings"),
        (Path("x"), r"pathlib\.[\w.]+"),
        (np.array([{}]), "numpy.dtypes.ObjectDType"),
    ],
)
def test_other_classes_are_refused_by_name(
    tmp_path: Path, beside: object, name: str, archive: bool
) -> None:
    path = tmp_path / "w.pth"
    content = {"model": {"w": torch.ones(2)}, "args": beside}
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(
        TutorError, match=rf"w\.pth is refused: .* '{name}', .*save its weights alon"
    ):
        read_checkpoint(path)


def test_files_of_other_kinds_are_said_to_be_what_they_are(tmp_path: Path) -> None:
    for name, what in (
        ("model.yaml", "a configuration, no file of weights"),
        ("model.py", "a Python configuration"),
        ("model.onnx", "an ONNX model, no file of weights"),
        ("model.safetensors", r"a file of safetensors; save its weights as PyTorch does"),
    ):
        (tmp_path / name).touch()
        with pytest.raises(TutorError, match=f"{name} is {what}"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(TutorError, match="is a folder, no file of weights"):
        read_checkpoint(tmp_path)
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Identity()), str(path))
    with pytest.raises(TutorError, match="is a TorchScript file, a tutor by itself: name it with"):
        read_checkpoint(path)


HOSTILE = {
    "a shell command": Calls(os.system, "echo hit >> {mark}"),
    "Python source": Calls(eval, "open({mark!r}, 'w').write('hit')"),
    "an import": Calls(__import__, "antigravity"),
    "a method by name": Calls(getattr, np.ndarray, "tofile"),
    "a file opened by NumPy": Calls(np.save, "{mark}", np.zeros(1)),
    "PyTorch's own unsafe reader": Calls(torch.load, "{mark}"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("ending", ["pkl", "pth"])
def test_hostile_files_are_refused_and_run_nothing(tmp_path: Path, name: str, ending: str) -> None:
    mark = tmp_path / "mark"
    hostile = HOSTILE[name]
    function, arguments = hostile.__reduce__()
    named = [a.format(mark=str(mark)) if isinstance(a, str) else a for a in arguments]
    content = {"model": {"w": np.ones(2, np.float32), "x": Calls(function, *named)}}
    path = tmp_path / f"weights.{ending}"
    if ending == "pkl":
        write_pickle(path, content)
    else:
        torch.save(content, path)
    with pytest.raises(TutorError, match=r"weights\.(pkl is refused: .* could run any code|pth)"):
        read_checkpoint(path)
    assert not mark.exists()


def test_the_hostile_files_would_have_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = write_pickle(tmp_path / "w.pkl", Calls(os.system, f"echo hit >> {mark}"))
    with path.open("rb") as file:
        pickle.load(file)
    assert mark.exists()


def test_pickles_cannot_change_the_admitted_functions(tmp_path: Path) -> None:
    # The admitted function, then BUILD with (None, {"_function": numpy.ndarray}).
    state = b"N}U\x09_functioncnumpy\nndarray\ns\x86"
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\n" + state + b"b.")
    with pytest.raises(TutorError, match="tries to change a function"):
        read_checkpoint(path)


def test_odd_codecs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.")
    with pytest.raises(TutorError, match="codec 'rot13'"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dictionary of weights, got list"),
        ({}, "holds no weights"),
        ({"model": {"w": "text"}}, "expected 'w' to be an array of numbers, got str"),
        ({"model": {"w": np.array([{}])}}, "expected 'w' to be an array of numbers"),
    ],
)
def test_files_without_weights_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(TutorError, match=message):
        read_checkpoint(write_pickle(tmp_path / "w.pkl", content))


@pytest.mark.parametrize("ending", ["pkl", "pth", "pyth"])
def test_damaged_and_missing_files_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"w.{ending}"
    with pytest.raises(TutorError, match="does not exist"):
        read_checkpoint(path)
    for content in (b"", b"not weights", b"torn", pickle.dumps({"model": np.ones(9)})[:40]):
        path.write_bytes(content)
        with pytest.raises(TutorError, match=f"{path.name} cannot be read"):
            read_checkpoint(path)


def test_zoo_files_are_checked_against_their_name(tmp_path: Path) -> None:
    path = tmp_path / "model_final_000000.pkl"
    path.write_bytes(b"weights")
    prefix = hashlib.md5(b"weights").hexdigest()[:6]
    check_named_digest(path, f"model_final_{prefix}.pkl")
    with pytest.raises(TutorError, match=f"beginning with 000000, got {prefix}"):
        check_named_digest(path, path.name)


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"abc")
    assert sha256_file(tmp_path / "w") == hashlib.sha256(b"abc").hexdigest()
