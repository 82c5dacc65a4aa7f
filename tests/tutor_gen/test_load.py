from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import pytest
import torch

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.detectron2.kind import SAMPLE_FILES as SAMPLE
from kdcli.tutor_gen.registry import load_tutor, load_tutors


def test_none_is_no_tutor() -> None:
    assert load_tutor("none", "detection") is None
    with pytest.raises(TutorError, match="both tutors are 'none'"):
        load_tutors(generation_config(detection__tutor="none", segmentation__tutor="none"))


def test_sample_means_another_model_for_each_role() -> None:
    pair = load_tutors(
        generation_config(
            detection__tutor="sample",
            segmentation__tutor="sample",
            detection__score_threshold=0.01,
            segmentation__score_threshold=0.05,
        )
    )
    detection, segmentation = pair.detection, pair.segmentation
    assert detection is not None
    assert segmentation is not None
    assert detection.description["name"] == "detection.yaml"
    assert segmentation.description["name"] == "segmentation.yaml"
    assert detection.description["score_threshold"] == 0.01
    assert segmentation.description["score_threshold"] == 0.05


def test_one_model_named_twice_is_loaded_once_with_the_lower_floor() -> None:
    config, weights = str(SAMPLE / "segmentation.yaml"), SAMPLE / "segmentation.pth"
    pair = load_tutors(
        generation_config(
            detection__tutor=config,
            segmentation__tutor=config,
            detection__weights=str(weights),
            segmentation__weights=str(weights),
            detection__score_threshold=0.001,
            segmentation__score_threshold=0.05,
        )
    )
    detection, segmentation = pair.detection, pair.segmentation
    assert detection is segmentation
    assert segmentation is not None
    assert segmentation.description["score_threshold"] == 0.001


def test_short_and_full_name_of_a_zoo_model_are_one_model() -> None:
    pair = load_tutors(
        generation_config(
            detection__tutor="panoptic_fpn_R_50_1x",
            segmentation__tutor="COCO-PanopticSegmentation/panoptic_fpn_R_50_1x",
            detection__weights="random:1",
            segmentation__weights="random:1",
        )
    )
    detection, segmentation = pair.detection, pair.segmentation
    assert detection is segmentation
    assert detection is not None


def test_weights_alone_are_no_tutor(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    path.touch()
    with pytest.raises(TutorError, match=r"model_final\.pkl holds weights only; name the model's"):
        load_tutor(str(path), "detection")


@pytest.mark.parametrize("weights", [None, "random:1"])
@pytest.mark.parametrize(
    ("name", "what"),
    [
        (
            "mask_rcnn.py",
            r"a Python configuration \(such as Detectron2's LazyConfig\), a program, wh",
        ),
        ("Train.ipynb", "a notebook, which kdcli does not run; name a Detectron2 configuration"),
        ("model.engine", "a TensorRT engine"),
        ("model.pt2", r"a program of torch\.export"),
        ("model.safetensors", r"safetensors holds weights only; name the model's configuration"),
    ],
)
def test_files_of_other_kinds_are_said_to_be_what_they_are(
    tmp_path: Path, name: str, what: str, weights: str | None
) -> None:
    path = tmp_path / name
    path.write_text("model = None\n")
    with pytest.raises(TutorError, match=what) as error:
        load_tutor(str(path), "detection", weights=weights)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["best.pt", "model_final.pth", "no_ending"])
@pytest.mark.parametrize("form", ["archive", "legacy", "pickle"])
def test_what_torch_save_wrote_is_no_torchscript(tmp_path: Path, name: str, form: str) -> None:
    path = tmp_path / name
    if form == "pickle":
        path.write_bytes(pickle.dumps({"w": 1}))
    else:
        torch.save({"w": torch.ones(1)}, path, _use_new_zipfile_serialization=form == "archive")
    with pytest.raises(
        TutorError, match=r"holds weights only; .* by torch\.jit\.save, not by torc"
    ):
        load_tutor(str(path), "detection")


def test_torchscript_is_known_by_its_content_not_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Identity()), str(path))
    with pytest.raises(TutorError, match=r"needs a sidecar file .*model\.pth\.toml does not exist"):
        load_tutor(str(path), "detection")
    (tmp_path / "model.pth.toml").mkdir()
    with pytest.raises(TutorError, match=r"model\.pth\.toml cannot be read: Is a directory"):
        load_tutor(str(path), "detection")


def test_a_folder_and_a_zoo_model_that_is_a_program_are_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(TutorError, match="is a folder, not a model's file"):
        load_tutor(str(tmp_path), "detection")
    for name in (
        "new_baselines/mask_rcnn_R_101_FPN_400ep_LSJ",
        "mask_rcnn_R_50_FPN_400ep_LSJ.py",
        "COCO-Detection/fcos_R_50_FPN_1x.py",
    ):
        with pytest.raises(TutorError, match="is a LazyConfig of Detectron2's zoo"):
            load_tutor(name, "detection")


@pytest.mark.parametrize("spec", ["no/such/file.yaml", "file.pt", "mask_rcnn"])
def test_what_is_neither_file_nor_name_is_refused(spec: str) -> None:
    with pytest.raises(TutorError, match="neither a file nor a model"):
        load_tutor(spec, "detection")


def test_a_torchscript_file_without_sidecar_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.touch()
    with pytest.raises(TutorError, match=r"needs a sidecar file .*model\.pt\.toml does not exist"):
        load_tutor(str(path), "detection")
