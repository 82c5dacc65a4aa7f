"""The ONNX file: what ONNX Runtime computes from it is what PyTorch computes."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcli.common.errors import ResourceError, StudentError
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.geometry import Transform
from kdcli.student.evaluation.onnx import export_onnx
from kdcli.student.model.decode import BoxLimits, detect
from kdcli.student.model.preprocessing import normalise
from kdcli.student.runs.load import load_run
from kdcli.student.training.train import train
from kdcli.voc.classes import CLASSES
from kdcli.voc.devkit import Devkit

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra onnx",
)


@pytest.fixture
def run(devkit: Devkit, small: Callable[..., RunConfig], tmp_path: Path) -> Path:
    train(small(optim__steps=2), devkit, None, tmp_path / "run")
    return tmp_path / "run"


@needs_onnx
def test_the_file_says_what_the_student_says(devkit: Devkit, run: Path, tmp_path: Path) -> None:
    """Of photographs, in a batch of another size than the exporter saw."""
    import onnxruntime

    written = export_onnx(run, tmp_path / "deep" / "student.onnx")
    assert written.difference is not None
    assert written.difference < 1e-4
    assert [item.name for item in written.path.parent.iterdir()] == ["student.onnx"]
    session = onnxruntime.InferenceSession(written.path)
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["classes"].split(",") == list(CLASSES)
    assert facts["step"] == "2"
    ids = devkit.image_ids("Main/trainval")[:5]
    images = [devkit.read_image(name) for name in ids]
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    squares = np.stack(
        [Transform.whole(*size, 64).image(im) for im, size in zip(images, sizes, strict=True)]
    )
    outputs = session.run(None, {"images": squares})
    boxes, probabilities, segmentation = (torch.from_numpy(output) for output in outputs)
    model = load_run(run).model
    with torch.no_grad():
        said = model(normalise(torch.from_numpy(squares).permute(0, 3, 1, 2), model.config))
    assert torch.equal(segmentation.argmax(dim=1), said["segmentation"].argmax(dim=1))
    for index, found in enumerate(
        detect(said["detection"], model.anchors, sizes, BoxLimits(score=0.0))
    ):
        height, width = sizes[index]
        pixels = boxes[index] * torch.tensor([width, height, width, height])
        assert len(found.boxes) > 10
        for box, label, confidence in zip(found.boxes, found.labels, found.scores, strict=True):
            near = (pixels - box).abs().amax(dim=1) < 0.01
            assert (probabilities[index, near, label] - confidence).abs().min() < 1e-5


def test_a_missing_package_is_named_with_the_extra(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StudentError, match=r"onnx.*pip install 'kdcli\[onnx\]'"):
        export_onnx(run, tmp_path / "student.onnx")


@needs_onnx
def test_a_file_that_cannot_be_written_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"file/student\.onnx: cannot be written"):
        export_onnx(run, tmp_path / "file" / "student.onnx")


@needs_onnx
@pytest.mark.parametrize(
    ("task", "outputs", "section"),
    [
        ("detection", ["boxes", "probabilities"], "output"),
        ("segmentation", ["segmentation"], "semantic"),
    ],
)
def test_one_task_alone_is_exported_as_a_tutor_of_its_role(
    devkit: Devkit,
    small: Callable[..., RunConfig],
    tmp_path: Path,
    task: str,
    outputs: list[str],
    section: str,
) -> None:
    import onnxruntime

    train(small(optim__steps=1, model__tasks=[task]), devkit, None, tmp_path / "run")
    written = export_onnx(tmp_path / "run", tmp_path / "student.onnx")
    assert written.difference is not None
    assert written.difference < 1e-4
    session = onnxruntime.InferenceSession(written.path)
    assert [output.name for output in session.get_outputs()] == outputs
    sidecar = tomllib.loads(session.get_modelmeta().custom_metadata_map["kdcli_sidecar"])
    assert sidecar.keys() == {"input", section}
